"""Layers of an MLP in flat parameters, for arrays of numpy and of JAX; needs no JAX itself."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Shaped


class Layer(NamedTuple):
    """One affine layer, `y = x @ kernel + bias`; leading axes batch over policies.

    Attributes:
        kernel: `[..., in, out]`.
        bias: `[..., out]`.
    """

    kernel: Any
    bias: Any


ON_HOST: dict[str, Callable[[Any], Any]] = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0.0),
    "elu": lambda x: np.where(x > 0.0, x, np.expm1(np.minimum(x, 0.0))),
}
"""Activations of numpy arrays, for the policies' own."""


def split(shapes: Sequence[tuple[int, int]], thetas: Shaped[Any, "*batch P"]) -> list[Layer]:
    """Flat parameters `[..., P]` to layers of kernels `(in, out)`; of numpy's all are views."""
    layers, start, batch = [], 0, thetas.shape[:-1]
    for fan_in, fan_out in shapes:
        middle = start + fan_in * fan_out
        kernel = thetas[..., start:middle].reshape(*batch, fan_in, fan_out)
        layers.append(Layer(kernel, thetas[..., middle : middle + fan_out]))
        start = middle + fan_out
    return layers


def forward(
    layers: Sequence[Layer], x: Float[Any, "*batch inputs"], activate: Callable[[Any], Any]
) -> Any:
    """The last layer's outputs `[..., A]`, with arrays of numpy or of JAX as they come."""
    for layer in layers[:-1]:
        x = activate(x @ layer.kernel + layer.bias)
    return x @ layers[-1].kernel + layers[-1].bias
