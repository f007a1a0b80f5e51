"""The MLP of every value function."""

from collections.abc import Callable, Sequence
from functools import reduce
from itertools import accumulate
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Float, Key

from epvf.policies.activations import ACTIVATIONS
from epvf.types import Array, PRNGKey

Params: TypeAlias = list[dict[str, Any]]
"""Of each layer its `kernel` `[in, out]` and its `bias` `[out]`."""

Scaling: TypeAlias = Literal["he", "lecun"]

_SCALINGS: dict[Scaling, Callable[[jax.Array, int, float], jax.Array]] = {
    "he": lambda normals, fan_in, gain: normals * jnp.sqrt(2.0 / fan_in) * gain,
    "lecun": lambda normals, fan_in, gain: gain * normals / jnp.sqrt(fan_in),
}


def init_mlp(
    keys: Sequence[PRNGKey] | Key[jax.Array, "L"],
    sizes: Sequence[int],
    scaling: Scaling,
    last_gain: float,
) -> Params:
    """Draws an MLP: normal kernels scaled by their fan-in, biases zero.

    Args:
        keys: one a layer.
        sizes: of the input, the hidden layers and the output.
        scaling: `he`: deviation sqrt(2 / fan-in); `lecun`: sqrt(1 / fan-in).
        last_gain: factor on the last layer's kernel besides.
    """
    gains = [1.0] * (len(sizes) - 2) + [last_gain]
    return [
        {"kernel": _SCALINGS[scaling](jax.random.normal(k, (i, o)), i, gain), "bias": jnp.zeros(o)}
        for k, i, o, gain in zip(keys, sizes[:-1], sizes[1:], gains, strict=True)
    ]


def mlp(
    params: Params,
    inputs: Sequence[Float[Array, "*B _"]],
    activation: str,
    layer_norm: bool = False,
    residual: bool = False,
) -> jax.Array:
    """The outputs `[..., O]` of `init_mlp`'s parameters.

    Args:
        params: the layers.
        inputs: what the first layer reads, as parts side by side; see `project`.
        activation: after every layer but the last, of `ACTIVATIONS`.
        layer_norm: LayerNorm (no learned gain) before each activation.
        residual: adds a hidden layer's input to its output where their widths agree.
    """
    activate, x = ACTIVATIONS[activation], list(inputs)
    for layer in params[:-1]:
        y = _affine(layer, x)
        y = activate(_normalise(y) if layer_norm else y)
        alike = residual and len(x) == 1 and x[0].shape == y.shape
        x = [x[0] + y] if alike else [y]
    return _affine(params[-1], x)


def project(
    features: Sequence[Float[Array, "*B _"]], kernel: Float[Array, "F H"]
) -> Float[jax.Array, "*B H"]:
    """`concatenate(features) @ kernel`, `[..., H]`, without concatenating.

    The gradient then flows to those parts alone that have parameters, which with `raw` among
    them saves a product as large as the first layer itself.
    """
    stops = list(accumulate(x.shape[-1] for x in features))
    rows = zip([0, *stops[:-1]], stops, strict=True)
    products = [jnp.asarray(x) @ kernel[i:j] for x, (i, j) in zip(features, rows, strict=True)]
    return reduce(jnp.add, products)


def _affine(layer: dict[str, Any], x: Sequence[Array]) -> jax.Array:
    y = project(x, layer["kernel"])
    return y + layer["bias"][(None,) * (y.ndim - 1)]


def _normalise(x: Float[Array, "*B H"]) -> jax.Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6)
