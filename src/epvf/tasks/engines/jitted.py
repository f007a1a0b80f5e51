"""Formulas to numba: a function compiled together with the helpers that it calls by name."""

from types import CellType, FunctionType
from typing import Any

from numba import njit, types
from numba.extending import overload
import numpy as np

from epvf.tasks import formulas


def jitted(function: Any) -> Any:
    """A function, and every plain function that it names or encloses, compiled by numba.

    numba takes only what is marked as compiled; formulas are not, since JAX takes them too.
    """
    return _jitted(function, {})


def _jitted(value: Any, done: dict[int, Any]) -> Any:
    if not isinstance(value, FunctionType) or value.__module__ == formulas.__name__:
        return value
    if id(value) in done:
        return done[id(value)]
    done[id(value)] = value  # where a function names itself
    names = {
        name: _jitted(value.__globals__[name], done)
        for name in value.__code__.co_names
        if name in value.__globals__
    }
    cells = tuple(CellType(_jitted(cell.cell_contents, done)) for cell in value.__closure__ or ())
    copy = FunctionType(
        value.__code__, value.__globals__ | names, value.__name__, value.__defaults__, cells
    )
    copy.__module__ = value.__module__
    done[id(value)] = njit(copy)
    return done[id(value)]


def _tell_numba(name: str) -> None:
    """What a function of `formulas` is to numba: numpy's of the same name."""
    function: Any = getattr(np, name)
    overload(getattr(formulas, name))(lambda x: lambda x: function(x))


for _name in formulas.UNARY:
    _tell_numba(_name)


@overload(formulas.where, strict=False)
def _compiled_where(condition: Any, then: Any, otherwise: Any) -> Any:
    return lambda condition, then, otherwise: then if condition else otherwise


@overload(abs, strict=False)
def _compiled_abs(x: Any) -> Any:
    return (lambda x: np.abs(x)) if isinstance(x, types.Array) else None
