"""The activations that networks are made of, in JAX; numpy's are in `layers`."""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp

from epvf.types import Array

Activation: TypeAlias = Literal["tanh", "relu", "elu"]


def exp_elu(x: Array) -> jax.Array:
    """ELU, to within float32's resolution at 1: `expm1` would take several times as long."""
    return jnp.where(x > 0.0, x, jnp.exp(jnp.minimum(x, 0.0)) - 1.0)


ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "elu": jax.nn.elu,
    "exp_elu": exp_elu,
}
"""By name, of JAX arrays."""
