"""Annotations executed: what every function is given, and gives back, is of the type that it says.

jaxtyping calls `checked` for each function of the modules below, and compares the shapes' letters
within a call. typeguard's own decorator reads a function's source, of which jaxtyping's have none.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Literal, get_origin, get_type_hints

import numpy as np
from jaxtyping import install_import_hook, jaxtyped
from typeguard import (
    ForwardRefPolicy,
    TypeCheckError,
    TypeCheckMemo,
    check_type,
    check_type_internal,
    checker_lookup_functions,
)

MODULES = (
    "epvf.analysis",
    "epvf.methods",
    "epvf.policies.activations",
    "epvf.policies.crowd",
    "epvf.policies.formats",
    "epvf.policies.host_noise",
    "epvf.policies.layers",
    "epvf.policies.mlp",
    "epvf.policies.noise",
    "epvf.policies.population",
    "epvf.policies.reference",
    "epvf.policies.scaling",
    "epvf.runs",
    "epvf.runtime",
    "epvf.training",
    "epvf.value",
    "epvf.tasks.adapters",
    "epvf.tasks.base",
    "epvf.tasks.engines.environment",
    "epvf.tasks.engines.mjx",
    "epvf.tasks.engines.native",
    "epvf.tasks.engines.rollout",
    "epvf.tasks.engines.segments",
    "epvf.zoo",
)
"""All but those that numba or Warp compile, which take no decorated function, and `epvf.config`,
which knows no shapes, checks its own types, and of which every test makes hundreds of calls."""


_loose: ContextVar[bool] = ContextVar("loose", default=False)


@contextmanager
def loose() -> Iterator[None]:
    """Checks nothing in the block: for what the library itself refuses, in words."""
    before = _loose.set(True)
    try:
        yield
    finally:
        _loose.reset(before)


def install() -> None:
    """Checks modules that are imported from now on."""
    checker_lookup_functions.insert(0, _checker_of_named_tuples)
    install_import_hook(MODULES, "contracts.checked")


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that checks its arguments, or, where it has a return type, what it returns.

    jaxtyping makes one of either kind for each function, and asks them in turn.
    """
    signature = inspect.signature(function)
    if _is_told(signature.return_annotation):
        return partial(_check_returned, function, signature.return_annotation)
    wanted = {
        name: parameter.annotation
        for name, parameter in signature.parameters.items()
        if _is_told(parameter.annotation)
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    return partial(_check_arguments, signature, wanted)


def _is_told(annotation: Any) -> bool:
    # names that a user chose are refused by the library itself, in words
    return (
        annotation not in (Any, inspect.Parameter.empty) and get_origin(annotation) is not Literal
    )


def _check_returned(function: Callable[..., Any], wanted: Any, *args: Any, **kwargs: Any) -> Any:
    found = function(*args, **kwargs)
    _check(found, wanted)
    return found


def _check_arguments(
    signature: inspect.Signature, wanted: dict[str, Any], *args: Any, **kwargs: Any
) -> None:
    bound = signature.bind(*args, **kwargs).arguments
    for name in [n for n in wanted if n in bound]:
        _check(bound[name], wanted[name])


def _check(value: Any, wanted: Any) -> None:
    if _loose.get():
        return
    try:
        check_type(value, wanted, forward_ref_policy=ForwardRefPolicy.IGNORE)
    except TypeCheckError:
        if not isinstance(value, bool | int | float):
            raise
        # JAX takes a Python number for the array that it makes of it
        check_type(np.asarray(value), wanted, forward_ref_policy=ForwardRefPolicy.IGNORE)


def _checker_of_named_tuples(kind: Any, arguments: Any, extras: Any) -> Callable[..., None] | None:
    named = isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")
    return _check_named_tuple if named else None


def _check_named_tuple(value: Any, kind: Any, arguments: Any, memo: TypeCheckMemo) -> None:
    """The letters of a tuple's fields are its own: a function may be given two sizes of it."""
    if not isinstance(value, kind):
        raise TypeCheckError(f"is no {kind.__name__}")
    with jaxtyped("context"):
        for name, wanted in get_type_hints(kind).items():
            check_type_internal(getattr(value, name), wanted, memo)
