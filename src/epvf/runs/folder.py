"""A run on disk: one folder that tells what was asked, what happened and what came out.

config.json     reproduces the run      run.json    argv, versions, devices, git state, status
metrics.jsonl   one line an iteration   tb/         the same for TensorBoard
checkpoints/    to resume from          policies/   best and last
trail.safetensors   where θ has been    report.html   the page that sums it up
nan/            policies whose rollouts were not finite
set-aside/      checkpoints that a resumption went back behind

A folder may come from anybody: nothing in it is a link that is followed, a name in it never
becomes a path, and code that lies in it is not run.
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
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from epvf.config import schema as configuration
from epvf.config.budget import lasting
from epvf.config.schema import Config
from epvf.errors import UserError, brief
from epvf.files import check_inside, one_line, read_json, write_json
from epvf.policies.formats.registry import load_policy
from epvf.policies.formats.safetensors import SavedPolicy, save_policy
from epvf.runs import provenance
from epvf.runtime import processes, signals

FORMAT = "epvf-run/2"
EARLIER = ("epvf-run/1",)
"""Formats that are still read; resuming such a run makes it one of the newest."""

LOCK = ".lock"

OWN = (
    *("config.json", "run.json", "metrics.jsonl", "checkpoints", "policies", "tb", "nan", LOCK),
    *("plots", "videos", "diagnosis", "landscape", "set-aside"),
    *("trail.safetensors", "evaluation.json", "report.html"),
)
"""What a run's folder holds."""

LONGEST_NAME = 100
"""Characters of a folder's name that come from a task's."""

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
        self._waiting: dict[str, Any] | None = None
        self._running = False

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
            if not (path / "run.json").exists() and (there := _remains(path)):
                raise UserError(
                    f"{path} has no run.json, but {there} of a run; put it back, or move the folder"
                )
            _clear(path)
            return cls._filled(path, config, argv, None, lock)

    @classmethod
    def _made(
        cls, path: Path, config: Config, argv: Sequence[str], init: SavedPolicy | None
    ) -> "Run":
        lock = _lock(path)
        with _closed_on_error(lock):
            # another process may have made a run here since it was looked at
            if not _is_free(path):
                raise _taken(path)
            _clear(path)
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
        signals.add_note(run._note_signal)
        run._running = True
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
        """Changes what the run is asked to do once it goes on; its checkpoints have to fit."""
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
        """How the run's last session ended, or `running`."""
        return current_info(self.path)["status"]

    def policy(self, which: str, seed: int | None = None) -> Path:
        """File of the `best` or `last` policy, of one seed or of all."""
        return policy_path(self.path, which, seed)

    def resumed(self, argv: Sequence[str]) -> None:
        """Notes that the run goes on, once it does: see `begin`."""
        self._waiting = _session(argv)

    def begin(self) -> None:
        """Notes that training begins now. What was refused before has left no trace."""
        if self._waiting is None:
            return
        session, self._waiting = self._waiting, None
        info = read_info(self.path)
        info["resumed"] = [*info.get("resumed", []), session]
        changed = {"format": FORMAT, "status": "running", "ended": None, "message": None}
        # before run.json says that it runs: then a signal corrects that
        signals.add_note(self._note_signal)
        self._running = True
        write_json(self.info_file, info | changed | {"process": session["process"]})
        # with another end, or of an earlier format, so that the folder is of one
        write_json(self.config_file, configuration.to_dict(self.config))

    def ended(self, status: Status, message: str | None = None) -> None:
        """Notes how the session ended."""
        self.begin()
        info = read_info(self.path) | {"status": status, "ended": _now(), "message": message}
        write_json(self.info_file, info)
        self._stopped()

    def discard(self) -> None:
        """Removes the folder of a run that was refused before anything was recorded."""
        metrics = self.path / "metrics.jsonl"
        if metrics.exists() and metrics.stat().st_size:
            return
        self._stopped()
        shutil.rmtree(self.path, ignore_errors=True)

    def close(self) -> None:
        """Unlocks the folder; a session that has not said how it ended is noted first."""
        if self._running:
            error = sys.exception()
            cut_short = error is None or isinstance(error, KeyboardInterrupt)
            with suppress(OSError, UserError):
                reason = "it ended before training began" if error is None else one_line(error)
                self.ended("interrupted" if cut_short else "failed", reason)
            self._stopped()
        os.close(self._lock)

    def _stopped(self) -> None:
        self._running = False
        signals.remove_note(self._note_signal)

    def _note_signal(self) -> None:
        """In another thread, just before a signal ends the process."""
        info = read_info(self.path)
        if info["status"] == "running":
            ended = {"status": "interrupted", "ended": _now(), "message": "ended by a signal"}
            write_json(self.info_file, info | ended)


