"""What every method that searches by populations shares: keys, the leader's measurement, metrics.

    propose: state -> Θ[N, P]        learn: (state, Θ, R) -> state

`train` knows learners by this class alone, and batches their methods over seeds.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Int

from epvf.policies.mlp import Init, Policy
from epvf.policies.noise import jitter
from epvf.policies.population import Perturbed
from epvf.types import Array, Evaluation, Mask, Population, PRNGKey, Starts

Metrics: TypeAlias = dict[str, jax.Array]

State: TypeAlias = Any
"""A method's state: a NamedTuple of arrays. Whatever else it holds, it has these fields:

`key` `[2]` uint32, the seed's base key; `best_theta` `[P]`, the unperturbed policy with the best
evaluation so far, and `best_return`, -inf before the first; `last_return`, the newest, NaN before;
`nonfinite_theta` `[P]`, the newest policy whose return was not finite; `healthy`, False once an
update was not finite and therefore not applied. With a `horizon`: `envs`, where the environments
stand.
"""


@dataclass(frozen=True)
class PolicySearch:
    """The statics of a method; every method of it is pure.

    Attributes:
        policy: architecture of the policies.
        num_envs: N, policies rolled out per iteration.
        iterations: over which schedules run; those of the run, unless told otherwise.
        init, init_scale: how the first policies are drawn.
        eval_episodes: copies of the leader that `leader_cloud` makes for measuring it.
        eval_jitter: relative jitter of their weights.
    """

    policy: Policy
    num_envs: int
    iterations: int
    init: Init
    init_scale: float
    eval_episodes: int
    eval_jitter: float

    @property
    def remedy(self) -> str:
        """What to change where an update came out non-finite."""
        raise NotImplementedError

    @property
    def horizon(self) -> int | None:
        """Env steps of a policy where it takes over running environments (`Explore`).

        None: its whole episode is evaluated.
        """
        return None

    @property
    def leader_metrics(self) -> tuple[str, ...]:
        """Names of what `record_leader` measures."""
        return ("eval/episode_return", "policy/realized_gain")

    def init_state(self, key: PRNGKey) -> State:
        """Everything as before the first iteration."""
        raise NotImplementedError

    def propose(self, state: State, iteration: Int[Array, ""]) -> Population | Perturbed:
        """The iteration's policies `[N, P]`, drawn or not yet."""
        raise NotImplementedError

    def leader(self, state: State) -> jax.Array:
        """The policy `[P]` to measure and keep."""
        raise NotImplementedError

    def learn(
        self,
        state: State,
        iteration: Int[Array, ""],
        thetas: Population | Perturbed,
        evaluation: Any,
    ) -> tuple[State, Metrics]:
        """The update after the rollouts of `thetas [N, P]`, which `propose` gave at this state.

        `evaluation` is an `Evaluation`, or with a `horizon` a `Segment`.
        """
        raise NotImplementedError

    def empty_starts(self, num: int) -> Starts:
        """Room for `num` start states; None where the method does not read them."""
        return None

    def read_starts(self, starts: Starts) -> Starts:
        """What the method reads of the start states that a task tells."""
        return None

    def keys(self, state: State, iteration: Int[Array, ""]) -> jax.Array:
        """The iteration's keys `[4]`: perturbation, evaluation cloud, rollouts, batches."""
        base = jax.random.wrap_key_data(state.key)
        return jax.random.split(jax.random.fold_in(base, iteration), 4)

    def leader_cloud(self, state: State, iteration: Int[Array, ""]) -> Population:
        """`eval_episodes` copies of the unperturbed leader `[E, P]`, for measuring it."""
        key = self.keys(state, iteration)[1]
        return jitter(key, self.leader(state), self.eval_episodes, self.eval_jitter)

    def record_leader(self, state: State, evaluation: Evaluation) -> tuple[State, Metrics]:
        """Remembers how the leader's cloud did, and the leader itself if it is the best so far."""
        mean = evaluation.returns.mean()
        # A θ any of whose copies turned non-finite is not to be recommended.
        better = jnp.nan_to_num(mean, nan=-jnp.inf) > state.best_return
        metrics = {
            "eval/episode_return": mean,
            "policy/realized_gain": mean - state.last_return,
        }
        return state._replace(
            best_theta=jnp.where(better, self.leader(state), state.best_theta),
            best_return=jnp.where(better, mean, state.best_return),
            last_return=mean,
        ), metrics


def keep_nonfinite(state: State, thetas: Population | Perturbed, finite: Mask) -> State:
    """Remembers one of the policies whose return was not finite, where there are any."""
    newest = thetas[jnp.argmin(finite)[None]][0]
    return state._replace(nonfinite_theta=jnp.where(finite.all(), state.nonfinite_theta, newest))


def rollout_metrics(population: Evaluation, finite: Mask) -> Metrics:
    """What the returns of a population were, over those that are finite, and what it cost."""
    returns = population.returns
    weight = finite.astype(jnp.float32)
    count = jnp.maximum(weight.sum(), 1.0)
    kept = jnp.where(finite, returns, 0.0)
    mean = kept.sum() / count
    return {
        "rollout/episode_return": mean,
        "rollout/episode_return_std": jnp.sqrt((weight * (kept - mean) ** 2).sum() / count),
        "rollout/episode_return_min": jnp.where(finite, returns, jnp.inf).min(),
        "rollout/episode_return_max": jnp.where(finite, returns, -jnp.inf).max(),
        "rollout/episode_length": population.lengths.astype(jnp.float32).mean(),
        "rollout/nonfinite": (~finite).sum(),
        "rollout/steps": population.lengths.sum(),
    }
