"""Calls of a body's formulas: in JAX with JAX's functions, and what fails is told with its line."""

import math
from functools import cache
from pathlib import Path
from types import CellType, CodeType, FunctionType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from epvf.errors import UserError
from epvf.registry import in_a_line
from epvf.tasks import formulas

LONGEST = 200
"""Letters of a line that tells what is wrong."""

_TRACED = (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError)
_HINT = "in JAX: where, & and | instead of if, and, or, min, max"
_OURS = {"math", "numpy"}
_LIBRARIES = {"jax", "jaxlib", "numpy", "math", "builtins", "numba"}


def applied(body: Any, which: str, state: Any, traced: bool = False) -> Any:
    """What a formula makes of a state.

    Args:
        body: with the formula.
        which: its name: `observe`, `reward` or `terminated`.
        state: of one environment.
        traced: whether it holds arrays of JAX.

    Raises:
        UserError: if the formula fails; it names the file and the line.
    """
    formula = getattr(body, which)
    try:
        return (in_jax(formula) if traced else formula)(state)
    except UserError:
        raise
    except Exception as error:  # whatever somebody's formula does
        raise refused(body.name, which, formula, error) from error


def refused(task: str, which: str, formula: Any, error: BaseException) -> UserError:
    """That a formula does not work, where it stands, and why, in a line."""
    why = in_a_line(error)
    if isinstance(error, _TRACED):
        why = f"{type(error).__name__}; {_HINT}"
    return complaint(task, which, _place(formula, error), why)


def complaint(task: str, which: str, place: str, why: str) -> UserError:
    """That a formula does not work, in a line that is not too long."""
    told = f"formula {which!r} ({place}) of task {task!r} fails: {why}"
    return UserError(told if len(told) <= LONGEST else told[: LONGEST - 4] + " ...")


def place_of(formula: Any) -> str:
    """File and first line of a function."""
    code = getattr(formula, "__code__", None)
    return "?" if code is None else f"{Path(code.co_filename).name}:{code.co_firstlineno}"


def _place(formula: Any, error: BaseException) -> str:
    """File and line of the formula's file that was reached last."""
    code, place = getattr(formula, "__code__", None), place_of(formula)
    trace = error.__traceback__
    while trace is not None and code is not None:
        if trace.tb_frame.f_code.co_filename == code.co_filename:
            place = f"{Path(code.co_filename).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


@cache
def in_jax(function: Any) -> Any:
    """The function with JAX's functions where it, or a helper that it names, has numpy's or math's.

    So that one formula, written with `np.cos` or `math.cos`, can be traced.
    """
    return _in_jax(function, {})


def _in_jax(value: Any, done: dict[int, Any]) -> Any:
    if value is np or value is math:
        return jnp
    if isinstance(value, FunctionType):
        return done[id(value)] if id(value) in done else _rebound(value, done)
    own = isinstance(value, np.ufunc) or getattr(value, "__module__", None) in _OURS
    if own and callable(value) and not isinstance(value, type):
        return getattr(jnp, getattr(value, "__name__", ""), value)
    return value


def _rebound(function: FunctionType, done: dict[int, Any]) -> Any:
    done[id(function)] = function  # where a function names itself
    if (function.__module__ or "").partition(".")[0] in _LIBRARIES:
        return function
    if function.__module__ == formulas.__name__:  # these take both
        return function
    names, cells = function.__globals__, function.__closure__ or ()
    found = {name: names[name] for name in sorted(named(function.__code__)) if name in names}
    other = {name: _in_jax(value, done) for name, value in found.items()}
    enclosed = tuple(_in_jax(cell.cell_contents, done) for cell in cells)
    same = all(found[name] is value for name, value in other.items())
    if same and all(a is b.cell_contents for a, b in zip(enclosed, cells, strict=True)):
        return function
    done[id(function)] = FunctionType(
        function.__code__,
        names | other,
        function.__name__,
        function.__defaults__,
        tuple(map(CellType, enclosed)) or None,
    )
    return done[id(function)]


def named(code: CodeType) -> set[str]:
    """Names that code and the functions within it use."""
    inner = (named(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*inner)
