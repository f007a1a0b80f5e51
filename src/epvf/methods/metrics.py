"""What a method tells of an iteration: the names and their meanings, in one place."""

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, UInt32

from epvf.types import Array, Evaluation, Mask

Metrics: TypeAlias = dict[str, jax.Array]

PERTURBED = "rollout/episode_return"
"""Mean return of the iteration's perturbed policies."""
UNPERTURBED = "eval/episode_return"
"""Mean return of the unperturbed policy."""
ENDED = "rollout/ended"
"""Share of environments of which the return is that of an episode that has ended; only of methods
whose episodes go on from iteration to iteration."""

INTERNAL = ("rollout/steps", "rollout/all_steps", "healthy")
"""What only the loop reads."""

DIGITS = 4
_BITS = 8


def count_steps(lengths: Int[Array, "N"]) -> UInt32[jax.Array, "4"]:
    """The sum of episode lengths as digits of base 256, each a sum.

    4096 episodes of 2^19 steps overflow 32 bits, which are all that JAX has; digits of up to 2^24
    episodes do not. `total_steps` puts them together on the host.
    """
    shifts = jnp.arange(0, DIGITS * _BITS, _BITS, dtype=jnp.uint32)
    digits = (jnp.asarray(lengths).astype(jnp.uint32)[:, None] >> shifts[None, :]) & 0xFF
    return digits.sum(axis=0, dtype=jnp.uint32)


def total_steps(digits: Any) -> np.ndarray:
    """Sums `[...]` int64 from digits `[..., 4]`."""
    weights = np.int64(1) << np.arange(0, DIGITS * _BITS, _BITS, dtype=np.int64)
    return np.asarray((np.asarray(digits).astype(np.int64) * weights).sum(axis=-1))


def rollout_metrics(population: Evaluation, finite: Mask) -> Metrics:
    """What the returns of a population were, over those that are finite, and what it cost.

    Where none is, they are NaN: there is nothing to tell.
    """
    returns, some = population.returns, finite.any()
    weight = finite.astype(jnp.float32)
    count = jnp.where(some, weight.sum(), jnp.nan)
    kept = jnp.where(finite, returns, 0.0)
    mean = kept.sum() / count
    lowest, highest = jnp.where(finite, returns, jnp.inf), jnp.where(finite, returns, -jnp.inf)
    return {
        "rollout/episode_return": mean,
        "rollout/episode_return_std": jnp.sqrt((weight * (kept - mean) ** 2).sum() / count),
        "rollout/episode_return_min": jnp.where(some, lowest.min(), jnp.nan),
        "rollout/episode_return_max": jnp.where(some, highest.max(), jnp.nan),
        "rollout/episode_length": population.lengths.astype(jnp.float32).mean(),
        "rollout/nonfinite": (~finite).sum(),
        "rollout/steps": count_steps(_all_lengths(population)),
    }


def _all_lengths(population: Evaluation) -> jax.Array:
    """Of the population's episodes, and how many steps its scouts took."""
    lengths = jnp.asarray(population.lengths)
    if population.visited is None:
        return lengths
    scouted = jnp.full(1, population.visited.shape[0], lengths.dtype)
    return jnp.concatenate([lengths, scouted])
