"""What a body's formulas are made of, as a short text: whether compiled ones are out of date."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np

from epvf.tasks import formulas
from epvf.tasks.body import Body

_LIBRARIES = {"builtins", "jax", "math", "numba", "numpy"}
"""What formulas call of these is not part of the formulas."""


_TRANSLATORS = (Path(__file__).with_name("jitted.py"), Path(formulas.__file__))
"""What else decides what numba makes of formulas."""


def fingerprint(body: Body) -> str:
    """Changes with the formulas' code and with every constant that they and their helpers name."""
    digest = hashlib.sha256()
    for file in _TRANSLATORS:
        digest.update(file.read_bytes())
    seen: set[int] = set()
    for formula in (body.observe, body.reward, body.terminated):
        digest.update(b"formula")
        for part in _parts(formula, seen):
            digest.update(part)
    shape = (body.observation_limit, sorted(body.reads), body.command_size)
    digest.update(repr(shape).encode())
    return digest.hexdigest()[:16]


def _parts(value: Any, seen: set[int]) -> Iterator[bytes]:
    """What a value is made of; functions with what they enclose and the globals that they name."""
    value = getattr(value, "py_func", value)  # of what numba has compiled already
    if isinstance(value, FunctionType):
        if id(value) in seen or _of_a_library(value.__module__):
            return
        seen.add(id(value))
        yield from _code(value.__code__)
        for cell in value.__closure__ or ():
            yield from _parts(cell.cell_contents, seen)
        for default in value.__defaults__ or ():
            yield from _parts(default, seen)
        yield from _globals(value, seen)
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype}{value.shape}".encode() + value.tobytes()
    elif isinstance(value, (int, float, complex, str, bytes, type(None), np.generic)):
        yield repr(value).encode()
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _parts(item, seen)


def _globals(function: FunctionType, seen: set[int]) -> Iterator[bytes]:
    names = sorted(set(_names(function.__code__)))
    modules = []
    for name in names:
        value = function.__globals__.get(name)
        if isinstance(value, ModuleType):
            modules += [] if _of_a_library(value.__name__) else [value]
        elif name in function.__globals__:
            yield name.encode()
            yield from _parts(value, seen)
    for module in modules:  # `constants.LIMIT`: the names are there, not what belongs to what
        for name in names:
            value = getattr(module, name, None)
            if isinstance(value, (int, float, tuple, np.ndarray, FunctionType)):
                yield f"{module.__name__}.{name}".encode()
                yield from _parts(value, seen)


def _of_a_library(module: str | None) -> bool:
    return (module or "").partition(".")[0] in _LIBRARIES


def _code(code: CodeType) -> Iterator[bytes]:
    yield code.co_code
    yield repr((code.co_names, code.co_varnames)).encode()
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code(constant)
        else:
            yield repr(constant).encode()


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
