"""What V is regressed on: returns, or a transform of them."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp

from epvf.types import Mask, Returns

Transform: TypeAlias = Literal["raw", "scaled", "standardised", "centred_ranks"]


@dataclass(frozen=True)
class TargetConfig:
    """Value targets.

    Attributes:
        transform: `raw`: the undiscounted return (the paper). `scaled`: divided by `scale`.
            `standardised`: zero mean, unit variance over the buffer. `centred_ranks`: average rank
            over the buffer, mapped to [-0.5, 0.5] (as evolution strategies do).
        scale: divisor of `scaled`.
    """

    transform: Transform = "raw"
    scale: float = 1.0


def transform(config: TargetConfig, returns: Returns, valid: Mask) -> jax.Array:
    """Targets `[N]` from returns `[N]`; invalid rows get 0 and influence no other row."""
    if config.transform == "centred_ranks":
        count = valid.sum()
        ranks = average_ranks(returns, valid) / jnp.maximum(count - 1, 1) - 0.5
        # A single policy, and policies all alike, rank in the middle.
        targets = jnp.where(count > 1, ranks, 0.0)
    elif config.transform == "standardised":
        mean, deviation = _moments(returns, valid)
        targets = (returns - mean) / jnp.maximum(deviation, 1e-8)
    else:
        targets = returns / (config.scale if config.transform == "scaled" else 1.0)
    return jnp.where(valid, targets, 0.0)


def target_units(
    config: TargetConfig, returns: Returns, valid: Mask
) -> tuple[jax.Array, jax.Array]:
    """The return of a target of 0, and how much return a target of 1 has more; of ranks (0, 1).

    Args:
        config: what made targets of returns.
        returns: `[N]` that they were made of.
        valid: `[N]`.
    """
    zero, one = jnp.zeros(()), jnp.ones(())
    if config.transform == "standardised":
        mean, deviation = _moments(returns, valid)
        return mean, jnp.maximum(deviation, 1e-8)
    return zero, config.scale * one if config.transform == "scaled" else one


def average_ranks(values: Returns, valid: Mask) -> jax.Array:
    """Ranks 0 ... count-1 of the valid values, ties sharing their mean rank: `[N]` float."""
    keyed = jnp.where(valid, values, jnp.inf)
    ordered = jnp.sort(keyed)
    first = jnp.searchsorted(ordered, keyed, side="left")
    last = jnp.searchsorted(ordered, keyed, side="right")
    return 0.5 * (first + last - 1).astype(jnp.float32)


def spearman(predictions: Returns, returns: Returns, valid: Mask) -> jax.Array:
    """Rank correlation over the valid rows; 0 where one side is constant."""
    a, b = average_ranks(predictions, valid), average_ranks(returns, valid)
    a, b = a - _moments(a, valid)[0], b - _moments(b, valid)[0]
    weight = valid.astype(jnp.float32)
    norm = jnp.sqrt((weight * a * a).sum() * (weight * b * b).sum())
    return (weight * a * b).sum() / jnp.maximum(norm, 1e-12)


def _moments(values: Returns, valid: Mask) -> tuple[jax.Array, jax.Array]:
    weight = valid.astype(jnp.float32)
    count = jnp.maximum(weight.sum(), 1.0)
    mean = (weight * values).sum() / count
    return mean, jnp.sqrt((weight * (values - mean) ** 2).sum() / count)
