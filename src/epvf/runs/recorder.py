"""Training into a run folder: what a loop reports is written, saved and shown."""

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from epvf import __version__
from epvf.errors import RunFailed, UserError
from epvf.files import one_line
from epvf.methods.registry import METHODS
from epvf.policies.formats.safetensors import save_policy
from epvf.runs.checkpoints import Checkpoints, size_on_disk
from epvf.runs.display import Display, count
from epvf.runs.folder import Run, Status
from epvf.runs.interrupt import Interrupt, Interrupted
from epvf.runs.metrics import MetricsLog
from epvf.runs.team import seeing, share_state
from epvf.runs.trail import Trail
from epvf.runtime import hosts
from epvf.training.agents import planned, train_agent
from epvf.training.loop import init_state, iterate
from epvf.training.prepare import Setup
from epvf.training.state import Report, TrainingDiverged, TrainState, finished
from epvf.types import Array

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


Watch: TypeAlias = Callable[[int, Callable[[Path], None]], None]
"""Called after reports with the iteration, and with what writes the policy of now to a file."""


def record(
    run: Run,
    setup: Setup,
    display: Display,
    sinks: Sequence[str] = (),
    watch: Watch | None = None,
    given_up: Callable[[Report], bool] | None = None,
    checkpoint: int | None = None,
    listener: Callable[[Report], None] | None = None,
) -> Outcome:
    """Trains a run from a checkpoint, or from the start where it has none.

    The run's status is noted however this ends; where it is refused, the run stays as it was.

    Args:
        run: open folder.
        setup: what it trains.
        display: shows its progress.
        sinks: names of more places for the records, of `SINKS`.
        watch: looks at the first seed's policy as training goes on; None: nobody.
        given_up: asked after each report whether the run is to end there, saved.
        checkpoint: update to go on from; None: the newest.
        listener: is given every report, after it has been written.

    Raises:
        UserError: if the checkpoint or what else the run's folder holds cannot be used.
        RunFailed: if the training diverged or ran out of memory.
    """
    recorder = _Recorder(run, setup, display, sinks, watch, given_up, checkpoint, listener)
    try:
        run.begin()
        outcome = recorder.train()
        run.ended(outcome.status)
    except _FAILURES as error:
        if isinstance(error, ValueError) and hosts.lost() is None:
            _note(run, "failed", one_line(error))
            raise
        message = f"{_explain(error)}; {recorder.remains()}"
        _note(run, "failed", message)
        raise RunFailed(message) from error
    except KeyboardInterrupt:
        _note(run, "interrupted", recorder.remains())
        raise
    except BaseException as error:
        _note(run, "failed", one_line(error))
        raise
    finally:
        recorder.close()
    return outcome


_FAILURES = (
    TrainingDiverged,
    MemoryError,
    OSError,
    jax.errors.JaxRuntimeError,
    ValueError,  # of collectives whose other end is gone
)


def _note(run: Run, status: Status, message: str) -> None:
    """Notes how a run ended, unless its folder is gone or its disk full: the end counts more."""
    with suppress(OSError, UserError):
        run.ended(status, message)


