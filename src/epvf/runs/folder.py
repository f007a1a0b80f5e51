"""A run on disk: one folder that tells what was asked, what happened and what came out.

config.json     reproduces the run      run.json    argv, versions, devices, git state, status
metrics.jsonl   one line an iteration   tb/         the same for TensorBoard
checkpoints/    to resume from          policies/   best and last
nan/            policies whose rollouts were not finite
"""

import fcntl
import os
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias

from epvf.config import schema as configuration
from epvf.runs import provenance
from epvf.config.schema import Config
from epvf.errors import UserError
from epvf.files import one_line, read_json, write_json

FORMAT = "epvf-run/1"

Status: TypeAlias = Literal["running", "finished", "interrupted", "failed"]


class Run:
    """A run's folder. `create` or `open` one; close it when done, which also unlocks it.

    Attributes:
        path: of the folder.
        config: what the run was asked to do.
    """

    def __init__(self, path: Path, config: Config, lock: int) -> None:
        self.path = path
        self.config = config
        self._lock = lock

    @classmethod
    def create(cls, path: Path, config: Config, argv: Sequence[str]) -> "Run":
        """Makes the folder of a new run.

        Raises:
            UserError: if it is there already and not empty, or cannot be written.
        """
        check_free(path)
        try:
            for folder in ("checkpoints", "policies"):
                (path / folder).mkdir(parents=True, exist_ok=True)
            run = cls(path, config, _lock(path))
            write_json(run.config_file, configuration.to_dict(config))
            write_json(run.info_file, {"format": FORMAT} | _session(argv) | {"resumed": []})
        except OSError as error:
            raise UserError(f"cannot write run folder {path}: {one_line(error)}") from error
        return run

    @classmethod
    def open(cls, path: Path) -> "Run":
        """Opens a run to go on with it.

        Raises:
            UserError: if the folder is no run, cannot be written, or another process has it.
        """
        config = read_config(path)
        try:
            return cls(path, config, _lock(path))
        except OSError as error:
            raise UserError(f"cannot write run folder {path}: {one_line(error)}") from error

    @property
    def config_file(self) -> Path:
        return self.path / "config.json"

    @property
    def info_file(self) -> Path:
        return self.path / "run.json"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tb"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def nonfinite(self) -> Path:
        return self.path / "nan"

    @property
    def status(self) -> Status:
        """How the run's last session ended; `running` also if it was killed."""
        return read_info(self.path)["status"]

    def policy(self, which: str, seed: int | None = None) -> Path:
        """File of the `best` or `last` policy, of one seed or of all."""
        return policy_path(self.path, which, seed)

    def resumed(self, argv: Sequence[str]) -> None:
        """Notes that the run goes on."""
        info = read_info(self.path)
        info["resumed"] = [*info.get("resumed", []), _session(argv)]
        write_json(self.info_file, info | {"status": "running", "ended": None})

    def ended(self, status: Status, message: str | None = None) -> None:
        """Notes how the session ended."""
        info = read_info(self.path) | {"status": status, "ended": _now(), "message": message}
        write_json(self.info_file, info)

    def close(self) -> None:
        """Unlocks the folder."""
        os.close(self._lock)


def default_path(config: Config, preset: str) -> Path:
    """`runs/<task>/<YYYYmmdd-HHMMSS>[-<method>]-<preset>-s<seed>`, numbered if it is taken."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    word = preset if config.method == "epvf" else f"{config.method}-{preset}"
    base = Path("runs") / config.task.name / f"{stamp}-{word}-s{config.seed}"
    path, number = base, 1
    while path.exists():
        number += 1
        path = base.with_name(f"{base.name}-{number}")
    return path


def check_free(path: Path) -> None:
    """Checks that a new run may be made at a path.

    Raises:
        UserError: if something is there already, other than an empty folder.
    """
    try:
        taken = any(path.iterdir()) if path.is_dir() else path.exists()
    except OSError as error:
        raise UserError(f"cannot read {path}: {one_line(error)}") from error
    if taken:
        raise UserError(
            f"{path} exists already; choose another --out, or go on with it: epvf resume {path}"
        )
    parent = next((p for p in path.absolute().parents if p.exists()), None)
    if parent is None or not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"cannot write run folder {path}: {parent} is not a writable folder")


def read_info(path: Path) -> dict[str, Any]:
    """The contents of `run.json`.

    Raises:
        UserError: if the folder is no run of this version.
    """
    if not (path / "run.json").is_file():
        raise UserError(f"{path} is no run: it has no run.json")
    info = read_json(path / "run.json")
    if info.get("format") != FORMAT:
        raise UserError(f"{path} has format {info.get('format')!r}, but a run has {FORMAT!r}")
    return info


def read_config(path: Path) -> Config:
    """What a run was asked to do.

    Raises:
        UserError: if the folder is no run of this version.
    """
    read_info(path)
    return configuration.load(path / "config.json")


def policy_path(run: Path, which: str, seed: int | None = None) -> Path:
    """File of a run's `best` or `last` policy, of one seed or of all."""
    name = which if seed is None else f"seed{seed}-{which}"
    return run / "policies" / f"{name}.safetensors"


def _lock(path: Path) -> int:
    """Takes the folder for this process until the handle is closed, even by being killed."""
    handle = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise UserError(f"run {path} is in use by another process") from None
    return handle


def _session(argv: Sequence[str]) -> dict[str, Any]:
    return {
        "argv": list(argv),
        "python": sys.executable,
        "versions": provenance.versions(),
        "devices": provenance.devices(),
        "git": provenance.git_state(),
        "started": _now(),
        "ended": None,
        "status": "running",
    }


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
