"""A run on disk: one folder that tells what was asked, what happened and what came out.

config.json     reproduces the run      run.json    argv, versions, devices, git state, status
metrics.jsonl   one line an iteration   tb/         the same for TensorBoard
checkpoints/    to resume from          policies/   best and last
trail.safetensors   where θ has been    report.html   the page that sums it up
nan/            policies whose rollouts were not finite
"""

import errno
import fcntl
import itertools
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from epvf.config import schema as configuration
from epvf.config.schema import Config
from epvf.errors import UserError
from epvf.files import one_line, read_json, write_json
from epvf.policies.formats.registry import load_policy
from epvf.policies.formats.safetensors import SavedPolicy, save_policy
from epvf.runs import provenance

FORMAT = "epvf-run/2"
EARLIER = ("epvf-run/1",)
"""Formats that are still read; resuming such a run makes it one of the newest."""

LOCK = ".lock"

Status: TypeAlias = Literal["running", "finished", "interrupted", "failed"]


class Run:
    """A run's folder. `create` or `open` one; close it when done, which also unlocks it.

    Example:
        >>> import epvf, tempfile
        >>> folder = Path(tempfile.mkdtemp()) / "run"
        >>> config = epvf.preset("cartpole", "debug").replace({"iterations": 1})
        >>> result = epvf.train(config, out=folder)
        >>> run = Run.open(folder)
        >>> run.status, run.config.method.name, run.policy("best").name
        ('finished', 'epvf', 'best.safetensors')
        >>> run.close()

    Attributes:
        path: of the folder.
        config: what the run was asked to do.
    """

    def __init__(self, path: Path, config: Config, lock: int) -> None:
        self.path = path
        self.config = config
        self._lock = lock

    @classmethod
    def create(
        cls, path: Path, config: Config, argv: Sequence[str], init: SavedPolicy | None = None
    ) -> "Run":
        """Makes the folder of a new run.

        Args:
            path: of the folder.
            config: what the run is to do.
            argv: the command line.
            init: the policy that the run starts from; kept in the folder.

        Raises:
            UserError: if it is there already and not empty, or cannot be written.
        """
        check_free(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            return cls._made(path, config, argv, init)
        except OSError as error:
            raise UserError(f"cannot write run folder {path}: {one_line(error)}") from error

    @classmethod
    def create_default(
        cls, config: Config, preset: str, argv: Sequence[str], init: SavedPolicy | None = None
    ) -> "Run":
        """Makes the folder of a new run under a name that is free; see `default_path`.

        Runs that are started in the same second get numbers.

        Raises:
            UserError: if it cannot be written.
        """
        base = default_path(config, preset)
        for number in itertools.count(1):
            path = base if number == 1 else base.with_name(f"{base.name}-{number}")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.mkdir()
            except FileExistsError:
                continue
            except OSError as error:
                raise UserError(f"cannot write run folder {path}: {one_line(error)}") from error
            return cls.create(path, config, argv, init)
        raise AssertionError

    @classmethod
    def remake(cls, path: Path, config: Config, argv: Sequence[str]) -> "Run":
        """Makes a run anew where one was killed while its folder was made, or cannot go on.

        Raises:
            UserError: if another process has it, or it cannot be written.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = _lock(path)
        except OSError as error:
            raise UserError(f"cannot write run folder {path}: {one_line(error)}") from error
        with _closed_on_error(lock):
            for old in path.iterdir():
                if old.name == LOCK:
                    continue
                shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
            return cls._filled(path, config, argv, None, lock)

    @classmethod
    def _made(
        cls, path: Path, config: Config, argv: Sequence[str], init: SavedPolicy | None
    ) -> "Run":
        lock = _lock(path)
        with _closed_on_error(lock):
            # another process may have made a run here since it was looked at
            if any(other.name != LOCK for other in path.iterdir()):
                raise _taken(path)
            return cls._filled(path, config, argv, init, lock)

    @classmethod
    def _filled(
        cls,
        path: Path,
        config: Config,
        argv: Sequence[str],
        init: SavedPolicy | None,
        lock: int,
    ) -> "Run":
        for folder in ("checkpoints", "policies"):
            (path / folder).mkdir(exist_ok=True)
        run = cls(path, config, lock)
        if init is not None:
            save_policy(run.policy("init"), init.policy, init.theta, init.task, math.nan)
        write_json(run.config_file, configuration.to_dict(config))
        # last: a folder without it is no run yet
        write_json(run.info_file, {"format": FORMAT} | _session(argv) | {"resumed": []})
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
    def initial(self) -> np.ndarray | None:
        """`[P]` the policy that the run started from; None where its method drew it."""
        file = self.policy("init")
        return load_policy(file).theta if file.exists() else None

    def reconfigure(self, config: Config) -> None:
        """Changes what the run is asked to do; its checkpoints have to fit."""
        write_json(self.config_file, configuration.to_dict(config))
        self.config = config

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
    def trail(self) -> Path:
        """Where θ has been."""
        return trail_path(self.path)

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
        changed = {"format": FORMAT, "status": "running", "ended": None}
        write_json(self.info_file, info | changed)
        # of an earlier format, so that the folder is of one
        write_json(self.config_file, configuration.to_dict(self.config))

    def ended(self, status: Status, message: str | None = None) -> None:
        """Notes how the session ended."""
        info = read_info(self.path) | {"status": status, "ended": _now(), "message": message}
        write_json(self.info_file, info)

    def close(self) -> None:
        """Unlocks the folder."""
        os.close(self._lock)


def default_path(config: Config, preset: str) -> Path:
    """`runs/<task>/<YYYYmmdd-HHMMSS>[-<method>]-<preset>-s<seed>`; it may be taken."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    method = config.method.name
    word = preset if method == "epvf" else f"{method}-{preset}"
    task = re.sub(r"[^A-Za-z0-9_.-]+", "-", config.task.name).strip("-.")
    return Path("runs") / (task or "task") / f"{stamp}-{word}-s{config.seed}"


def extended(config: Config, iterations: int | None, env_steps: int | None) -> Config:
    """What a run is asked to do, with another end.

    Schedules keep the length that they had, and stay at their final values beyond it. The buffer
    keeps its room.

    Raises:
        UserError: if neither or both are given, or the end is not a later one.
    """
    if (iterations is None) == (env_steps is None):
        raise UserError("give either --iterations or --env-steps to extend a run")
    changed: dict[str, Any] = {"schedule_iterations": config.schedule_iterations}
    if config.schedule_iterations is None:
        changed["schedule_iterations"] = config.iterations
    if iterations is not None:
        if iterations <= config.iterations:
            raise UserError(
                f"iterations is {iterations}, but the run has {config.iterations} already; "
                "give more of them"
            )
        changed |= {"iterations": iterations, "env_steps": None}
    else:
        assert env_steps is not None
        if config.env_steps is not None and env_steps <= config.env_steps:
            raise UserError(
                f"env_steps is {env_steps}, but the run has {config.env_steps} already; "
                "give more of them"
            )
        # no episode is shorter than a step
        most = max(config.iterations, math.ceil(env_steps / config.num_envs))
        changed |= {"iterations": min(most, configuration.LARGEST), "env_steps": env_steps}
    buffer = getattr(config.method, "buffer", None)
    if buffer is not None and configuration.reads(config.method.name, "buffer.size"):
        # room was made for no more than the run could ever fill
        room = max(config.num_envs * config.iterations, _batch(config))
        changed["buffer.size"] = min(buffer.size, room)
    return configuration.replace(config, changed)


def _batch(config: Config) -> int:
    update = getattr(config.method, "value_update", None)
    size = 0 if update is None else update.batch_size
    return int(size)


def check_free(path: Path) -> None:
    """Checks that a new run may be made at a path.

    Raises:
        UserError: if something is there already, other than an empty folder.
    """
    try:
        taken = any(p.name != LOCK for p in path.iterdir()) if path.is_dir() else path.exists()
    except OSError as error:
        raise UserError(f"cannot read {path}: {one_line(error)}") from error
    if taken:
        raise _taken(path)
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
    if info.get("format") not in (FORMAT, *EARLIER):
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


def trail_path(run: Path) -> Path:
    """File of the policies that a run has been at."""
    return run / "trail.safetensors"


def _taken(path: Path) -> UserError:
    return UserError(
        f"{path} exists already; choose another --out, or go on with it: epvf resume {path}"
    )


def _lock(path: Path) -> int:
    """Takes the folder for this process until the handle is closed, even by being killed."""
    handle = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise UserError(f"run {path} is in use by another process") from None
    except OSError as error:
        # a file system without locks: nothing keeps two processes apart there
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            os.close(handle)
            raise
    return handle


def is_taken(path: Path) -> bool:
    """Whether a process has the run, as far as the file system knows of locks."""
    try:
        handle = os.open(path / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(handle)


@contextmanager
def _closed_on_error(handle: int) -> Iterator[None]:
    try:
        yield
    except BaseException:
        os.close(handle)
        raise


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