class _Recorder:
    """The open files of a run, and the newest state that the loop reported."""

    def __init__(
        self,
        run: Run,
        setup: Setup,
        display: Display,
        sinks: Sequence[str],
        watch: Watch | None,
        given_up: Callable[[Report], bool] | None,
        checkpoint: int | None,
        listener: Callable[[Report], None] | None,
    ) -> None:
        self._listener = listener
        config = setup.config
        self._given_up = given_up
        self._run, self._setup, self._display, self._watch = run, setup, display, watch
        self._centres = _centres(setup)
        self._seeds = range(config.seed, config.seed + config.num_seeds)
        self._checkpoints: Checkpoints | None = None
        self._state: TrainState | None = None
        self._trained: TrainState | None = None
        self._see = seeing(setup)
        if METHODS[config.method.name].resumable:
            self._checkpoints = Checkpoints(run.checkpoints, config.checkpoint.keep)
            like = jax.eval_shape(lambda: init_state(setup).learner)
            self._state = self._checkpoints.restore(like, checkpoint)
            self._check_seeds()
            self._size, self._like = size_on_disk(like), like
        done = 0 if self._state is None else self._state.iteration
        self._metrics = MetricsLog(run.path, config, done, sinks)
        self._trail = Trail(run.trail, done)
        if self._checkpoints is not None and checkpoint is not None:
            for place in self._checkpoints.set_aside(checkpoint):
                display.announce(f"set aside: {place}")
        self._saved_iteration, self._saved_time = done, time.monotonic()
        self._policies_time = -float("inf")

    def train(self) -> Outcome:
        """Runs the loop to its end or to the first signal, and saves the last state."""
        config, display = self._setup.config, self._display
        interrupt = Interrupt(display.announce)
        display.introduce(_introduction(self._run, self._setup, self._state))
        self._tell_room()
        if hosts.several():
            self._state = share_state(self._state, self._like)
        with interrupt.listening(), display.showing(config, self._state):
            with suppress(Interrupted):
                self._run_loop(interrupt)
            self._save()
        state = self._state
        over = state is not None and self._over(state)
        return Outcome(
            "finished" if over else "interrupted",
            0 if state is None else state.iteration,
            0 if state is None else int(state.env_steps.sum()),
            0 if over or interrupt.received is None else interrupt.exit_code,
        )

    def remains(self) -> str:
        """What of the run can still be used, in words."""
        if self._checkpoints is None:
            last = self._run.policy("last")
            return f"last good policy: {last}" if last.exists() else "there is no policy yet"
        latest = self._checkpoints.latest
        return "there is no checkpoint yet" if latest is None else f"last good checkpoint: {latest}"

    def close(self) -> None:
        self._metrics.close()
        if self._checkpoints is not None:
            self._checkpoints.close()

    def _check_seeds(self) -> None:
        if self._state is not None and len(self._state.env_steps) != len(self._seeds):
            raise UserError(
                f"the checkpoint is of {len(self._state.env_steps)} seeds, but run "
                f"{self._run.path} has {len(self._seeds)}"
            )

    def _tell_room(self) -> None:
        """Tells what checkpoints take of the disk, and whether they fit, before hours are spent."""
        if self._checkpoints is None:
            return
        keep = self._setup.config.checkpoint.keep
        # the oldest goes only once the newest is there
        most = self._size * (keep + 1)
        free = shutil.disk_usage(self._run.path).free
        told = f"a checkpoint takes up to {_bytes(self._size)}, {keep} are kept"
        fits = "" if most < free else ": they do NOT fit; free some, or lower checkpoint.keep"
        self._display.announce(f"{told}; {_bytes(free)} of disk are free{fits}")

    def _run_loop(self, interrupt: Interrupt) -> None:
        if self._state is not None and self._over(self._state):
            return  # nothing is left to be compiled for

        def take(report: Report) -> None:
            self._take(report)
            given_up = self._given_up is not None and self._given_up(report)
            interrupt.received = hosts.agree(interrupt.received or 0) or None
            if given_up or interrupt.received is not None:
                raise Interrupted

        announce = self._display.announce
        if self._setup.method is None:
            train_agent(self._setup, take, announce)
            return
        for report in iterate(interrupt.guard(self._setup), self._state, announce, donate=True):
            take(report)

    def _over(self, state: TrainState) -> bool:
        config = self._setup.config
        if self._setup.method is None:
            return state.iteration >= planned(config)
        return finished(config, state)

    def _take(self, report: Report) -> None:
        self._trained = report.state
        self._state = report.state._replace(learner=self._see(report.state.learner))
        report = report._replace(state=self._state)
        self._metrics.write(report.records)
        self._keep_nonfinite(report)
        self._display.update(report)
        if self._trail.due(report.state.iteration):
            self._trail.note(report.state.iteration, self._centres(report.state.learner))
        if self._watch is not None:
            self._watch(report.state.iteration, self._save_first)
        if self._listener is not None:
            self._listener(report)
        if hosts.agree(int(self._checkpoint_due(report.state))):
            self._save()
        elif time.monotonic() - self._policies_time > POLICY_SECONDS:
            self._save_policies(report.state)

    def _checkpoint_due(self, state: TrainState) -> bool:
        if self._checkpoints is None:
            return False
        if self._checkpoints.latest is None:
            # At once: whether saving works is better known early, and a long run can be killed.
            return True
        when = self._setup.config.checkpoint
        by_count = when.every_iterations is not None and (
            state.iteration - self._saved_iteration >= when.every_iterations
        )
        minutes = (time.monotonic() - self._saved_time) / 60
        return by_count or (when.every_minutes is not None and minutes >= when.every_minutes)

    def _save(self) -> None:
        """Saves the newest state, unless there is none or its updates went wrong."""
        state = self._state
        if state is None or not np.asarray(state.learner.progress.healthy).all():
            return
        self._metrics.sync()
        self._save_policies(state)
        if self._checkpoints is not None and self._trained is not None:
            whole = hosts.whole(self._trained.learner)
            self._checkpoints.save(state._replace(learner=whole))
            self._saved_iteration, self._saved_time = state.iteration, time.monotonic()

    def _save_policies(self, state: TrainState) -> None:
        progress = state.learner.progress
        returns = np.asarray(progress.best_return)
        centres = np.asarray(self._centres(state.learner))
        self._trail.save()
        winner = int(np.argmax(returns))
        for m, seed in enumerate(self._seeds):
            names = [None] if len(self._seeds) == 1 else [seed] + [None] * (m == winner)
            for name in names:
                best, last = (self._run.policy(which, name) for which in ("best", "last"))
                self._write(best, state, m, progress.best_theta[m], float(returns[m]))
                # The last update has made a policy that nobody has evaluated yet.
                self._write(last, state, m, centres[m], float("nan"))
        self._policies_time = time.monotonic()

    def _save_first(self, path: Path) -> None:
        """Writes the first seed's newest policy."""
        assert self._state is not None
        theta = np.asarray(self._centres(self._state.learner))[0]
        self._write(path, self._state, 0, theta, float("nan"))

    def _keep_nonfinite(self, report: Report) -> None:
        bad = {r.get("seed", self._seeds[0]) for r in report.records if r["rollout/nonfinite"]}
        folder = self._run.nonfinite
        for seed in sorted(bad):
            folder.mkdir(exist_ok=True)
            if len(list(folder.glob("*.safetensors"))) >= MAX_NONFINITE:
                return
            m = self._seeds.index(int(seed))
            path = folder / f"{report.state.iteration:012}-s{seed}.safetensors"
            theta = report.state.learner.progress.nonfinite_theta[m]
            self._write(path, report.state, m, theta, float("nan"))

    def _write(self, path: Path, state: TrainState, m: int, theta: Array, value: float) -> None:
        spec = self._setup.task.spec
        extra = {
            "backend": spec.backend,
            "episode_length": spec.episode_length,
            "seed": self._seeds[m],
            "update": state.iteration,
            "env_steps": int(state.env_steps[m]),
            "method": self._setup.config.method.name,
            "epvf": __version__,
        }
        value = value if np.isfinite(value) else float("nan")
        save_policy(path, self._setup.policy, theta, spec.name, value, extra)


