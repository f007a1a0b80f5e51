"""Working on a sweep: take a trial, train it, give it up where others did better, tell its value.

Any number of processes, on any number of hosts that share the folder, do this at once.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from epvf.analysis.curves import PERTURBED, UNPERTURBED
from epvf.config.presets import preset
from epvf.config.schema import Config, from_dict, replace
from epvf.errors import RunFailed, UserError, unknown
from epvf.experiments import space
from epvf.experiments.compare import budgeted
from epvf.experiments.launch.local import Job
from epvf.experiments.report import by_seed, end_of_run
from epvf.experiments.runner import is_finished, open_run
from epvf.experiments.study import RUNGS, Study, Sweep, Taken, open_study, shown
from epvf.runs.display import Display, Extra
from epvf.runs.metrics import Record, read_metrics
from epvf.runs.recorder import record
from epvf.training.prepare import prepare
from epvf.training.state import Report, TrainingDiverged

METRICS = {"perturbed": PERTURBED, "unperturbed": UNPERTURBED}

GRID_TRIALS = 10_000
"""Most points of a grid that is not cut short."""

ShowWith = Callable[[Extra, Study], Display]


def base_config(
    task: str,
    start: str,
    method: str | None,
    written: dict[str, Any],
    delta: dict[str, Any],
    env_steps: int,
    seeds: int,
) -> Config:
    """What every trial trains, but for the axes.

    Args:
        task: its name.
        start: preset.
        method: that learns; None: the preset's.
        written: nested fields to change, as read from a file.
        delta: dotted fields to change besides.
        env_steps: at which every trial ends.
        seeds: of each trial, trained side by side.

    Raises:
        UserError: if anything is unknown, out of range, or does not fit the task.
    """
    for name, number in (("seeds", seeds), ("env_steps", env_steps)):
        if number < 1:
            raise UserError(f"{name} is {number}, but must be at least 1")
    config = preset(task, start, method or written.get("method"))
    config = replace(from_dict(written, config) if written else config, delta)
    if config.task.name != task:
        raise UserError(f"the configuration is for task {config.task.name!r}, not {task!r}")
    config = replace(config, {"num_seeds": seeds, "env_steps": env_steps})
    budgeted(config, env_steps)  # refuses now what could never be trained
    return config


def metric_of(name: str) -> str:
    """The field of the records that `perturbed` or `unperturbed` stands for."""
    if name not in METRICS:
        raise unknown("metric", name, METRICS)
    return METRICS[name]


def num_trials(asked: int | None, sampler: str, axes: Sequence[space.Axis]) -> int:
    """How many trials a sweep has in all: of a grid no more than it has points."""
    if asked is not None and asked < 1:
        raise UserError(f"trials is {asked}, but must be at least 1")
    if sampler != "grid":
        return 40 if asked is None else asked
    points = sum(1 for _ in zip(space.grid(axes), range(GRID_TRIALS + 1), strict=False))
    if asked is None and points > GRID_TRIALS:
        raise UserError(f"the grid has more than {GRID_TRIALS} points; say --trials N")
    return points if asked is None else min(asked, points)


def config_of(sweep: Sweep, params: dict[str, space.Value]) -> Config:
    """What a trial with these values of the axes trains."""
    config = space.applied(sweep.config, sweep.space, params)
    assert config.env_steps is not None
    return budgeted(config, config.env_steps)


def workers(folder: Path, sweep: Sweep, count: int, argv: Sequence[str]) -> list[Job]:
    """So many processes that work on one study until nothing is left to begin."""
    return [
        Job(f"worker-{number}", partial(_work_plainly, folder, sweep, argv))
        for number in range(count)
    ]


def work(folder: Path, sweep: Sweep, show: ShowWith, argv: Sequence[str]) -> int:
    """Does trials until none is left to begin or to go on with.

    Args:
        folder: of the sweep.
        sweep: what is searched.
        show: makes the display of one trial.
        argv: the command line, for the runs' own records.

    Returns:
        0, or the exit code of the run that a signal ended: 128 plus the signal's number.

    Raises:
        UserError: if a run cannot be made, resumed, or is of no configuration.
        RunFailed: if one failed for another reason than that its training diverged.
    """
    study = open_study(folder, sweep)
    while True:
        with study.take() as taken:
            if taken is None:
                return 0
            display = show(partial(_place, study, sweep, taken), study)
            if code := _do(study, sweep, taken, display, argv):
                return code
        jax.clear_caches()  # programs of one trial, of which no other has a use


def _work_plainly(folder: Path, sweep: Sweep, argv: Sequence[str], display: Display) -> int:
    return work(folder, sweep, lambda extra, study: display, argv)


def _do(study: Study, sweep: Sweep, taken: Taken, display: Display, argv: Sequence[str]) -> int:
    """Trains a trial, and tells the study how it ended unless a signal ended it."""
    number, path = taken.trial.number, study.run_folder(taken.trial.number)
    told = ", ".join(f"{name} {shown(value)}" for name, value in taken.params.items())
    again = " goes on" if taken.again else ""
    display.announce(f"trial {number}{again}: {told}")
    curve = _Curve(study, sweep, taken.trial, path)
    if not is_finished(path) and not curve.behind():
        setup = prepare(config_of(sweep, taken.params))
        run = open_run(path, setup.config, argv)
        try:
            outcome = record(run, setup, display, given_up=curve)
        except RunFailed as error:
            if not isinstance(error.__cause__, TrainingDiverged):
                raise
            study.tell(taken.trial, None, str(error))
            display.announce(f"trial {number} failed: {error}")
            return 0
        finally:
            run.close()
        if outcome.exit_code:
            return outcome.exit_code
    display.announce(_conclude(study, sweep, taken, path))
    return 0


def _conclude(study: Study, sweep: Sweep, taken: Taken, path: Path) -> str:
    """Tells the study how a trial ended, and says so."""
    number, value = taken.trial.number, None
    if is_finished(path):
        value = _mean(end_of_run(one, sweep.metric) for one in _by_seed(path))
    if value is not None and not math.isfinite(value):
        study.tell(taken.trial, None, f"{sweep.metric} is not known at its end")
        return f"trial {number} failed: its return at the end is not known"
    study.tell(taken.trial, value)
    ranked = study.ranked()
    best = f"; best {ranked[0].value:.2f} (trial {ranked[0].number})" if ranked else ""
    done = f"trial {number} {'given up' if value is None else f'ended with {value:.2f}'}"
    return f"{done}, {len(study.ended())}/{sweep.trials}{best}"


class _Curve:
    """A trial's learning curve, told to the study part by part of the budget."""

    def __init__(self, study: Study, sweep: Sweep, trial: Any, path: Path) -> None:
        self._trial, self._sweep, self._path = trial, sweep, path
        known = study.trial(trial.number).intermediate_values
        self._rung = max(known, default=0)

    def __call__(self, report: Report) -> bool:
        """Whether the trial is to be given up."""
        budget = self._sweep.config.env_steps
        assert budget is not None
        reached = min(int(report.state.env_steps.min()) * RUNGS // budget, RUNGS)
        if reached <= self._rung:
            return False
        seeds = _by_seed(self._path)
        for rung in range(self._rung + 1, reached + 1):
            self._rung = rung
            value = _mean(_at(one, self._sweep.metric, rung * budget / RUNGS) for one in seeds)
            if value is not None and math.isfinite(value):
                self._trial.report(value, rung)
                if rung < RUNGS and self.behind():
                    return True
        return False

    def behind(self) -> bool:
        """Whether others did so much better by then that it is not worth going on."""
        return bool(self._trial.should_prune())


def _at(records: list[Record], key: str, env_steps: float) -> float:
    """The newest value of one seed by so many env steps; NaN if there is none."""
    known = [r[key] for r in records if r.get(key) is not None and r["steps/env"] <= env_steps]
    return float(known[-1]) if known else math.nan


def _by_seed(path: Path) -> list[list[Record]]:
    # a run of one seed does not name it
    return by_seed([{"seed": 0} | record for record in read_metrics(path / "metrics.jsonl")])


def _mean(values: Any) -> float | None:
    found = list(values)
    return float(np.mean(found)) if found else None


def _place(study: Study, sweep: Sweep, taken: Taken, progress: float) -> dict[str, str]:
    """Which trial of how many this is."""
    return {"trial": f"{taken.trial.number}, {len(study.ended())}/{sweep.trials} ended"}