def default_path(config: Config, preset: str) -> Path:
    """`runs/<task>/<YYYYmmdd-HHMMSS>[-<method>]-<preset>-s<seed>`; it may be taken."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    method = config.method.name
    word = preset if method == "epvf" else f"{method}-{preset}"
    task = re.sub(r"[^A-Za-z0-9_.-]+", "-", config.task.name).strip("-.")
    return Path("runs") / (task[:LONGEST_NAME] or "task") / f"{stamp}-{word}-s{config.seed}"


def extended(config: Config, iterations: int | None, env_steps: int | None) -> Config:
    """What a run is asked to do, with another end.

    Schedules keep the length that they had, and stay at their final values beyond it. The buffer
    keeps its room.

    Raises:
        UserError: if neither or both are given, or the end is not a later one.
    """
    if (iterations is None) == (env_steps is None):
        raise UserError("give either --iterations or --env-steps to extend a run")
    changed: dict[str, Any] = {
        "schedule_iterations": config.schedule_iterations or config.iterations
    }
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
        longer = lasting(config, env_steps)
        changed |= {"iterations": longer.iterations, "env_steps": env_steps}
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
        taken = not _is_free(path) if path.is_dir() else path.exists() or path.is_symlink()
    except OSError as error:
        raise UserError(f"cannot read {path}: {one_line(error)}") from error
    if taken:
        raise _taken(path)
    parent = next((p for p in path.absolute().parents if p.exists()), None)
    if parent is None or not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"cannot write run folder {path}: {parent} is not a writable folder")


def read_info(path: Path) -> dict[str, Any]:
    """The contents of `run.json`, checked.

    Raises:
        UserError: if the folder is no run of this version, or holds what a run does not.
    """
    if not (path / "run.json").is_file():
        if path.is_dir() and (path / LOCK).exists() and _is_free(path):
            raise UserError(
                f"{path} is no run yet: it was ended while it was made; start it again, with "
                f"epvf train ... --out {path}"
            )
        raise UserError(f"{path} is no run: it has no run.json")
    check_inside(path, OWN)
    info = read_json(path / "run.json")
    if info.get("format") not in (FORMAT, *EARLIER):
        raise UserError(f"{path} has format {brief(info.get('format'))}, but a run has {FORMAT!r}")
    status, resumed = info.setdefault("status", "interrupted"), info.get("resumed", [])
    if status not in get_args(Status):
        raise UserError(f"{path / 'run.json'} is broken: its status is {brief(status)}")
    if not isinstance(resumed, list) or not all(isinstance(one, dict) for one in resumed):
        raise UserError(f"{path / 'run.json'} is broken: resumed is {brief(resumed)}")
    return info


def current_info(path: Path) -> dict[str, Any]:
    """As `read_info`; a run that its process left `running` is noted as interrupted first."""
    info = read_info(path)
    if info["status"] != "running" or _is_held(path, info):
        return info
    with suppress(OSError, UserError):
        lock = _lock(path)
        try:
            info = read_info(path)
            if info["status"] == "running":
                gone = {"status": "interrupted", "message": "its process was gone"}
                write_json(path / "run.json", info | gone)
        finally:
            os.close(lock)
    # where it cannot be written, it is true all the same
    return info | ({"status": "interrupted"} if info["status"] == "running" else {})


def read_config(path: Path) -> Config:
    """What a run was asked to do.

    Raises:
        UserError: if the folder is no run of this version, or names code that lies in it.
    """
    read_info(path)
    try:
        config = configuration.load(path / "config.json")
    except UserError as error:
        raise UserError(f"cannot go by {path / 'config.json'}: {error}") from error
    place = Path(config.task.name.rpartition(":")[0])
    if place.suffix == ".py" and place.resolve().is_relative_to(path.resolve()):
        raise UserError(
            f"the task of {path} is code in the run's own folder, which is not run: look at it, "
            "and move it elsewhere"
        )
    return config


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


def _is_free(path: Path) -> bool:
    """Whether a folder holds nothing, or only what is left of a run that was being made."""
    if (path / "run.json").exists() or (path / "run.json").is_symlink() or _remains(path):
        return False
    inside = [other for other in path.iterdir() if other.name != LOCK]
    if inside and not (path / LOCK).is_file():
        return False  # somebody else's, who happens to use one of these names
    names = {"config.json", "checkpoints", "policies"}
    return all(other.name in names or _is_temporary(other) for other in inside)


def _is_temporary(path: Path) -> bool:
    """Whether it is one of `write_atomically`."""
    return path.name.startswith((".config.json.", ".run.json.")) and path.suffix == ".tmp"


def _remains(path: Path) -> str | None:
    """What a folder has that only training makes; None: nothing."""
    if os.path.lexists(path / "metrics.jsonl"):
        return "metrics"
    for folder in ("checkpoints", "policies"):
        inner = path / folder
        if inner.is_symlink() or (inner.exists() and not inner.is_dir()):
            return folder
        started = ("init.safetensors", ".init.safetensors.")
        if inner.is_dir() and any(not p.name.startswith(started) for p in inner.iterdir()):
            return folder
    return None


def _clear(path: Path) -> None:
    """Removes all that is in a folder but its lock; of links only themselves."""
    for old in path.iterdir():
        if old.name != LOCK:
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()


def _lock(path: Path) -> int:
    """Takes the folder for this process until the handle is closed, even by being killed."""
    handle = _open_lock(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise UserError(f"run {path} is in use by another process") from None
    except OSError as error:
        # a file system without locks: what keeps two processes apart there is their numbers
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            os.close(handle)
            raise
        told = "has no locks: do not train or resume the same run on two machines at once"
        print(f"note: the file system of {path} {told}", file=sys.stderr, flush=True)
    if _is_run_by_another(path):
        os.close(handle)
        raise UserError(f"run {path} is in use by another process")
    return handle


def is_taken(path: Path) -> bool:
    """Whether a process has the run, as far as the file system knows of locks."""
    return _is_held(path, {})


def _is_run_by_another(path: Path) -> bool:
    """Whether another process of this host says that it runs here, which locks may not tell."""
    if not (path / "run.json").is_file():
        return False
    try:
        info = read_info(path)
    except UserError:
        return False
    return info["status"] == "running" and processes.other_is_alive(info.get("process"))


def _is_held(path: Path, info: dict[str, Any]) -> bool:
    """Whether a process has the folder, by its lock or, where locks do nothing, by its number."""
    try:
        handle = _open_lock(path, os.O_RDONLY)
    except OSError:
        return processes.other_is_alive(info.get("process"))
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    finally:
        os.close(handle)
    return processes.other_is_alive(info.get("process"))


def _open_lock(path: Path, how: int) -> int:
    # not through a link, and not waiting for the other end of a pipe
    return os.open(path / LOCK, how | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)


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
        "process": processes.identity(),
        "started": _now(),
        "ended": None,
        "status": "running",
    }


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
