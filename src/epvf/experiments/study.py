"""The memory of a sweep: an Optuna study, in a file or a database, that survives any kill.

A trial is one run folder. Whoever trains it holds a lock on it, which the system lets go of when
the process ends, however it ends: a trial that is begun but held by nobody is gone on with before
a new one is begun. So no trial is lost and none is done twice.
"""

import os
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from epvf.config.schema import Config, flatten
from epvf.errors import UserError, unknown
from epvf.experiments.space import Axis, Choices, Value, grid
from epvf.files import lock, one_line, read_json, write_json
from epvf.runs.folder import check_free

FORMAT = "epvf-sweep/1"
MANIFEST = "sweep.json"
SAMPLERS, PRUNERS = ("tpe", "random", "grid"), ("hyperband", "none")

RUNGS = 27
"""Parts of the budget after each of which a trial may be given up."""

FIRST_RUNG = 3
"""Before it no trial is given up."""

STALE_SECONDS = 60.0
"""How long ago a trial of a storage that others use, too, was begun without a word for whom, until
it counts as one of a process that was killed at that very moment."""

_SUITE, _FOLDER, FAILURE = "epvf", "folder", "failure"


class Sweep(NamedTuple):
    """What is searched, and how.

    Attributes:
        name: of the study in its storage.
        config: of every trial, but for the axes.
        preset: that it started from.
        space: the axes.
        trials: to do in all.
        metric: of the records, whose end is maximised.
        sampler, pruner: names, of `SAMPLERS` and `PRUNERS`.
        storage: file or URL of the study.
    """

    name: str
    config: Config
    preset: str
    space: tuple[Axis, ...]
    trials: int
    metric: str
    sampler: str
    pruner: str
    storage: str

    @property
    def facts(self) -> dict[str, Any]:
        """What two processes that work on one study have to agree on."""
        fields = flatten(self.config)
        axes = {f"search {axis.name}": str(axis) for axis in self.space}
        plain = {name: list(x) if isinstance(x, tuple) else x for name, x in fields.items()}
        return plain | axes | {"metric": self.metric, "pruner": self.pruner}


class Taken(NamedTuple):
    """A trial that this process holds.

    Attributes:
        trial: of Optuna.
        params: values of the axes.
        again: whether another process has begun it.
    """

    trial: Any
    params: dict[str, Value]
    again: bool


