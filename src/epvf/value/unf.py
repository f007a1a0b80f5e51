"""Functions of a network's weights that respect the symmetries of its neurons.

Renumbering the hidden neurons of an MLP changes θ but not the policy. The layers here commute
with such renumberings (equivariance), and the head after them does not see them (invariance).
They are Universal Neural Functionals (Zhou et al. 2024): the equivariant linear maps between
tensors are spanned by the valid partitions of their axes, one basis term each. With hidden axes
permutable and inputs and outputs not, they are the NF-HNP layers of Zhou et al. 2023.

A feature tensor is `[C, B, *axes]`: channels first, then policies, then the permutable axes.
Axes that are not permutable are folded into the channels, so every index of theirs has weights
of its own. Channels come first because mixing them is then one matrix product without a copy.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain, permutations
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Float

from epvf.types import Array, PRNGKey
from epvf.value.permutations import Groups, partitions

Params: TypeAlias = dict[str, Any]

REFERENCE_POLICIES = 128
"""Random policies on which the head's features are standardised when parameters are drawn."""


class View(NamedTuple):
    """One way of reading a tensor into shared indices, or of writing shared indices into one.

    A basis term is a view of an input tensor and a view of an output tensor with the same `key`:
    read means over the blocks that are not shared, write repeats along them.

    Attributes:
        tensor: number of the tensor.
        blocks: block of each of its axes; equal blocks mean the diagonal.
        shared: blocks that input and output share, in the order of the key.
        key: group of each shared block.
    """

    tensor: int
    blocks: tuple[int, ...]
    shared: tuple[int, ...]
    key: Groups


def _views(tensor: int, groups: Groups) -> Iterator[View]:
    """All views of a tensor, shared blocks in every order that keeps their groups sorted."""
    for blocks in partitions(groups):
        group_of = dict(zip(blocks, groups, strict=True))
        for shared in chain.from_iterable(
            permutations(group_of, r) for r in range(len(group_of) + 1)
        ):
            key = tuple(group_of[b] for b in shared)
            if list(key) == sorted(key):
                yield View(tensor, blocks, shared, key)


def _is_canonical(view: View) -> bool:
    """Whether shared blocks of one group are in order, so that each pairing occurs only once."""
    pairs = list(zip(view.key, view.shared, strict=True))
    return pairs == sorted(pairs)


@jax.custom_vjp
def mix_channels(weights: Float[Array, "D C"], x: Float[Array, "C *rest"]) -> jax.Array:
    """Linear map of the channels, `[D, *rest]`.

    Its gradient is written out because the automatic one transposes the large tensors.
    """
    return jnp.tensordot(weights, x, 1)


def _mix_forward(weights: Array, x: Array) -> tuple[jax.Array, tuple[Array, Array]]:
    return mix_channels(weights, x), (weights, x)


def _mix_backward(saved: tuple[Array, Array], grad: Array) -> tuple[jax.Array, jax.Array]:
    weights, x = saved
    flat_grad, flat_x = grad.reshape(grad.shape[0], -1), x.reshape(x.shape[0], -1)
    return jnp.einsum("dn,cn->dc", flat_grad, flat_x), jnp.tensordot(weights.T, grad, 1)


mix_channels.defvjp(_mix_forward, _mix_backward)