def _introduction(run: Run, setup: Setup, state: TrainState | None) -> dict[str, str]:
    """What is trained, in words."""
    config, spec = setup.config, setup.task.spec
    name = config.method.name
    ends = [f"{count(config.iterations)} iterations"]
    if config.env_steps is not None:
        ends.insert(0, f"{count(config.env_steps)} env steps")
    done = "" if state is None else f", of which {state.iteration} iterations are done"
    seeds = "" if config.num_seeds == 1 else f", {config.num_seeds} seeds"
    return {
        "task": f"{spec.name} on {spec.backend}",
        "method": f"{name} ({METHODS[name].summary.split(':')[0]})",
        "policies": f"{config.num_envs} of {setup.policy.num_parameters} weights{seeds}",
        "until": " or ".join(ends) + done,
        "folder": str(run.path),
    }


def _centres(setup: Setup) -> Callable[[Any], Array]:
    """The unperturbed policies `[M, P]` of a learner's state."""
    if setup.method is None:
        return lambda learner: learner.theta
    if hosts.several():
        return lambda seen: seen.theta
    return jax.jit(jax.vmap(setup.method.centre))


def _bytes(number: int) -> str:
    for divisor, unit in ((1e9, "GB"), (1e6, "MB")):
        if number >= divisor:
            return f"{number / divisor:.3g} {unit}"
    return f"{number / 1e3:.3g} kB"


def _explain(error: BaseException) -> str:
    if isinstance(error, TrainingDiverged):
        return str(error)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return "out of memory; lower num_envs, num_seeds or buffer.size"
    if isinstance(error, OSError):
        return one_line(error)
    return hosts.lost() or f"JAX failed: {one_line(error)}"