def optuna() -> ModuleType:
    """The library, quiet.

    Raises:
        UserError: if it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise UserError("a sweep needs optuna: pip install 'epvf[sweep]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def check_names(sampler: str, pruner: str) -> None:
    """Raises a `UserError` if there is no such sampler or pruner."""
    for kind, name, valid in (("sampler", sampler, SAMPLERS), ("pruner", pruner, PRUNERS)):
        if name not in valid:
            raise unknown(kind, name, valid)


class Study:
    """A study and the folder of its runs. `open_study` makes one."""

    def __init__(self, folder: Path, sweep: Sweep, stored: Any, mark: str) -> None:
        self._folder, self._sweep, self._stored, self._mark = folder, sweep, stored, mark

    def run_folder(self, number: int) -> Path:
        """Where the run of a trial lies."""
        return self._folder / "runs" / f"trial-{number:04}"

    def trials(self) -> list[Any]:
        """All that were begun, in order."""
        waiting = optuna().trial.TrialState.WAITING
        return [t for t in self._stored.get_trials(deepcopy=False) if t.state != waiting]

    def trial(self, number: int) -> Any:
        """What is known of a trial."""
        return self._stored.get_trials(deepcopy=False)[number]

    def ended(self) -> list[Any]:
        """Those that are done with."""
        return [trial for trial in self.trials() if trial.state.is_finished()]

    def ranked(self) -> list[Any]:
        """Those that were trained to their ends, the best first."""
        complete = optuna().trial.TrialState.COMPLETE
        done = [trial for trial in self.trials() if trial.state == complete]
        return sorted(done, key=lambda trial: (-trial.value, trial.number))

    def importances(self) -> dict[str, float]:
        """How much of the differences between trials each axis explains; empty if not known."""
        library, names = optuna(), [axis.name for axis in self._sweep.space]
        if len({trial.value for trial in self.ranked()}) < 2:
            return {}
        try:
            with _without_remarks():
                found = library.importance.get_param_importances(
                    self._stored,
                    evaluator=library.importance.PedAnovaImportanceEvaluator(),
                    params=names,
                )
        except (ValueError, RuntimeError):
            return {}  # of too few trials, or of one value of every axis
        return dict(found)

    @contextmanager
    def take(self) -> Iterator[Taken | None]:
        """Holds the next trial to work on while the block runs; None if there is none."""
        with closing(_Handle(lock(self._folder / ".asking", wait=True))):
            taken, held = self._next()
        with closing(_Handle(held)):
            yield taken

    def _next(self) -> tuple[Taken | None, int | None]:
        for frozen in self.trials():
            if not self._is_orphan(frozen):
                continue
            held = lock(self._lock_of(frozen.number))
            if held is not None:
                self._stored.sampler = self._sampler(frozen.number)
                trial = optuna().trial.Trial(self._stored, frozen._trial_id)
                return self._claimed(trial, again=True), held
        if len(self.trials()) >= self._sweep.trials:
            return None, None
        self._stored.sampler = self._sampler(len(self.trials()))
        trial = self._stored.ask()
        held = lock(self._lock_of(trial.number))
        return self._claimed(trial, again=False), held

    def _is_orphan(self, frozen: Any) -> bool:
        """Whether a trial is under way and this folder's, so that its lock tells if it is held."""
        if frozen.state.is_finished():
            return False
        mark = frozen.user_attrs.get(_FOLDER)
        if mark is not None:
            return bool(mark == self._mark)
        own = Path(self._sweep.storage).parent == self._folder
        return own or datetime.now() - frozen.datetime_start > timedelta(seconds=STALE_SECONDS)

    def _claimed(self, trial: Any, again: bool) -> Taken:
        with _without_remarks():
            trial.set_user_attr(_FOLDER, self._mark)
            params = {axis.name: _suggested(trial, axis) for axis in self._sweep.space}
        return Taken(trial, params, again)

    def _lock_of(self, number: int) -> Path:
        folder = self._folder / "locks"
        folder.mkdir(exist_ok=True)
        return folder / f"{number:04}"

    def _sampler(self, number: int) -> Any:
        """A sampler for one trial: its seed is the trial's, so that a kill changes no proposal."""
        samplers, seed = optuna().samplers, self._sweep.config.seed + number
        if self._sweep.sampler == "tpe":
            return samplers.TPESampler(seed=seed)
        return samplers.RandomSampler(seed=seed)

    def enqueue(self) -> None:
        """Lays out the points of a grid, those aside that are there already."""
        if self._sweep.sampler == "grid":
            with closing(_Handle(lock(self._folder / ".asking", wait=True))), _without_remarks():
                for point in grid(self._sweep.space):
                    self._stored.enqueue_trial(point, skip_if_exists=True)

    def tell(self, trial: Any, value: float | None, failure: str | None = None) -> None:
        """Ends a trial: with its value, or without one as given up."""
        state = optuna().trial.TrialState
        if failure is not None:
            trial.set_user_attr(FAILURE, failure)
        if value is None:
            self._stored.tell(trial, state=state.PRUNED)
        else:
            self._stored.tell(trial, value)


def open_study(folder: Path, sweep: Sweep) -> Study:
    """Makes the folder and the study of a sweep, or opens those that are there.

    Raises:
        UserError: if either is of another sweep, is something else, or cannot be used.
    """
    library = optuna()
    # a storage elsewhere may be another study's: then there is to be no folder either
    _check_folder(folder, sweep)
    apart = Path(sweep.storage).parent != folder
    stored = _open_storage(library, sweep) if apart else None
    mark = _open_folder(folder, sweep)
    if stored is None:
        stored = _open_storage(library, sweep)
    study = Study(folder, sweep, stored, mark)
    study.enqueue()
    return study


def _open_storage(library: ModuleType, sweep: Sweep) -> Any:
    """Optuna's study, in its storage."""
    storage = _storage(library, sweep.storage)
    try:
        stored = library.create_study(
            storage=storage,
            study_name=sweep.name,
            direction="maximize",
            pruner=_pruner(library, sweep.pruner),
            load_if_exists=True,
        )
        _check_same(stored, sweep)
    except UserError:
        raise
    except Exception as error:  # of whatever database
        raise UserError(f"cannot use storage {sweep.storage}: {one_line(error):.120}") from error
    return stored


def _open_folder(folder: Path, sweep: Sweep) -> str:
    """The mark of the folder, by which trials tell whose they are."""
    manifest = folder / MANIFEST
    folder.mkdir(parents=True, exist_ok=True)
    with closing(_Handle(lock(folder / ".asking", wait=True))):
        if not manifest.exists():
            wanted = {"format": FORMAT, "mark": uuid.uuid4().hex, "sweep": sweep.facts}
            write_json(manifest, wanted)
    _check_folder(folder, sweep)  # which another process may have made meanwhile
    return str(read_json(manifest)["mark"])


