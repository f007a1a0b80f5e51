"""Formulas to numba: a function compiled together with the helpers that it calls by name."""

from types import CellType, FunctionType
from typing import Any

import jax.numpy as jnp
import numpy as np
from numba import njit, types
from numba.extending import overload

from epvf.tasks import formulas


def jitted(function: Any, version: str) -> Any:
    """A function, and every plain function that it names or encloses, compiled by numba.

    numba takes only what is marked as compiled; formulas are not, since JAX takes them too.
    """
    return _jitted(function, version, {})


def renamed(
    function: FunctionType, version: str, names: dict[str, Any], cells: Any = None
) -> FunctionType:
    """The function under a name of this version, with these globals and what it encloses."""
    code, defaults = function.__code__, function.__defaults__
    copy = FunctionType(code, names, function.__name__, defaults, cells)
    copy.__qualname__ = f"{function.__qualname__}_{version}"
    copy.__module__ = function.__module__
    return copy


def _jitted(value: Any, version: str, done: dict[int, Any]) -> Any:
    if value is jnp:  # of which numba knows nothing
        return np
    if not isinstance(value, FunctionType) or value.__module__ == formulas.__name__:
        return value
    if id(value) in done:
        return done[id(value)]
    done[id(value)] = value  # where a function names itself
    helpers = {
        name: _jitted(value.__globals__[name], version, done)
        for name in value.__code__.co_names
        if name in value.__globals__
    }
    enclosed = value.__closure__ or ()
    cells = tuple(CellType(_jitted(cell.cell_contents, version, done)) for cell in enclosed)
    names = value.__globals__ | helpers
    done[id(value)] = njit(renamed(value, version, names, cells or None))
    return done[id(value)]


def _tell_numba(name: str) -> None:
    """What a function of `formulas` is to numba: numpy's of the same name."""
    function: Any = getattr(np, name)

    def compiled(x: Any) -> Any:
        return function(x)

    # the linker knows functions by their names alone
    compiled.__qualname__ = f"formulas_{name}"
    overload(getattr(formulas, name), strict=False)(lambda x: compiled)


def _tell_numba_of_two(name: str) -> None:
    function: Any = getattr(np, name)

    def compiled(x: Any, y: Any) -> Any:
        return function(x, y)

    compiled.__qualname__ = f"formulas_{name}"
    overload(getattr(formulas, name), strict=False)(lambda x, y: compiled)


for _name in formulas.UNARY:
    _tell_numba(_name)
for _name in formulas.BINARY:
    _tell_numba_of_two(_name)


@overload(formulas.where, strict=False)
def _compiled_where(condition: Any, then: Any, otherwise: Any) -> Any:
    return lambda condition, then, otherwise: then if condition else otherwise


@overload(abs, strict=False)
def _compiled_abs(x: Any) -> Any:
    return (lambda x: np.abs(x)) if isinstance(x, types.Array) else None
