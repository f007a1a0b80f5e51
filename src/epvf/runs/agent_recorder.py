"""Training Brax's PPO or SAC into a run folder: the same files as any other run's.

What Brax has of its state cannot be saved whole, so there are policies but no checkpoints.
"""

import math
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from epvf import __version__
from epvf.methods.agents.settings import AGENTS
from epvf.methods.agents import brax_compat
from epvf.policies.formats.brax import theta_of
from epvf.config.schema import Config, replace
from epvf.runs.display import Display
from epvf.errors import UserError
from epvf.runs.interrupt import Interrupt, Interrupted
from epvf.methods.registry import make_policy
from epvf.runs.metrics import MetricsLog
from epvf.policies.formats.safetensors import save_policy
from epvf.runs.recorder import POLICY_SECONDS, Outcome, conclude
from epvf.runs.folder import Run
from epvf.tasks import engines, make
from epvf.tasks.base import SteppableTask, check_policy
from epvf.tasks.engines.rollout import JaxTask
from epvf.training.loop import Report, TrainingDiverged, TrainState, evaluate_theta

if TYPE_CHECKING:
    from epvf.methods.agents.brax_agents import Progress

_LOSSES = {
    "policy_loss": "loss/policy",
    "v_loss": "loss/value",
    "entropy_loss": "loss/entropy",
    "kl_mean": "policy/kl",
    "actor_loss": "loss/policy",
    "critic_loss": "loss/value",
    "alpha_loss": "loss/temperature",
    "alpha": "policy/temperature",
}
"""Brax's names (of PPO, then of SAC) and ours."""


def fit(config: Config) -> tuple[Config, SteppableTask]:
    """The task of a configuration, and the configuration with the engine that it came to.

    Raises:
        UserError: if Brax is missing, or method, task and configuration do not fit.
    """
    brax_compat.require(config.method)
    asked, backend = config.task, config.task.backend
    if backend == "auto":
        names = engines(asked.name)
        backend = "jax" if "jax" in names else "mjx"
    task = make(
        asked.name,
        backend=backend,
        episode_length=asked.episode_length,
        num_threads=asked.num_threads,
        num_slots=asked.num_slots,
    )
    if not isinstance(task, JaxTask):
        raise UserError(f"method {config.method!r} needs a JAX engine: --backend mjx")
    if config.method == "sac" and task.spec.discrete:
        raise UserError(
            f"method 'sac' has no discrete actions, which task {asked.name!r} needs; use 'ppo'"
        )
    check_policy(task.spec, make_policy(config, task.spec))
    if not task.spec.discrete and config.policy.output != "tanh":
        raise UserError(
            f"method {config.method!r} squashes its actions: use policy.output 'tanh', not "
            f"{config.policy.output!r}"
        )
    return replace(config, {"task.backend": task.spec.backend}), task


def record(run: Run, task: SteppableTask, display: Display) -> Outcome:
    """Trains a run from the start; see `epvf.runs.recorder.record`."""
    assert isinstance(task, JaxTask)
    return conclude(run, _AgentRecorder(run, task, display))


def check_resumable(run: Run) -> None:
    """Tells that a run of PPO or SAC cannot go on.

    Raises:
        UserError: if it is one.
    """
    method = run.config.method
    if method in AGENTS:
        raise UserError(
            f"run {run.path} is of method {method!r}, which cannot be resumed: Brax saves neither "
            f"optimiser nor environments; start anew with epvf train {run.config.task.name} "
            f"--method {method}, or use what it saved: epvf eval {run.path} --policy last"
        )


def planned(config: Config) -> int:
    """Iterations of PPO or SAC until `iterations` or `env_steps` are reached."""
    if config.env_steps is None:
        return config.iterations
    unroll = config.ppo.unroll_length if config.method == "ppo" else config.sac.unroll_length
    return min(config.iterations, math.ceil(config.env_steps / (config.num_envs * unroll)))


