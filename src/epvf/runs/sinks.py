"""Where a run's records go besides its folder: one small interface, and who implements it.

A sink is made by `SINKS[name](run, config, seeds, start)` when training begins or goes on, is given
every record, and is closed at the end. Steps are env steps, so that methods can be compared.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

from epvf.config.schema import Config, flatten
from epvf.errors import UserError, unknown
from epvf.files import one_line

Record: TypeAlias = dict[str, Any]
AXIS = "steps/env"


class Sink(Protocol):
    """Takes records."""

    def write(self, record: Record) -> None:
        """One record of one seed."""
        ...

    def flush(self) -> None:
        """Makes what was written visible to others."""
        ...

    def close(self) -> None:
        """Ends it."""
        ...


class Session(NamedTuple):
    """What a sink belongs to.

    Attributes:
        folder: of the run.
        config: what it was asked to do.
        seeds: that it trains.
        done: env steps that each seed has taken before this session, empty at the start of a run.
    """

    folder: Path
    config: Config
    seeds: Sequence[int]
    done: Mapping[int, int]


def scalars(record: Record) -> dict[str, float]:
    """What of a record is a finite number, but for its seed."""
    return {
        name: value
        for name, value in record.items()
        if name != "seed" and value is not None and math.isfinite(value)
    }


class TensorBoard:
    """Event files in `tb/`, of several seeds one folder each, with the configuration as text."""

    def __init__(self, session: Session) -> None:
        logging.getLogger("tensorboardX").setLevel(logging.ERROR)
        from tensorboardX import summary  # slow to import, and only a training run needs it

        self._summary = summary
        folder, seeds = session.folder / "tb", session.seeds
        self._first, self._files = seeds[0], {}
        for seed in seeds:
            place = folder / f"seed{seed}" if len(seeds) > 1 else folder
            done = session.done.get(seed)
            self._files[seed] = _EventFile(place, done)
            if done is None:
                told = summary.text("config", as_markdown(session.config))
                self._files[seed].write(told, 0)

    def write(self, record: Record) -> None:
        file = self._files[record.get("seed", self._first)]
        for name, value in scalars(record).items():
            if name != AXIS:
                file.write(self._summary.scalar(name, value), record[AXIS])

    def flush(self) -> None:
        for file in self._files.values():
            file.flush()

    def close(self) -> None:
        for file in self._files.values():
            file.close()


class _EventFile:
    """One of TensorBoard's files, written at once.

    tensorboardX's `SummaryWriter` has a thread and a queue between processes for each, which needs
    semaphores (/dev/shm) and more file handles than many seeds have.

    Args:
        folder: to write it in.
        done: env steps after which what earlier files hold is no longer true; None: a new run.
    """

    def __init__(self, folder: Path, done: int | None) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._event = Event
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"), f".{done or 0}")
        if done is not None:
            # TensorBoard forgets what comes from this step on
            for told in ({"file_version": "brain.Event:2"}, {"session_log": SessionLog(status=1)}):
                self._writer.write_event(Event(step=done + 1, **told))

    def write(self, summary: Any, step: int) -> None:
        event = self._event(wall_time=time.time(), step=step, summary=summary)
        self._writer.write_event(event)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of W&B a seed, in the project `epvf`; `WANDB_*` say more, as `WANDB_MODE=offline`."""

    def __init__(self, session: Session) -> None:
        wandb = _imported("wandb", "wandb")
        self._first, self._runs = session.seeds[0], {}
        for seed in session.seeds:
            self._runs[seed] = wandb.init(
                project="epvf",
                name=_name(session, seed),
                group=session.folder.resolve().name,
                dir=str(session.folder),
                config=flatten(session.config) | {"seed": seed},
                reinit="create_new",
            )
            self._runs[seed].define_metric("*", step_metric=AXIS)

    def write(self, record: Record) -> None:
        self._runs[record.get("seed", self._first)].log(scalars(record))

    def flush(self) -> None:
        pass

    def close(self) -> None:
        for run in self._runs.values():
            run.finish()


class MLflow:
    """A run of MLflow a seed, in the experiment of the task; `MLFLOW_TRACKING_URI` says where."""

    def __init__(self, session: Session) -> None:
        tracking = _imported("mlflow.tracking", "mlflow")
        self._client = tracking.MlflowClient()
        self._metric = _imported("mlflow.entities", "mlflow").Metric
        self._first, self._runs = session.seeds[0], {}
        self._pending: dict[int, list[Any]] = {seed: [] for seed in session.seeds}
        name = f"epvf {session.config.task.name}"
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        for seed in session.seeds:
            run = self._client.create_run(experiment, run_name=_name(session, seed))
            self._runs[seed] = run.info.run_id
            for field, value in (flatten(session.config) | {"seed": seed}).items():
                self._client.log_param(run.info.run_id, field, str(value)[:500])

    def write(self, record: Record) -> None:
        now = round(1000 * time.time())
        pending = self._pending[record.get("seed", self._first)]
        pending += [self._metric(name, x, now, record[AXIS]) for name, x in scalars(record).items()]

    def flush(self) -> None:
        for seed, pending in self._pending.items():
            for begin in range(0, len(pending), 1000):  # as many as MLflow takes at a time
                self._client.log_batch(self._runs[seed], pending[begin : begin + 1000])
            pending.clear()

    def close(self) -> None:
        self.flush()
        for run in self._runs.values():
            self._client.set_terminated(run)


def _name(session: Session, seed: int) -> str:
    """Of a seed's run elsewhere."""
    name = session.folder.resolve().name
    return f"{name}-seed{seed}" if len(session.seeds) > 1 else name


SINKS: dict[str, Callable[[Session], Sink]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}


def open_sink(name: str, session: Session) -> Sink:
    """Makes a sink.

    Raises:
        UserError: if there is no such sink, its package is missing, or its service says no.
    """
    check_sinks([name])
    try:
        return SINKS[name](session)
    except (UserError, OSError):
        raise
    except Exception as error:  # of whatever kind the service has
        if "MLFLOW_ALLOW_FILE_STORE" in str(error):
            raise UserError(
                "mlflow keeps files only with MLFLOW_ALLOW_FILE_STORE=true; set it, or have "
                "MLFLOW_TRACKING_URI name a server"
            ) from error
        raise UserError(f"{name} cannot be used: {one_line(error)[:120]}") from error


def check_sinks(names: Sequence[str]) -> None:
    """Checks that there are such sinks, and that they are installed.

    Raises:
        UserError: if not.
    """
    for name in names:
        if name not in SINKS:
            raise unknown("place to log to", name, SINKS)
        if name != "tensorboard":
            _imported(name, name)


def as_markdown(config: Config) -> str:
    """The configuration as a table."""
    rows = [f"| {name} | {value} |" for name, value in flatten(config).items()]
    return "\n".join(["| field | value |", "| --- | --- |", *rows])


def _imported(module: str, extra: str) -> Any:
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError:
        raise UserError(f'{extra} is not installed: pip install "epvf[{extra}]"') from None
