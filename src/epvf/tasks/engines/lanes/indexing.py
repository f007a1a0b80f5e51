"""Gather, scatter and their like on numpy arrays, whatever stands in them.

The indices are numbers. Semantics: https://openxla.org/xla/operation_semantics, as in `jax.lax`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Combine = Callable[[Any, Any], Any]
"""What stands in an array and an update to what stands there then."""


def gather(
    operand: np.ndarray,
    indices: np.ndarray,
    numbers: Any,
    sizes: Sequence[int],
    mode: Any,
    fill: Any,
) -> np.ndarray:
    """`lax.gather`; `fill` is for what lies outside where the mode fills."""
    batch = indices.shape[:-1]
    dropped = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    window = [size for d, size in enumerate(sizes) if d not in dropped]
    out = np.empty((*batch, *window), operand.dtype)
    for at in np.ndindex(*batch):
        start = _start(
            operand.ndim,
            indices[at],
            at,
            numbers.start_index_map,
            numbers.operand_batching_dims,
            numbers.start_indices_batching_dims,
        )
        if _outside(start, sizes, operand.shape):
            if "FILL" in str(mode).upper():
                out[at] = fill
                continue
            start = _clamped(start, sizes, operand.shape)
        out[at] = operand[_window(start, sizes)].reshape(window)
    rank = len(batch) + len(window)
    places = [d for d in range(rank) if d not in numbers.offset_dims] + list(numbers.offset_dims)
    return np.moveaxis(out, range(rank), places)


def scatter(
    operand: np.ndarray,
    indices: np.ndarray,
    updates: np.ndarray,
    numbers: Any,
    mode: Any,
    combine: Combine,
) -> np.ndarray:
    """`lax.scatter` and its kin; updates outside are dropped unless the mode clips."""
    out = operand.copy()
    batch_dims = [d for d in range(updates.ndim) if d not in numbers.update_window_dims]
    missing = {*numbers.inserted_window_dims, *numbers.operand_batching_dims}
    window_dims = [d for d in range(operand.ndim) if d not in missing]
    sizes = [1] * operand.ndim
    for d, update_dim in zip(window_dims, numbers.update_window_dims, strict=True):
        sizes[d] = updates.shape[update_dim]
    rows = np.moveaxis(updates, batch_dims, range(len(batch_dims)))
    for at in np.ndindex(*rows.shape[: len(batch_dims)]):
        start = _start(
            operand.ndim,
            indices[at],
            at,
            numbers.scatter_dims_to_operand_dims,
            numbers.operand_batching_dims,
            numbers.scatter_indices_batching_dims,
        )
        if _outside(start, sizes, operand.shape):
            if "CLIP" not in str(mode).upper():
                continue
            start = _clamped(start, sizes, operand.shape)
        target = out[_window(start, sizes)]  # a view
        update = rows[at].reshape(sizes)
        for place in np.ndindex(*sizes):
            target[place] = combine(target[place], update[place])
    return out


def dynamic_slice(operand: np.ndarray, start: Sequence[int], sizes: Sequence[int]) -> np.ndarray:
    """`lax.dynamic_slice`: what would begin outside is moved inside."""
    return operand[_window(_clamped(start, sizes, operand.shape), sizes)]


def dynamic_update_slice(
    operand: np.ndarray, update: np.ndarray, start: Sequence[int]
) -> np.ndarray:
    """`lax.dynamic_update_slice`."""
    out = operand.copy()
    out[_window(_clamped(start, update.shape, operand.shape), update.shape)] = update
    return out


def pad(operand: np.ndarray, value: Any, config: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """`lax.pad` with its low, high and interior padding, of which the first two may be negative."""
    for d, (low, high, interior) in enumerate(config):
        size = operand.shape[d]
        spread = size + max(size - 1, 0) * interior
        shape = list(operand.shape)
        shape[d] = max(low, 0) + spread + max(high, 0)
        out = np.full(shape, value, operand.dtype)
        inside = [slice(None)] * operand.ndim
        inside[d] = slice(max(low, 0), max(low, 0) + spread, interior + 1)
        out[tuple(inside)] = operand
        inside[d] = slice(max(-low, 0), shape[d] - max(-high, 0))
        operand = out[tuple(inside)]
    return operand


def broadcast_in_dim(
    operand: np.ndarray, shape: Sequence[int], dimensions: Sequence[int]
) -> np.ndarray:
    """`lax.broadcast_in_dim`."""
    aligned = [1] * len(shape)
    for d, size in zip(dimensions, operand.shape, strict=True):
        aligned[d] = size
    return np.broadcast_to(operand.reshape(aligned), shape)


def _start(
    rank: int,
    index: np.ndarray,
    at: tuple[int, ...],
    dims: Sequence[int],
    batching_dims: Sequence[int],
    batching_of: Sequence[int],
) -> list[int]:
    start = [0] * rank
    for d, i in zip(dims, index, strict=True):
        start[d] = int(i)
    for d, of in zip(batching_dims, batching_of, strict=True):
        start[d] = at[of]
    return start


def _outside(start: Sequence[int], sizes: Sequence[int], shape: Sequence[int]) -> bool:
    return any(i < 0 or i + size > room for i, size, room in zip(start, sizes, shape, strict=True))


def _clamped(start: Sequence[int], sizes: Sequence[int], shape: Sequence[int]) -> list[int]:
    return [
        min(max(int(i), 0), room - size) for i, size, room in zip(start, sizes, shape, strict=True)
    ]


def _window(start: Sequence[int], sizes: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(i, i + size) for i, size in zip(start, sizes, strict=True))
