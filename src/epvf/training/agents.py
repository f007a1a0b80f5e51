"""Agents that step environments themselves: their loop is Brax's, what it tells is ours.

What Brax has of its state cannot be saved whole, so there are policies but no checkpoints.
"""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
from jaxtyping import Float

from epvf.config.schema import Config
from epvf.methods.base import Progress
from epvf.methods.registry import METHODS
from epvf.policies.formats.brax import theta_of
from epvf.training.measure import evaluate_theta
from epvf.training.prepare import Setup
from epvf.training.state import Record, Report, TrainingDiverged, TrainState
from epvf.training.steps import Announce

Take: TypeAlias = Callable[[Report], None]

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


EVALUATIONS = 2**31 - 1
"""Folded into the seed's key for evaluations."""


class AgentState(NamedTuple):
    """What is known of an agent between iterations, with a leading axis over its one seed.

    Attributes:
        progress: what every method remembers: a `Progress`.
        theta: `[1, P]` the deterministic policy.
    """

    progress: Any
    theta: Float[np.ndarray, "1 P"]


def train_agent(setup: Setup, take: Take, announce: Announce = lambda message: None) -> None:
    """Trains an agent to its end; whatever `take` raises ends it.

    Args:
        setup: the run, of a method that has `train`.
        take: is given a report after every iteration.
        announce: told of long silent phases (compilation).

    Raises:
        TrainingDiverged: if the policy is not finite any more.
    """
    from epvf.methods.agents import brax_compat

    with brax_compat.tolerated():
        from epvf.methods.agents.tally import Tally

        config, tally = setup.config, Tally()
        method = METHODS[config.method.name]
        assert method.train is not None
        announce(f"compiling {config.method.name.upper()} and the rollouts ...")
        listener = _Listener(setup, tally, take, announce)
        method.train(config, setup.task, planned(config), tally, listener)


def planned(config: Config) -> int:
    """Iterations of an agent until `iterations` or `env_steps` are reached."""
    if config.env_steps is None:
        return config.iterations
    unroll = METHODS[config.method.name].segment(config.method)
    assert unroll is not None
    return min(config.iterations, math.ceil(config.env_steps / (config.num_envs * unroll)))


class _Listener:
    """Makes reports of what Brax tells after each iteration."""

    def __init__(self, setup: Setup, tally: Any, take: Take, announce: Announce) -> None:
        self._setup, self._tally, self._take, self._announce = setup, tally, take, announce
        self._iterations = planned(setup.config)
        self._iteration = 0
        self._theta: np.ndarray | None = None
        self._best_theta = np.zeros(setup.policy.num_parameters, np.float32)
        self._best_return = -math.inf
        self._last_return = math.nan
        self._begin = time.perf_counter()

    def __call__(self, news: Any) -> None:
        """Reports one iteration."""
        if not self._iteration:
            seconds = time.perf_counter() - self._begin
            self._announce(f"compiled and done with the first iteration in {seconds:.1f} s")
        theta = self._exported(news)
        moved = math.nan if self._theta is None else float(np.linalg.norm(theta - self._theta))
        self._theta = theta
        wall = time.perf_counter() - self._begin
        before, measured = self._last_return, self._evaluated(theta)
        self._iteration += 1
        record: Record = {
            "steps/update": self._iteration,
            "steps/env": news.env_steps,
            "time/wall": wall,
            "time/sps": news.metrics["training/sps"],
            **self._tally.read(),
            "eval/episode_return": measured,
            **_losses(news.metrics),
            "policy/step_norm": moved,
            "policy/realized_gain": measured - before,
            # of value functions of policies and of clipped weights, of which there are none
            "policy/predicted_gain": math.nan,
            "policy/clipped_fraction": 0.0,
            "value/spearman": math.nan,
        }
        steps = np.array([news.env_steps])
        self._take(Report(TrainState(self._state(), self._iteration, steps, wall), [record]))

    def _exported(self, news: Any) -> np.ndarray:
        theta = theta_of(self._setup.policy, news.normalizer, news.parameters)
        if not np.isfinite(theta).all():
            name = self._setup.config.method.name
            raise TrainingDiverged(
                f"{name.upper()}'s policy is not finite any more; lower {name}.learning_rate"
            )
        return theta

    def _evaluated(self, theta: np.ndarray) -> float:
        """Mean return of the deterministic policy where it is due, otherwise NaN."""
        config, spec = self._setup.config, self._setup.task.spec
        last = self._iteration == self._iterations - 1
        if self._iteration % config.eval.interval and not last:
            return math.nan
        # not of the seed's own key, which Brax splits
        base = jax.random.fold_in(jax.random.key(config.seed), EVALUATIONS)
        key = jax.random.fold_in(base, self._iteration)
        jitter = config.eval.jitter if spec.deterministic_reset else 0.0
        result = evaluate_theta(self._setup.evaluate, key, theta, config.eval.episodes, jitter)
        self._last_return = value = float(np.mean(np.asarray(result.returns)))
        if math.isfinite(value) and value > self._best_return:
            self._best_return, self._best_theta = value, theta
        return value

    def _state(self) -> AgentState:
        assert self._theta is not None
        rows = lambda x: np.asarray(x, np.float32)[None]  # noqa: E731
        progress = Progress(
            key=np.zeros((1, 2), np.uint32),
            best_theta=rows(self._best_theta),
            best_return=rows(self._best_return),
            last_return=rows(self._last_return),
            nonfinite_theta=rows(self._theta),
            healthy=np.ones(1, np.bool_),
        )
        return AgentState(progress, rows(self._theta))


def _losses(metrics: dict[str, float]) -> dict[str, float]:
    """What Brax tells of its losses, under our names."""
    return {
        ours: metrics[f"training/{name}"]
        for name, ours in _LOSSES.items()
        if f"training/{name}" in metrics
    }
