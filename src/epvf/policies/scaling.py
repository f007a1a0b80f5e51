"""Observations standardised, and θ in the coordinates of a policy that reads them so.

With x = (o - μ) / σ, a first layer x K + b is one of the observations o as well: its kernel is
K / σ and its bias b - (μ / σ) K. So θ stays what acts on raw observations. But noise and gradient
steps that are alike on all weights treat inputs alike only where these are of one size.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from epvf.policies.mlp import Layer, Policy
from epvf.types import Array

INPUT_LIMIT = 5.0
"""Standardised observations are clipped to this many deviations."""


class Scaler(NamedTuple):
    """Running mean and deviation `[observation]` of what the networks read."""

    mean: Float[Array, "observation"]
    deviation: Float[Array, "observation"]

    def __call__(self, observations: Float[Array, "*N observation"]) -> jax.Array:
        """Standardised and clipped."""
        axes = (None,) * (observations.ndim - 1)
        standardised = (observations - self.mean[axes]) / self.deviation[axes]
        return jnp.clip(standardised, -INPUT_LIMIT, INPUT_LIMIT)


def standardised(policy: Policy, scaler: Scaler, thetas: Float[Array, "*N P"]) -> jax.Array:
    """Weights `[..., P]` that do with standardised observations what `thetas` do with raw ones."""
    (kernel, bias), *others = policy.unravel(thetas)
    first = Layer(kernel * _column(scaler.deviation, kernel), bias + _product(scaler.mean, kernel))
    return jnp.asarray(policy.ravel([first, *others]))


def raw(policy: Policy, scaler: Scaler, thetas: Float[Array, "*N P"]) -> jax.Array:
    """Weights `[..., P]` for raw observations; `standardised` makes `thetas` of them again."""
    (kernel, bias), *others = policy.unravel(thetas)
    kernel = kernel / _column(scaler.deviation, kernel)
    first = Layer(kernel, bias - _product(scaler.mean, kernel))
    return jnp.asarray(policy.ravel([first, *others]))


def _column(inputs: Float[Array, "I"], kernel: Float[Array, "*N I H"]) -> Array:
    return inputs.reshape(*[1] * (kernel.ndim - 2), -1, 1)


def _product(inputs: Float[Array, "I"], kernel: Float[Array, "*N I H"]) -> jax.Array:
    return jnp.einsum("i,...ih->...h", inputs, kernel)
