"""Which axes of a network's tensors are renumbered together, and what commutes with that.

Renumbering the hidden neurons of an MLP changes θ but not the policy. Zhou et al. 2024 span the
linear maps that commute with such renumberings by the valid partitions of the tensors' axes.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from epvf.errors import UserError, unknown
from epvf.policies.mlp import Layer, Policy
from epvf.types import Array

Groups: TypeAlias = tuple[str, ...]
Permutable: TypeAlias = Literal["hidden", "all"]


@dataclass(frozen=True)
class PermutationSpec:
    """Which axes of a network's tensors are renumbered together.

    Attributes:
        shapes: shape of each tensor.
        axes: for each axis of each tensor the name of its group, or None where it is fixed. Axes
            of one group are permuted by one permutation, wherever they occur.
    """

    shapes: tuple[tuple[int, ...], ...]
    axes: tuple[tuple[str | None, ...], ...]

    def __post_init__(self) -> None:
        if [len(shape) for shape in self.shapes] != [len(axes) for axes in self.axes]:
            raise UserError(f"axes {self.axes} do not name every axis of shapes {self.shapes}")
        sizes: dict[str, int] = {}
        for name, size in self._named():
            if sizes.setdefault(name, size) != size:
                raise UserError(f"axes of group {name!r} have sizes {sizes[name]} and {size}")

    def _named(self) -> Iterator[tuple[str, int]]:
        for shape, axes in zip(self.shapes, self.axes, strict=True):
            yield from ((a, n) for a, n in zip(axes, shape, strict=True) if a is not None)

    @property
    def sizes(self) -> dict[str, int]:
        """Size of each group."""
        return dict(self._named())

    @property
    def groups(self) -> tuple[Groups, ...]:
        """Groups of each tensor's permutable axes: those that stay axes when folded."""
        return tuple(tuple(a for a in axes if a is not None) for axes in self.axes)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each tensor when folded: the product of its fixed axes."""
        return tuple(
            math.prod(n for n, a in zip(shape, axes, strict=True) if a is None)
            for shape, axes in zip(self.shapes, self.axes, strict=True)
        )

    def fold(self, tensors: Sequence[Array]) -> list[jax.Array]:
        """Tensors `[B, *shape]` to feature tensors `[C, B, *axes]`."""
        folded = []
        for tensor, axes, channels in zip(tensors, self.axes, self.channels, strict=True):
            fixed = [i + 1 for i, a in enumerate(axes) if a is None]
            free = [i + 1 for i, a in enumerate(axes) if a is not None]
            moved = jnp.transpose(jnp.asarray(tensor), (*fixed, 0, *free))
            folded.append(moved.reshape(channels, *moved.shape[len(fixed) :]))
        return folded

    def permute(
        self, tensors: Sequence[Array], renumbering: Mapping[str, Int[Array, " n"]]
    ) -> list[Array]:
        """Renumbers tensors `[..., *shape]`: new index `i` of `g` is old `renumbering[g][i]`."""
        renumbered = list(tensors)
        for t, axes in enumerate(self.axes):
            for i, group in enumerate(axes):
                if group is not None and group in renumbering:
                    at = (..., renumbering[group], *[slice(None)] * (len(axes) - i - 1))
                    renumbered[t] = renumbered[t][at]
        return renumbered


def policy_spec(policy: Policy, permutable: Permutable = "hidden") -> PermutationSpec:
    """The permutation specification of a policy's tensors: kernel, bias, layer by layer.

    Args:
        policy: any policy whose `unravel` gives dense layers.
        permutable: `hidden`: neurons of hidden layers, which is the symmetry a policy has. `all`:
            observations and actions too, as the example of the UNF authors has it; the result
            then cannot tell one observation or action from another.

    Raises:
        UserError: for another kind of layer or an unknown `permutable`.
    """
    if permutable not in ("hidden", "all"):
        raise unknown("unf_permutable", permutable, ("hidden", "all"))
    layers = policy.unravel(np.zeros(policy.num_parameters, np.float32))
    names: list[str | None] = ["observation", *(f"hidden{i}" for i in range(1, len(layers)))]
    names.append("action")
    if permutable == "hidden":
        names[0] = names[-1] = None
    shapes, axes = [], []
    for layer, fan_in, fan_out in zip(layers, names[:-1], names[1:], strict=True):
        if not isinstance(layer, Layer):
            raise unknown("layer kind for the UNF", type(layer).__name__, (Layer.__name__,))
        shapes += [layer.kernel.shape, layer.bias.shape]
        axes += [(fan_in, fan_out), (fan_out,)]
    return PermutationSpec(tuple(shapes), tuple(axes))


def partitions(groups: Groups) -> Iterator[tuple[int, ...]]:
    """Valid partitions of indices: no block mixes groups. Yields the block of every index.

    Blocks are numbered in the order of their first index. Over the axes of an input and an output
    tensor together, these are the basis terms of the linear equivariant maps between them
    (Zhou et al. 2024, §3.2): with every index of a group in one set, a product of Bell numbers.
    Terms with more blocks than a group has members repeat others.
    """

    def extend(blocks: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        if len(blocks) == len(groups):
            yield blocks
            return
        group, count = groups[len(blocks)], max(blocks, default=-1) + 1
        same = {b for b, g in zip(blocks, groups, strict=False) if g == group}
        for block in (*sorted(same), count):
            yield from extend((*blocks, block))

    return extend(())
