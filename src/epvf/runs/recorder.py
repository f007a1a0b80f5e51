"""Training into a run folder: what the loop reports is written, saved and shown."""

import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

import jax
import numpy as np

from epvf import __version__
from epvf.runs.checkpoints import Checkpoints
from epvf.runs.display import Display
from epvf.errors import RunFailed
from epvf.files import one_line
from epvf.runs.interrupt import Interrupt, Interrupted
from epvf.runs.metrics import MetricsLog
from epvf.policies.formats.safetensors import save_policy
from epvf.runs.folder import Run, Status
from epvf.tasks.base import Task
from epvf.training.loop import (
    Report,
    TrainingDiverged,
    TrainState,
    finished,
    init_state,
    make_learner,
    train,
)

POLICY_SECONDS = 10.0
"""How often at most the policies are written between checkpoints."""

MAX_NONFINITE = 10
"""Policies with non-finite returns that a run keeps."""


class Outcome(NamedTuple):
    """How a session of training ended.

    Attributes:
        status: `finished` or `interrupted`.
        iterations: done in all.
        env_steps: done in all, over all seeds.
        exit_code: 0, or 128 plus the number of the signal that ended the run.
    """

    status: Status
    iterations: int
    env_steps: int
    exit_code: int


def record(run: Run, task: Task, display: Display) -> Outcome:
    """Trains a run from its newest checkpoint, or from the start where it has none.

    The run's status is noted however this ends.

    Raises:
        UserError: if the checkpoint cannot be used.
        RunFailed: if the training diverged or ran out of memory.
    """
    return conclude(run, _Recorder(run, task, display))


class Session(Protocol):
    """What trains into a run's open files."""

    def train(self) -> Outcome:
        """Trains to the end or to the first signal, and saves what there is."""
        ...

    def remains(self) -> str:
        """What of the run can still be used, in words."""
        ...

    def close(self) -> None:
        """Closes the files."""
        ...


def conclude(run: Run, recorder: Session) -> Outcome:
    """Trains, and notes how it ended in the run; see `record`."""
    try:
        outcome = recorder.train()
        run.ended(outcome.status)
    except (TrainingDiverged, MemoryError, OSError, jax.errors.JaxRuntimeError) as error:
        message = f"{_explain(error)}; {recorder.remains()}"
        with suppress(OSError):
            run.ended("failed", message)
        raise RunFailed(message) from error
    except KeyboardInterrupt:
        run.ended("interrupted", recorder.remains())
        raise
    except BaseException as error:
        run.ended("failed", one_line(error))
        raise
    finally:
        recorder.close()
    return outcome