class _AgentRecorder:
    """The open files of a run, and the newest policy."""

    def __init__(self, run: Run, task: JaxTask, display: Display) -> None:
        config = run.config
        self._run, self._task, self._display = run, task, display
        self._policy = make_policy(config, task.spec)
        self._evaluate = task.evaluator(self._policy)
        self._metrics = MetricsLog(run.metrics_file, run.tensorboard, [config.seed], 0)
        self._interrupt = Interrupt(display.announce)
        self._iterations = planned(config)
        self._iteration = self._env_steps = 0
        self._theta: np.ndarray | None = None
        self._best = -math.inf
        self._measured = math.nan
        self._policies_time = -math.inf
        self._begin = 0.0

    def train(self) -> Outcome:
        """Runs Brax's training to its end or to the first signal, and saves the last policy."""
        config = self._run.config
        with (
            self._interrupt.listening(),
            self._display.showing(config, None),
            brax_compat.tolerated(),
        ):
            with suppress(Interrupted):
                self._learn()
            self._save_last()
            self._metrics.sync()
        over = self._iteration >= self._iterations
        return Outcome(
            "finished" if over else "interrupted",
            self._iteration,
            self._env_steps,
            0 if over else self._interrupt.exit_code,
        )

    def remains(self) -> str:
        """What of the run can still be used, in words."""
        if self._theta is None:
            return "there is no policy yet"
        return f"last good policy: {self._run.policy('last')}"

    def close(self) -> None:
        self._metrics.close()

    def _learn(self) -> None:
        from epvf.methods.agents import brax_agents
        from epvf.methods.agents.tally import Tally

        config, self._tally = self._run.config, Tally()
        method = brax_agents.ppo if config.method == "ppo" else brax_agents.sac
        self._display.announce(f"compiling {config.method.upper()} and the rollouts ...")
        self._begin = time.perf_counter()
        method(config, self._task, self._iterations, self._tally, self._take)

    def _take(self, progress: "Progress") -> None:
        """Writes down one iteration."""
        if not self._iteration:
            seconds = time.perf_counter() - self._begin
            self._display.announce(f"compiled and done with the first iteration in {seconds:.1f} s")
        theta = theta_of(self._policy, progress.normalizer, progress.parameters)
        if not np.isfinite(theta).all():
            raise TrainingDiverged(
                f"{self._run.config.method.upper()}'s policy is not finite any more; lower "
                f"{self._run.config.method}.learning_rate"
            )
        moved = math.nan if self._theta is None else float(np.linalg.norm(theta - self._theta))
        self._theta, self._env_steps = theta, progress.env_steps
        wall = time.perf_counter() - self._begin
        before, measured = self._measured, self._evaluated()
        self._iteration += 1
        record = {
            "steps/update": self._iteration,
            "steps/env": self._env_steps,
            "time/wall": wall,
            "time/sps": progress.metrics["training/sps"],
            **self._tally.read(),
            "eval/episode_return": measured,
            **_losses(progress.metrics),
            "policy/step_norm": moved,
            "policy/realized_gain": measured - before,
            # of value functions of policies and of clipped weights, of which there are none
            "policy/predicted_gain": math.nan,
            "policy/clipped_fraction": 0.0,
            "value/spearman": math.nan,
        }
        self._metrics.write([record])
        nothing: Any = None
        state = TrainState(nothing, self._iteration, np.array([self._env_steps]), wall)
        self._display.update(Report(state, [record]))
        if time.monotonic() - self._policies_time > POLICY_SECONDS:
            self._save_last()
        if self._interrupt.received is not None:
            raise Interrupted

    def _evaluated(self) -> float:
        """Mean return of the deterministic policy where it is due, otherwise NaN."""
        when, seed = self._run.config.eval, self._run.config.seed
        last = self._iteration == self._iterations - 1
        if self._theta is None or (self._iteration % when.interval and not last):
            return math.nan
        key = jax.random.fold_in(jax.random.key(seed), self._iteration)
        jitter = when.jitter if self._task.spec.deterministic_reset else 0.0
        result = evaluate_theta(self._evaluate, key, self._theta, when.episodes, jitter)
        self._measured = value = float(np.mean(np.asarray(result.returns)))
        if value > self._best:
            self._best = value
            self._write("best", value)
        return value

    def _save_last(self) -> None:
        if self._theta is not None:
            self._write("last", math.nan)
            self._policies_time = time.monotonic()

    def _write(self, which: str, value: float) -> None:
        spec, theta = self._task.spec, self._theta
        assert theta is not None
        extra = {
            "backend": spec.backend,
            "episode_length": spec.episode_length,
            "seed": self._run.config.seed,
            "update": self._iteration + (which == "best"),
            "env_steps": self._env_steps,
            "method": self._run.config.method,
            "epvf": __version__,
        }
        save_policy(self._run.policy(which), self._policy, theta, spec.name, value, extra)


def _losses(metrics: dict[str, float]) -> dict[str, float]:
    """What Brax tells of its losses, under our names."""
    return {
        ours: metrics[f"training/{name}"]
        for name, ours in _LOSSES.items()
        if f"training/{name}" in metrics
    }
