"""Closed-form fits of a linear V: slope and intercept from features and targets.

Rows that are not valid weigh nothing. All functions take features `[B, F]`, targets `[B]` and
valid `[B]`, and give a slope `[F]` and an intercept.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Float

from epvf.types import Array, Mask, Returns

Line: TypeAlias = tuple[jax.Array, jax.Array]
Features: TypeAlias = Float[Array, "B F"]
Spread: TypeAlias = Callable[[jax.Array], jax.Array]


def alone(features: Features) -> jax.Array:
    """Features of which this device does all."""
    return features


def ridge_line(
    features: Features, targets: Returns, valid: Mask, penalty: float, by_feature: Spread = alone
) -> Line:
    """Minimises `mean((target - V)^2) + penalty * |slope|^2` over the valid rows, exactly.

    The intercept is not penalised. Of the two equivalent systems, `B x B` (dual) and `F x F`
    (primal), the smaller one is solved.

    Args:
        features, targets, valid, penalty: as told above.
        by_feature: shares out features among several devices, each some of all rows: what the dual
            system is made of. The primal one is of rows, wherever these are.
    """
    x, y, means = _centred(features, targets, valid)
    strength = penalty * _count(valid)
    dual = x.shape[0] <= x.shape[1]
    solve, x = (_dual, by_feature(x)) if dual else (_primal, x)
    with jax.default_matmul_precision("highest"):
        slope = solve(x, y, strength)
    return slope, means[1] - means[0] @ slope


def es_line(
    features: Features,
    targets: Returns,
    valid: Mask,
    penalty: float = 0.0,
    by_feature: Spread = alone,
) -> Line:
    """The evolution-strategies estimate: the slope is `mean(target * feature)`.

    On offsets in units of symmetric noise this estimates the gradient of the population's expected
    target, as OpenES does (Salimans et al. 2017); it is what `ridge_line` tends to, up to length,
    as its penalty grows and the targets' mean is 0. There is no penalty in it, and it is of rows.
    """
    weight = valid.astype(jnp.float32)
    y = jnp.where(valid, targets, 0.0)
    x = jnp.where(valid[:, None], features, 0.0)
    return y @ x / _count(valid), (weight * y).sum() / _count(valid)


def _dual(x: Features, y: Returns, strength: jax.Array) -> jax.Array:
    system = x @ x.T + strength * jnp.eye(x.shape[0])
    return x.T @ jax.scipy.linalg.solve(system, y, assume_a="pos")


def _primal(x: Features, y: Returns, strength: jax.Array) -> jax.Array:
    system = x.T @ x + strength * jnp.eye(x.shape[1])
    return jax.scipy.linalg.solve(system, x.T @ y, assume_a="pos")


def _centred(
    features: Features, targets: Returns, valid: Mask
) -> tuple[jax.Array, jax.Array, Line]:
    """Features and targets less their means, 0 in rows that are not valid; and the means."""
    count = _count(valid)
    x = jnp.where(valid[:, None], features, 0.0)
    y = jnp.where(valid, targets, 0.0)
    means = x.sum(axis=0) / count, y.sum() / count
    x = jnp.where(valid[:, None], x - means[0][None, :], 0.0)
    return x, jnp.where(valid, y - means[1], 0.0), means


def _count(valid: Mask) -> jax.Array:
    return jnp.maximum(valid.astype(jnp.float32).sum(), 1.0)