class _Recorder:
    """The open files of a run, and the newest state that the loop reported."""

    def __init__(self, run: Run, task: Task, display: Display) -> None:
        config = run.config
        self._run, self._task, self._display = run, task, display
        self._learner = make_learner(config, task.spec)
        self._leaders = jax.jit(jax.vmap(self._learner.leader))
        self._seeds = range(config.seed, config.seed + config.num_seeds)
        self._checkpoints = Checkpoints(run.checkpoints, config.checkpoint.keep)
        like = jax.eval_shape(lambda: init_state(config, self._learner, task).learner)
        self._state = self._checkpoints.restore(like)
        done = 0 if self._state is None else self._state.iteration
        self._metrics = MetricsLog(run.metrics_file, run.tensorboard, self._seeds, done)
        self._saved_iteration, self._saved_time = done, time.monotonic()
        self._policies_time = -float("inf")

    def train(self) -> Outcome:
        """Runs the loop to its end or to the first signal, and saves the last state."""
        config, display = self._run.config, self._display
        interrupt = Interrupt(display.announce)
        with interrupt.listening(), display.showing(config, self._state):
            try:
                guarded = interrupt.guard(self._task)
                for report in train(config, guarded, self._state, display.announce):
                    self._take(report)
                    if interrupt.received is not None:
                        break
            except Interrupted:
                pass
            self._save()
        state = self._state
        over = state is not None and finished(config, state)
        return Outcome(
            "finished" if over else "interrupted",
            0 if state is None else state.iteration,
            0 if state is None else int(state.env_steps.sum()),
            0 if over else interrupt.exit_code,
        )

    def remains(self) -> str:
        """What of the run can still be used, in words."""
        latest = self._checkpoints.latest
        return "there is no checkpoint yet" if latest is None else f"last good checkpoint: {latest}"

    def close(self) -> None:
        self._metrics.close()
        self._checkpoints.close()

    def _take(self, report: Report) -> None:
        self._state = report.state
        self._metrics.write(report.records)
        self._keep_nonfinite(report)
        self._display.update(report)
        if self._checkpoint_due(report.state):
            self._save()
        elif time.monotonic() - self._policies_time > POLICY_SECONDS:
            self._save_policies(report.state)

    def _checkpoint_due(self, state: TrainState) -> bool:
        if self._checkpoints.latest is None:
            # At once: whether saving works is better known early, and a long run can be killed.
            return True
        when = self._run.config.checkpoint
        by_count = when.every_iterations is not None and (
            state.iteration - self._saved_iteration >= when.every_iterations
        )
        minutes = (time.monotonic() - self._saved_time) / 60
        return by_count or (when.every_minutes is not None and minutes >= when.every_minutes)

    def _save(self) -> None:
        """Saves the newest state, unless there is none or its updates went wrong."""
        state = self._state
        if state is None or not np.asarray(state.learner.healthy).all():
            return
        self._metrics.sync()
        self._save_policies(state)
        self._checkpoints.save(state)
        self._saved_iteration, self._saved_time = state.iteration, time.monotonic()

    def _save_policies(self, state: TrainState) -> None:
        learner = state.learner
        returns = np.asarray(learner.best_return)
        leaders = np.asarray(self._leaders(learner))
        winner = int(np.argmax(returns))
        for m, seed in enumerate(self._seeds):
            names = [None] if len(self._seeds) == 1 else [seed] + [None] * (m == winner)
            for name in names:
                best, last = (self._run.policy(which, name) for which in ("best", "last"))
                self._write(best, state, m, learner.best_theta[m], float(returns[m]))
                # The last update has made a policy that nobody has evaluated yet.
                self._write(last, state, m, leaders[m], float("nan"))
        self._policies_time = time.monotonic()

    def _keep_nonfinite(self, report: Report) -> None:
        bad = {r.get("seed", self._seeds[0]) for r in report.records if r["rollout/nonfinite"]}
        folder = self._run.nonfinite
        for seed in sorted(bad):
            folder.mkdir(exist_ok=True)
            if len(list(folder.glob("*.safetensors"))) >= MAX_NONFINITE:
                return
            m = self._seeds.index(int(seed))
            path = folder / f"{report.state.iteration:012}-s{seed}.safetensors"
            theta = report.state.learner.nonfinite_theta[m]
            self._write(path, report.state, m, theta, float("nan"))

    def _write(
        self, path: Path, state: TrainState, m: int, theta: jax.Array | np.ndarray, value: float
    ) -> None:
        spec = self._task.spec
        extra = {
            "backend": spec.backend,
            "episode_length": spec.episode_length,
            "seed": self._seeds[m],
            "update": state.iteration,
            "env_steps": int(state.env_steps[m]),
            "epvf": __version__,
        }
        value = value if np.isfinite(value) else float("nan")
        save_policy(path, self._learner.policy, theta, spec.name, value, extra)


def _explain(error: BaseException) -> str:
    if isinstance(error, TrainingDiverged):
        return str(error)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return "out of memory; lower num_envs, num_seeds or buffer.size"
    if isinstance(error, OSError):
        return one_line(error)
    return f"JAX failed: {one_line(error)}"
