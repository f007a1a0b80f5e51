"""A method of one's own: hill climbing, which keeps the best of N perturbed policies.

    python examples/own_method.py

An installed package makes it known everywhere by an entry point of the group `epvf.methods`:

    [project.entry-points."epvf.methods"]
    hill-climbing = "package.module:METHOD"

Its settings are then options: `epvf train cartpole --method hill-climbing --hill-climbing.std 0.3`.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import epvf
from epvf.methods.base import Method, Parts, PolicySearch, Progress, begin, common, keep_nonfinite
from epvf.methods.metrics import Metrics, rollout_metrics


@dataclass(frozen=True)
class HillClimbingSettings:
    """What hill climbing reads.

    Attributes:
        name: of the method.
        std: deviation of the noise on every weight.
    """

    name: str = "hill-climbing"
    std: float = 0.3


class HillClimbingState(NamedTuple):
    """What is remembered between iterations: arrays only."""

    progress: Progress
    theta: Any


@dataclass(frozen=True)
class HillClimbing(PolicySearch):
    """Pure functions over the state; training batches them over seeds."""

    std: float

    @property
    def remedy(self) -> str:
        """What to change where an update came out non-finite."""
        return "Lower hill-climbing.std"

    def init_state(self, key: Any) -> HillClimbingState:
        """Everything as before the first iteration."""
        theta_key, base_key = jax.random.split(key)
        theta = self.draw_policy(theta_key)
        return HillClimbingState(begin(base_key, theta), theta)

    def centre(self, state: HillClimbingState) -> jax.Array:
        """The policy to measure and keep."""
        return state.theta

    def propose(self, state: HillClimbingState, iteration: Any) -> jax.Array:
        """The policy itself and N - 1 perturbed ones."""
        shape = (self.num_envs, self.policy.num_parameters)
        noise = self.std * jax.random.normal(self.keys(state, iteration).perturbation, shape)
        return state.theta[None, :] + noise.at[0].set(0.0)

    def learn(
        self, state: HillClimbingState, iteration: Any, thetas: Any, evaluation: Any
    ) -> tuple[HillClimbingState, Metrics]:
        """Goes to the best of them."""
        finite = jnp.isfinite(evaluation.returns)
        best = thetas[jnp.argmax(jnp.where(finite, evaluation.returns, -jnp.inf))]
        nan = jnp.full((), jnp.nan)
        progress = keep_nonfinite(state.progress, thetas, finite)
        metrics = rollout_metrics(evaluation, finite) | {
            "loss/value": nan,
            "value/spearman": nan,
            "policy/predicted_gain": nan,
            "policy/clipped_fraction": jnp.zeros(()),
            "policy/step_norm": jnp.linalg.norm(best - state.theta),
            "healthy": progress.healthy,
        }
        return HillClimbingState(progress, best), metrics


def build(parts: Parts) -> HillClimbing:
    """The search of a configuration."""
    return HillClimbing(**common(parts), std=parts.config.method.std)


METHOD = Method(
    settings=HillClimbingSettings,
    summary="the best of N perturbed policies",
    build=build,
    unread=frozenset({"policy.num_centres"}),
)

if __name__ == "__main__":
    epvf.register_method("hill-climbing", METHOD)
    config = epvf.preset("cartpole", "debug", method="hill-climbing")
    result = epvf.train(config.replace({"hill-climbing.std": 0.5, "iterations": 10}))
    print(f"{result.records[-1]['eval/episode_return']:.1f} of at most 500")
