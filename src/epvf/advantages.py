"""Generalised advantage estimation: what steps of a segment were worth beyond what v expected."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from epvf.types import Array


def advantages(
    rewards: Float[Array, "N H"],
    values: Float[Array, "N H1"],
    terminated: Bool[Array, "N H"],
    truncated: Bool[Array, "N H"],
    discount: float,
    decay: float,
) -> jax.Array:
    """GAE (Schulman et al. 2016, equation 16), `[N, H]`.

    Args:
        rewards: of each step.
        values: `[N, H + 1]` v of the state before each step, and after the last.
        terminated: the episode ended there, and nothing follows.
        truncated: only the time was over. The next row of `values` is then of another episode's
            first state; the state before the step stands for the one after it.
        discount: gamma, of rewards an env step later.
        decay: lambda. 0: one step and then v; 1: all rewards up to the segment's end and then v.
    """
    now, after = values[:, :-1], values[:, 1:]
    following = jnp.where(truncated, now, jnp.where(terminated, 0.0, after))
    errors = rewards + discount * following - now
    kept = discount * decay * ~(terminated | truncated)

    def back(later: jax.Array, step: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        error, keep = step
        advantage = error + keep * later
        return advantage, advantage

    steps = (errors.T, kept.T)
    return jax.lax.scan(back, jnp.zeros(rewards.shape[0]), steps, reverse=True)[1].T
