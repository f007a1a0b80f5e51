"""Features of a tanh policy that flipping a hidden neuron's sign does not change."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from epvf.policies.mlp import Layer
from epvf.types import PRNGKey
from epvf.value.permutations import Groups
from epvf.value.unf import Params, draw_normals, mix_channels


@dataclass(frozen=True)
class SignInvariantLift:
    """Features of a tanh MLP that flipping a hidden neuron's sign does not change: our addition.

    tanh is odd, so a neuron whose incoming and outgoing weights all change sign leaves the policy
    as it is. Every weight is odd in the neurons that it touches; only products in which each
    neuron occurs an even number of times are invariant. Per neuron, all that is odd in it is
    gathered (incoming and outgoing weights, and products of kernels along the paths from the
    observation and to the action), mixed, squashed by tanh, and multiplied in pairs; an inner
    weight is multiplied by one such odd feature of each of its two neurons, which gives it a sign
    that no flip changes.

    Attributes:
        layer_sizes: of the policy; at least one hidden layer.
        channels: products per neuron.
    """

    layer_sizes: tuple[int, ...]
    channels: int

    @property
    def _hidden(self) -> tuple[int, ...]:
        return self.layer_sizes[1:-1]

    @property
    def sizes(self) -> tuple[tuple[str, int], ...]:
        """Pairs (group, size)."""
        return tuple((f"hidden{i + 1}", n) for i, n in enumerate(self._hidden))

    @property
    def groups(self) -> tuple[Groups, ...]:
        """Of the result: one tensor a hidden layer, one an inner kernel, and the last bias."""
        names = [name for name, _ in self.sizes]
        return (*((n,) for n in names), *zip(names[:-1], names[1:], strict=True), ())

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Of the result."""
        count = len(self._hidden)
        return (*[self.channels] * count, *[1] * (count - 1), self.layer_sizes[-1])

    def init(self, key: PRNGKey) -> Params:
        """Draws two mixing matrices `[channels, odd features]` for each hidden layer."""
        shapes: Params = {}
        for i, (name, _) in enumerate(self.sizes):
            fan_in = self.layer_sizes[0] + 1 + i + self.layer_sizes[-1]
            shapes[name] = dict.fromkeys(("left", "right"), (self.channels, fan_in))
        return jax.tree.map(lambda x: x / math.sqrt(x.shape[1]), draw_normals(key, shapes))

    def odd(self, layers: Sequence[Layer]) -> list[jax.Array]:
        """Everything odd in each hidden neuron, `[C, B, H]` for each hidden layer."""
        forward = [jnp.moveaxis(jnp.asarray(layers[0].kernel), 1, 0)]
        backward = [jnp.moveaxis(jnp.asarray(layers[-1].kernel), 2, 0)]
        for i, layer in enumerate(layers[:-1]):
            if i > 0:
                scale = 1 / math.sqrt(layer.kernel.shape[1])
                forward.append(scale * jnp.einsum("cbi,bij->cbj", forward[-1], layer.kernel))
            forward[-1] = jnp.concatenate([forward[-1], layer.bias[None]])
        for layer in reversed(layers[1:-1]):
            scale = 1 / math.sqrt(layer.kernel.shape[2])
            backward.append(scale * jnp.einsum("cbj,bij->cbi", backward[-1], layer.kernel))
        return [jnp.concatenate(pair) for pair in zip(forward, reversed(backward), strict=True)]

    def __call__(self, params: Params, layers: Sequence[Layer]) -> list[jax.Array]:
        """Feature tensors `[C, B, *axes]` of layers with leading axis `B`; see `groups`."""
        pairs = []
        for i, odd in enumerate(self.odd(layers)):
            mixes = params[f"hidden{i + 1}"]
            pairs.append([jnp.tanh(mix_channels(mixes[side], odd)) for side in ("left", "right")])
        vectors = [left * right for left, right in pairs]
        matrices = [
            jnp.asarray(layer.kernel)[None] * a[:1, :, :, None] * b[:1, :, None, :]
            for layer, (a, _), (_, b) in zip(layers[1:-1], pairs[:-1], pairs[1:], strict=True)
        ]
        return [*vectors, *matrices, jnp.asarray(layers[-1].bias).T]
