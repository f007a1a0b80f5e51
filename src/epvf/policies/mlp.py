"""The policy: an MLP whose parameters are one flat vector θ.

Only this module and `layers` convert between the flat vector and kernels and biases.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped

from epvf.errors import UserError
from epvf.policies.activations import ACTIVATIONS, Activation
from epvf.policies.layers import Layer as Layer
from epvf.policies.layers import forward, split
from epvf.types import Array, PRNGKey

Output: TypeAlias = Literal["argmax", "clip", "tanh"]
Init: TypeAlias = Literal["lecun_normal", "lecun_uniform", "zeros"]


@dataclass(frozen=True)
class Policy:
    """Architecture of a deterministic MLP policy. Holds no parameters.

    Example:
        >>> import numpy as np
        >>> policy = Policy((2, 1))  # linear, from two observations to one action
        >>> layers = policy.unravel(np.array([0.5, -1.0, 0.1], np.float32))
        >>> policy.num_parameters, round(float(policy.apply(layers, np.ones(2, np.float32))[0]), 3)
        (3, -0.4)

    Attributes:
        layer_sizes: observation size, hidden sizes, action size. Two entries: a linear policy.
        activation: after every layer but the last.
        output: what turns the last layer into an action. `argmax`: index of the largest output
            (discrete tasks). `clip`: clipped to [-1, 1]. `tanh`: squashed to (-1, 1).
    """

    layer_sizes: tuple[int, ...]
    activation: Activation = "tanh"
    output: Output = "clip"

    def __post_init__(self) -> None:
        if len(self.layer_sizes) < 2 or min(self.layer_sizes) < 1:
            raise UserError(
                f"policy layer sizes {self.layer_sizes} are not at least two positive numbers"
            )

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Kernel shapes `(in, out)`, first layer first."""
        return tuple(zip(self.layer_sizes[:-1], self.layer_sizes[1:], strict=True))

    @property
    def num_parameters(self) -> int:
        """`P`, the length of θ."""
        return sum(fan_in * fan_out + fan_out for fan_in, fan_out in self.shapes)

    def describe(self) -> str:
        """Sizes, activation and output in a few characters: `34-64-64-8 tanh clip`."""
        return f"{'-'.join(map(str, self.layer_sizes))} {self.activation} {self.output}"

    def init(
        self,
        key: PRNGKey,
        init: Init = "lecun_normal",
        scale: float = 1.0,
        last_scale: float = 1.0,
    ) -> jax.Array:
        """Draws θ `[P]`: kernels by `init` times `scale` (the last: and `last_scale`), biases zero.

        `lecun_normal` has standard deviation `1/sqrt(fan_in)`; `lecun_uniform` is
        `U(-1/sqrt(fan_in), 1/sqrt(fan_in))` for kernels and biases (PyTorch's default for linear
        layers), so that noise scaled by |θ| reaches the biases too.
        """
        scales = [scale] * (len(self.shapes) - 1) + [scale * last_scale]
        keys = jax.random.split(key, len(self.shapes))
        return self.ravel(
            [
                _init_layer(k, shape, init, s)
                for k, shape, s in zip(keys, self.shapes, scales, strict=True)
            ]
        )

    def ravel(self, layers: Sequence[Layer]) -> Any:
        """Layers with leading axes `...` to flat parameters `[..., P]`, kernel before bias.

        Layers of numpy arrays make a numpy array, others a JAX array.
        """
        parts = []
        for layer in layers:
            parts.append(layer.kernel.reshape(*layer.bias.shape[:-1], -1))
            parts.append(layer.bias)
        on_host = all(isinstance(part, np.ndarray) for part in parts)
        return (np if on_host else jnp).concatenate(parts, axis=-1)

    def unravel(self, thetas: Shaped[Array, "*batch P"]) -> list[Layer]:
        """Flat parameters `[..., P]` to layers; on numpy arrays every tensor is a view.

        Raises:
            UserError: if the last axis is not `num_parameters` long.
        """
        if thetas.shape[-1] != self.num_parameters:
            raise UserError(
                f"theta has {thetas.shape[-1]} parameters, but a policy of layers "
                f"{'-'.join(map(str, self.layer_sizes))} has {self.num_parameters}"
            )
        return split(self.shapes, thetas)

    def logits(self, layers: Sequence[Layer], observation: Float[Array, " observation"]) -> Array:
        """The last layer's outputs `[action]` for one observation, before `output` is applied."""
        return forward(layers, observation, ACTIVATIONS[self.activation])

    def apply(self, layers: Sequence[Layer], observation: Float[Array, " observation"]) -> Array:
        """One policy's action for one observation: `[action]`, or an index for `argmax`."""
        return self.act(self.logits(layers, observation))

    def act(self, outputs: Float[Array, " action"]) -> Array:
        """The action that the last layer's outputs `[action]` become, see `apply`."""
        if self.output == "argmax":
            return jnp.argmax(outputs, axis=-1)
        return jnp.tanh(outputs) if self.output == "tanh" else jnp.clip(outputs, -1.0, 1.0)


def _init_layer(key: PRNGKey, shape: tuple[int, int], init: Init, scale: float) -> Layer:
    fan_in, fan_out = shape
    bound = scale / math.sqrt(fan_in)
    if init == "zeros":
        return Layer(jnp.zeros(shape), jnp.zeros(fan_out))
    if init == "lecun_normal":
        return Layer(bound * jax.random.normal(key, shape), jnp.zeros(fan_out))
    kernel_key, bias_key = jax.random.split(key)
    return Layer(
        jax.random.uniform(kernel_key, shape, minval=-bound, maxval=bound),
        jax.random.uniform(bias_key, (fan_out,), minval=-bound, maxval=bound),
    )
