"""Generalised advantage estimation: what steps of a segment were worth beyond what v expected."""

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from epvf.types import Array

Discount: TypeAlias = float | Float[Array, ""]


class Steps(NamedTuple):
    """What came of steps `[N, H]` that followed each other.

    Attributes:
        rewards: of each step.
        terminated: the episode ended there, and nothing follows.
        truncated: only the time was over.
    """

    rewards: Float[Array, "N H"]
    terminated: Bool[Array, "N H"]
    truncated: Bool[Array, "N H"]


def strides(steps: Steps, size: int, discount: Discount) -> Steps:
    """Steps as strides of `size` steps each, `[N, H / size]`.

    A stride's reward is the discounted sum of its steps'. Where an episode ends in it, so does the
    stride; what the next episode earns in the steps that are left counts for nothing.

    Args:
        steps: a multiple of `size` of them.
        size: steps in a stride.
        discount: gamma, of rewards a step later.
    """
    rewards, terminated, truncated = (x.reshape(x.shape[0], -1, size) for x in steps)
    ended = terminated | truncated
    running = jnp.cumsum(ended, axis=-1) - ended == 0
    factors = discount ** jnp.arange(size)
    return Steps(
        jnp.where(running, rewards * factors[None, None], 0.0).sum(axis=-1),
        (terminated & running).any(axis=-1),
        (truncated & running).any(axis=-1),
    )


def advantages(
    steps: Steps, values: Float[Array, "N H1"], discount: Discount, decay: float
) -> jax.Array:
    """GAE (Schulman et al. 2016, equation 16), `[N, H]`.

    Args:
        steps: `[N, H]`.
        values: `[N, H + 1]` v of the state before each step, and after the last. Where a step was
            truncated, the next of them is of another episode's first state; the state before the
            step stands for the one after it.
        discount: gamma, of rewards a step later.
        decay: lambda. 0: one step and then v; 1: all rewards up to the segment's end and then v.
    """
    rewards, terminated, truncated = steps
    now, after = values[:, :-1], values[:, 1:]
    following = jnp.where(truncated, now, jnp.where(terminated, 0.0, after))
    errors = rewards + discount * following - now
    kept = discount * decay * ~(terminated | truncated)

    def back(later: jax.Array, step: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        error, keep = step
        advantage = error + keep * later
        return advantage, advantage

    start = jnp.zeros(rewards.shape[0])
    return jax.lax.scan(back, start, (errors.T, kept.T), reverse=True)[1].T