@dataclass(frozen=True)
class EquivariantLinear:
    """All linear maps between tensors that commute with renumbering, weighted (Zhou et al. 2024).

    Terms that share the same indices are evaluated together: what is read of all inputs is
    stacked along channels, mixed once, and each output takes its part. Sums are means, so that
    a term's size does not grow with the number of neurons.

    Attributes:
        groups: groups of each tensor's permutable axes, the same for inputs and outputs.
        sizes: pairs (group, size).
        in_channels: channels of each input tensor.
        out_channels: channels of each output tensor.
    """

    groups: tuple[Groups, ...]
    sizes: tuple[tuple[str, int], ...]
    in_channels: tuple[int, ...]
    out_channels: tuple[int, ...]

    @cached_property
    def reads(self) -> dict[Groups, list[View]]:
        """Views of the inputs by key."""
        return self._by_key(v for t, g in enumerate(self.groups) for v in _views(t, g))

    @cached_property
    def writes(self) -> dict[Groups, list[View]]:
        """Views of the outputs by key."""
        views = (v for t, g in enumerate(self.groups) for v in _views(t, g))
        return self._by_key(v for v in views if _is_canonical(v))

    @staticmethod
    def _by_key(views: Iterator[View]) -> dict[Groups, list[View]]:
        by_key: dict[Groups, list[View]] = {}
        for view in views:
            by_key.setdefault(view.key, []).append(view)
        return by_key

    @property
    def num_terms(self) -> int:
        """Basis terms between all pairs of tensors, not counting channels and biases."""
        return sum(len(reads) * len(self.writes[key]) for key, reads in self.reads.items())

    @property
    def in_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape `[C, *axes]` of each input for one policy."""
        sizes = dict(self.sizes)
        return tuple(
            (c, *(sizes[g] for g in groups))
            for c, groups in zip(self.in_channels, self.groups, strict=True)
        )

    @property
    def weight_shapes(self) -> dict[str, tuple[int, int]]:
        """Shape `[D, C]` of each key's weights: channels written by channels read."""
        return {
            _name(key): (
                sum(self.out_channels[v.tensor] for v in self.writes[key]),
                sum(self.in_channels[v.tensor] for v in reads),
            )
            for key, reads in self.reads.items()
        }

    def init(self, key: PRNGKey) -> Params:
        """Draws weights, one matrix a key, and zero biases; see `scale`."""
        return self.scale(draw_normals(key, self.weight_shapes))

    def scale(self, weights: Params) -> Params:
        """Parameters of weights of unit variance: inputs of unit variance keep it after a ReLU.

        He initialisation, the ways of writing into an output getting equal shares of its variance.
        """
        shares = Counter(v.tensor for views in self.writes.values() for v in views)
        params = dict(weights)
        for key, views in self.writes.items():
            weight = weights[_name(key)]
            variances = [
                [2 / (weight.shape[1] * shares[v.tensor])] * self.out_channels[v.tensor]
                for v in views
            ]
            params[_name(key)] = (
                jnp.sqrt(jnp.array(list(chain.from_iterable(variances))))[:, None] * weight
            )
        return params | {"bias": jnp.zeros(weights[_name(())].shape[0])}

    def __call__(self, params: Params, tensors: Sequence[Array]) -> list[jax.Array]:
        """Maps feature tensors `[C, B, *axes]` to feature tensors `[D, B, *axes]`."""
        known: dict[View, jax.Array] = {}
        outputs: list[Any] = [0.0] * len(self.groups)
        # Longest keys first: small tensors are then added to large ones, each large one once.
        for key in sorted(self.writes, key=len, reverse=True):
            stacked = [_read(tensors[v.tensor], v, known) for v in self.reads[key]]
            mixed = mix_channels(params[_name(key)], _concatenate(stacked))
            if not key:
                mixed = mixed + params["bias"][:, None]
            start = 0
            for view in self.writes[key]:
                stop = start + self.out_channels[view.tensor]
                part = _write(mixed[start:stop], view, dict(self.sizes), self.groups[view.tensor])
                outputs[view.tensor] = outputs[view.tensor] + part
                start = stop
        return outputs


def draw_normals(key: PRNGKey, shapes: Any) -> Any:
    """Standard normals for a tree of shapes; one draw, as each takes the compiler long."""
    leaves, tree = jax.tree.flatten(shapes, is_leaf=lambda x: isinstance(x, tuple))
    stops = list(accumulate(math.prod(shape) for shape in leaves))
    parts = jnp.split(jax.random.normal(key, (stops[-1],)), stops[:-1])
    drawn = [x.reshape(s) for x, s in zip(parts, leaves, strict=True)]
    return jax.tree.unflatten(tree, drawn)


def _name(key: Groups) -> str:
    return "-".join(("shared", *key))


def _concatenate(parts: Sequence[jax.Array]) -> jax.Array:
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


def _positions(blocks: tuple[int, ...], sizes: Sequence[int]) -> tuple[Any, ...]:
    """Index that takes `[C, B, *axes]` to `[C, B, *blocks]`, or writes the other way."""
    rank = len(sizes)
    at = [
        jnp.arange(n).reshape([-1 if i == b else 1 for i in range(rank)])
        for b, n in enumerate(sizes)
    ]
    return (slice(None), slice(None), *(at[b] for b in blocks))


def _read(x: Array, view: View, known: dict[View, jax.Array]) -> jax.Array:
    """Mean over what is not shared, `[C, B, *shared]`; means of means already known are reused."""
    kept = tuple(sorted(view.shared))
    inner = _means(x, view._replace(shared=kept, key=()), known)
    order = [kept.index(b) for b in view.shared]
    return jnp.transpose(inner, (0, 1, *(i + 2 for i in order)))


def _means(x: Array, view: View, known: dict[View, jax.Array]) -> jax.Array:
    if view in known:
        return known[view]
    missing = [b for b in range(max(view.blocks, default=-1) + 1) if b not in view.shared]
    if missing:
        wider = tuple(sorted((*view.shared, missing[-1])))
        known[view] = _means(x, view._replace(shared=wider), known).mean(
            axis=2 + wider.index(missing[-1])
        )
    elif len(set(view.blocks)) < len(view.blocks):
        sizes = [x.shape[2 + view.blocks.index(b)] for b in view.shared]
        known[view] = x[_positions(view.blocks, sizes)]
    else:
        known[view] = jnp.asarray(x)
    return known[view]


