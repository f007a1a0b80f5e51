"""What a method tells of an iteration: the names and their meanings, in one place."""

from typing import TypeAlias

import jax
import jax.numpy as jnp

from epvf.types import Evaluation, Mask

Metrics: TypeAlias = dict[str, jax.Array]

PERTURBED = "rollout/episode_return"
UNPERTURBED = "eval/episode_return"

INTERNAL = ("rollout/steps", "rollout/all_steps", "healthy")
"""What only the loop reads."""


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