def _check_folder(folder: Path, sweep: Sweep) -> None:
    """Raises a `UserError` where this sweep cannot be in a folder."""
    manifest = folder / MANIFEST
    if not folder.is_dir():
        check_free(folder)
        return
    if not manifest.exists():
        # another process may be making it just now, hidden files first
        if any(not p.name.startswith(".") for p in folder.iterdir()) and not manifest.exists():
            raise UserError(f"{folder} exists already and is no sweep; choose another --out")
        return
    there = read_json(manifest)
    if there.get("format") != FORMAT:
        raise UserError(
            f"{manifest} has format {there.get('format')!r}, but a sweep has {FORMAT!r}"
        )
    _refuse_other(there.get("sweep", {}), sweep.facts, f"{folder} holds another sweep", "--out")


def _check_same(stored: Any, sweep: Sweep) -> None:
    there = stored.user_attrs.get(_SUITE)
    if there is None and not stored.get_trials(deepcopy=False):
        stored.set_user_attr(_SUITE, sweep.facts)
        return
    what = f"storage {sweep.storage} belongs to another study"
    if there is None:
        raise UserError(f"{what}: {sweep.name!r} there is not of epvf; choose another --storage")
    _refuse_other(there, sweep.facts, what, "--storage")


def _refuse_other(there: dict[str, Any], wanted: dict[str, Any], what: str, option: str) -> None:
    for field in sorted(there.keys() | wanted.keys()):
        if there.get(field) != wanted.get(field):
            raise UserError(
                f"{what}: its {field} is {there.get(field)!r:.40}, not "
                f"{wanted.get(field)!r:.40}; choose another {option}"
            )


def _storage(library: ModuleType, where: str) -> Any:
    """The storage at a URL, in a SQLite file, or in any other file as a journal.

    Raises:
        UserError: if it cannot be opened.
    """
    file = Path(where)
    try:
        if "://" in where:
            return library.storages.RDBStorage(where)
        if file.suffix in (".db", ".sqlite", ".sqlite3"):
            # others may be writing
            waits = {"connect_args": {"timeout": 60}}
            return library.storages.RDBStorage(f"sqlite:///{file}", engine_kwargs=waits)
        return _journal(library, file)
    except Exception as error:  # of whatever database
        raise UserError(f"cannot use storage {where}: {one_line(error):.120}") from error


def _journal(library: ModuleType, file: Path) -> Any:
    journal, held = library.storages.journal, _JournalLock(file)
    held.acquire()
    try:
        _mend(file)
    finally:
        held.release()
    return journal.JournalStorage(journal.JournalFileBackend(str(file), held))


class _JournalLock:
    """Of Optuna's kind; the system lets go of it when the process ends, however it ends.

    Optuna's own are files that a killed process leaves behind, which holds the others up.
    """

    def __init__(self, file: Path) -> None:
        self._file = file.with_name(f".{file.name}.lock")

    def acquire(self) -> bool:
        self._handle = _Handle(lock(self._file, wait=True))
        return True

    def release(self) -> None:
        self._handle.close()


def _mend(file: Path) -> None:
    """Cuts off a last line that was not written to its end, as when a machine loses power.

    Raises:
        ValueError: if the file is something else.
    """
    content = file.read_bytes() if file.exists() else b""
    if content and not content.startswith(b'{"op_code"'):
        raise ValueError("it is no journal of Optuna")
    if content and not content.endswith(b"\n"):
        os.truncate(file, content.rfind(b"\n") + 1)


def _pruner(library: ModuleType, name: str) -> Any:
    if name == "none":
        return library.pruners.NopPruner()
    return library.pruners.HyperbandPruner(min_resource=FIRST_RUNG, max_resource=RUNGS)


def _suggested(trial: Any, axis: Axis) -> Value:
    """The value of an axis in a trial: the one that it has, or a new one."""
    if isinstance(axis, Choices):
        value: Value = trial.suggest_categorical(axis.name, axis.words)
    elif axis.whole:
        value = trial.suggest_int(axis.name, int(axis.low), int(axis.high), log=axis.log)
    else:
        value = trial.suggest_float(axis.name, axis.low, axis.high, log=axis.log)
    return value


class _Handle:
    """An open lock, or none."""

    def __init__(self, number: int | None) -> None:
        self._number = number

    def close(self) -> None:
        if self._number is not None:
            os.close(self._number)


@contextmanager
def _without_remarks() -> Iterator[None]:
    """Silences what Optuna says of parts that are still experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def leaders(study: Study, sweep: Sweep, count: int) -> list[Sequence[str]]:
    """The best trials as rows of a table, below a header."""
    names = [axis.name for axis in sweep.space]
    header = ["trial", "return", *names]
    rows = [
        [str(t.number), f"{t.value:.2f}", *(shown(t.params[name]) for name in names)]
        for t in study.ranked()[:count]
    ]
    return [header, *rows]


def shown(value: Value) -> str:
    """A value of an axis for people."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