def _write(x: jax.Array, view: View, sizes: dict[str, int], groups: Groups) -> jax.Array:
    """Puts `[D, B, *shared]` where it belongs in `[D, B, *axes]`; repeated axes have size 1."""
    group_of = dict(zip(view.blocks, groups, strict=True))
    order = sorted(range(len(view.shared)), key=lambda i: view.shared[i])
    x = jnp.transpose(x, (0, 1, *(i + 2 for i in order)))
    x = jnp.expand_dims(x, [2 + b for b in group_of if b not in view.shared])
    if len(group_of) == len(view.blocks):
        return x
    full = [sizes[g] for g in group_of.values()]
    where = jnp.zeros((*x.shape[:2], *(sizes[g] for g in groups)), x.dtype)
    return where.at[_positions(view.blocks, full)].set(jnp.broadcast_to(x, (*x.shape[:2], *full)))


@dataclass(frozen=True)
class InvariantNetwork:
    """Equivariant layers with ReLU after each, then an invariant head.

    The head takes the mean of every channel of every tensor over its permutable axes
    (Zhou et al. 2023, §3.2) and standardises it: a mean over thousands of weights hardly varies
    from policy to policy, and what follows would not see it.

    Attributes:
        groups: groups of each tensor's permutable axes.
        sizes: pairs (group, size).
        in_channels: channels of each input tensor.
        channels: channels of a tensor with at most one permutable axis, in every layer.
        matrix_channels: channels of a tensor with more of them, which cost far more.
        num_layers: equivariant layers.
    """

    groups: tuple[Groups, ...]
    sizes: tuple[tuple[str, int], ...]
    in_channels: tuple[int, ...]
    channels: int
    matrix_channels: int
    num_layers: int

    @cached_property
    def layers(self) -> tuple[EquivariantLinear, ...]:
        """The equivariant layers, first to last."""
        hidden = tuple(self.channels if len(g) < 2 else self.matrix_channels for g in self.groups)
        widths = [self.in_channels, *[hidden] * self.num_layers]
        return tuple(
            EquivariantLinear(self.groups, self.sizes, fan_in, fan_out)
            for fan_in, fan_out in zip(widths[:-1], widths[1:], strict=True)
        )

    @property
    def size(self) -> int:
        """Length of the feature vector."""
        return sum(self.layers[-1].out_channels)

    def init(self, key: PRNGKey) -> Params:
        """Draws the layers and sets the head to standardise inputs of unit variance."""
        # Hundreds of small operations compile faster as one.
        return jax.jit(self._init)(key)

    def _init(self, key: PRNGKey) -> Params:
        shapes: Params = {f"layer{i}": x.weight_shapes for i, x in enumerate(self.layers)}
        shapes["reference"] = [
            (shape[0], REFERENCE_POLICIES, *shape[1:]) for shape in self.layers[0].in_shapes
        ]
        params = draw_normals(key, shapes)
        reference = params.pop("reference")
        for i, layer in enumerate(self.layers):
            params[f"layer{i}"] = layer.scale(params[f"layer{i}"])
        features = self.pool(self.equivariant(params, reference))
        params["head"] = _standardise(features, self.layers[-1].out_channels)
        return params

    def equivariant(self, params: Params, tensors: Sequence[Array]) -> list[jax.Array]:
        """Feature tensors `[C, B, *axes]` after the last layer's ReLU."""
        x = list(tensors)
        for i, layer in enumerate(self.layers):
            x = [rectify(y) for y in layer(params[f"layer{i}"], x)]
        return x

    def pool(self, tensors: Sequence[Array]) -> jax.Array:
        """Means over the permutable axes of every tensor, `[B, size]`."""
        # One axis after the other: a mean over the last axis alone is the fast one on CPU.
        pooled = []
        for x in tensors:
            while x.ndim > 2:
                x = x.mean(axis=-1)
            pooled.append(x)
        return jnp.concatenate(pooled).T

    def __call__(self, params: Params, tensors: Sequence[Array]) -> Float[jax.Array, "B F"]:
        """Invariant features of input tensors `[C, B, *axes]`."""
        features = self.pool(self.equivariant(params, tensors))
        head = params["head"]
        return (features - head["offset"][None]) * head["scale"][None]


def rectify(x: Array) -> jax.Array:
    """ReLU. Unlike `jax.nn.relu`, differentiating it writes out no tensor of zeros on CPU."""
    return jnp.where(x > 0, x, 0.0)


def _standardise(features: Float[jax.Array, "B F"], channels: Sequence[int]) -> Params:
    """Offset and scale that give features mean 0 and variance 1, a tensor's channels at a time."""
    stops = [sum(channels[: i + 1]) for i in range(len(channels) - 1)]
    scales = []
    for variance in jnp.split(features.var(axis=0), stops):
        # A ReLU that is hardly ever active must not be blown up by what it was here.
        floored = jnp.maximum(variance, 0.01 * variance.mean())
        scales.append(jnp.where(floored > 0, jax.lax.rsqrt(jnp.maximum(floored, 1e-12)), 1.0))
    return {"offset": features.mean(axis=0), "scale": jnp.concatenate(scales)}
