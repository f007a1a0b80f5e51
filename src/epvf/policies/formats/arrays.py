"""numpy's and JAX's arrays as pickles describe them."""

import math
from typing import Any

import numpy as np

from epvf.errors import UserError
from epvf.policies.formats.pickles import Made, Name

NUMPY_NAMES = frozenset(
    f"{package}.{name}"
    for package in ("numpy.core", "numpy._core")
    for name in ("multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer")
) | {"numpy.ndarray", "numpy.dtype"}
JAX_NAMES = frozenset({"jax._src.array._reconstruct_array"})

_KINDS = frozenset({"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"})


def array_of(made: Any, source: str) -> np.ndarray:
    """The array that a pickle's record stands for.

    Raises:
        UserError: if it stands for none, or its numbers are not there.
    """
    if not isinstance(made, Made):
        raise UserError(f"{source} has {type(made).__name__} where an array should be")
    try:
        return _array(made)
    except (ValueError, TypeError, IndexError, KeyError, OverflowError) as error:
        raise UserError(f"{source} has an array that is not whole") from error


def _array(made: Made) -> np.ndarray:
    if made.name.endswith("._reconstruct_array"):  # JAX: what makes numpy's, and its state
        _, args, state, _ = made.args
        return _array(Made("numpy._core.multiarray._reconstruct", args, state))
    if made.name.endswith("._reconstruct"):
        _, shape, dtype, fortran, data = made.state
        return _numbers(data, dtype, shape, "F" if fortran else "C")
    if made.name.endswith("._frombuffer"):
        data, dtype, shape, order = made.args
        return _numbers(data, dtype, shape, order)
    if made.name.endswith(".scalar"):
        dtype, data = made.args
        return _numbers(data, dtype, (), "C")
    raise ValueError(made.name)


def _numbers(data: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    kind = _dtype(dtype)
    if len(data) != kind.itemsize * math.prod(shape):
        raise ValueError("of another size")
    return np.frombuffer(bytes(data), kind).reshape(shape, order="F" if order == "F" else "C")


def _dtype(made: Any) -> np.dtype[Any]:
    if isinstance(made, Name):
        return np.dtype(made.dotted.rpartition(".")[2])
    name = made.args[0]
    if made.name != "numpy.dtype" or name not in _KINDS:
        raise ValueError("no numbers")
    order = made.state[1] if made.state else "<"
    return np.dtype(f"{order if order in '<>' else '|'}{name}")
