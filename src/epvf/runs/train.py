"""Training from Python: one call, one result."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from epvf.config.schema import Config
from epvf.errors import UserError
from epvf.files import known
from epvf.policies.formats.safetensors import SavedPolicy
from epvf.policies.mlp import Policy
from epvf.runs.display import Display, LiveDisplay
from epvf.runs.folder import Run
from epvf.runs.interrupt import Interrupt, Interrupted
from epvf.runs.metrics import Record, read_metrics
from epvf.runs.recorder import record
from epvf.runtime import environment, startup
from epvf.runtime.handles import make_room
from epvf.runtime.memory import explained
from epvf.tasks.base import Task
from epvf.tasks.body import Body
from epvf.training.agents import train_agent
from epvf.training.loop import iterate
from epvf.training.prepare import Setup, prepare
from epvf.training.state import Report, TrainState


class Result(NamedTuple):
    """What came out of training.

    Example:
        >>> import epvf
        >>> result = epvf.train(epvf.preset("cartpole", "debug").replace({"iterations": 2}))
        >>> [record["steps/update"] for record in result.records]
        [1, 2]

    Attributes:
        policy: architecture of the policies.
        theta: `[P]` float32, the unperturbed policy with the best evaluation, over all seeds.
        records: what `metrics.jsonl` holds: one flat dict per iteration and seed, None for what is
            not known.
        run: the folder; None where none was asked for.
    """

    policy: Policy
    theta: np.ndarray
    records: list[Record]
    run: Path | None


def train(
    config: Config,
    task: Task | Body | None = None,
    out: str | Path | None = None,
    init: SavedPolicy | None = None,
) -> Result:
    """Trains to the end, and shows a progress bar on a terminal or in a notebook.

    Example:
        >>> import epvf
        >>> config = epvf.preset("cartpole", "debug").replace({"iterations": 2})
        >>> result = epvf.train(config)
        >>> result.theta.shape == (result.policy.num_parameters,), len(result.records)
        (True, 2)

    Args:
        config: the run.
        task: what to train on, or a robot (`epvf.MujocoTask`), which runs on the configuration's
            engine; None: the one that the configuration names. A run of a task that is given here
            is recorded under the name of its `spec`, and can be resumed from the command line if
            that is `package.module:factory`.
        out: folder to make for the run; None: nothing is written.
        init: a policy to start from.

    Returns:
        The best policy and all records. A Ctrl-C ends training early, with what there is.

    Raises:
        UserError: if configuration, task and policy do not fit, or the folder is taken.
        RunFailed: if training diverged or ran out of memory.
    """
    environment.check()
    startup.quieten()
    startup.use_compilation_cache()
    setup = prepare(config, task, None if init is None else init.theta)
    if init is not None:
        _check_start(init, setup)
    display = _display()
    if out is None:
        return _in_memory(setup, display)
    make_room(config.num_seeds)
    run = Run.create(Path(out), setup.config, ["epvf.train"], init)
    try:
        record(run, setup, display)
        return _of(run, setup)
    finally:
        run.close()


def _check_start(init: SavedPolicy, setup: Setup) -> None:
    if init.policy != setup.policy:
        raise UserError(
            f"the policy to start from is {init.policy.describe()}, but the run's are "
            f"{setup.policy.describe()}; use --policy.hidden-sizes, .activation, .output as there"
        )


def _in_memory(setup: Setup, display: Display) -> Result:
    records: list[Record] = []
    newest: list[TrainState] = []

    def take(report: Report) -> None:
        records.extend(map(known, report.records))
        newest[:] = [report.state]
        display.update(report)
        if interrupt.received is not None:
            raise Interrupted

    interrupt = Interrupt(display.announce)
    out_of_memory = explained(f"num_envs {setup.config.num_envs}")
    with out_of_memory, interrupt.listening(), display.showing(setup.config, None):
        try:
            if setup.method is None:
                train_agent(setup, take, display.announce)
            else:
                for report in iterate(interrupt.guard(setup), None, display.announce, donate=True):
                    take(report)
        except Interrupted:
            pass
    if not newest:
        raise KeyboardInterrupt
    progress = newest[0].learner.progress
    best = int(np.argmax(np.asarray(progress.best_return)))
    return Result(setup.policy, np.array(progress.best_theta[best]), records, None)


def _of(run: Run, setup: Setup) -> Result:
    from epvf.policies.formats.registry import load_policy

    best = load_policy(run.policy("best"))
    return Result(setup.policy, best.theta, read_metrics(run.metrics_file), run.path)


def _display() -> Display:
    """Live where somebody looks, silent anywhere else."""
    if sys.stderr.isatty() or _in_notebook():
        return LiveDisplay(sys.stderr)
    return _Silent()


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


class _Silent:
    """Shows nothing."""

    def announce(self, message: str) -> None:
        pass

    def introduce(self, facts: Mapping[str, str]) -> None:
        pass

    @contextmanager
    def showing(self, config: Config, state: Any) -> Iterator[None]:
        yield

    def update(self, report: Report) -> None:
        pass
