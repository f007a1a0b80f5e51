"""Loops compiled by numba that are kept on disk, where there is a folder for them."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

_Function = TypeVar("_Function", bound=Callable[..., Any])


def kept(function: _Function, **more: Any) -> _Function:
    """Compiled without Python's lock, and kept beside its source or in the user's cache.

    Where neither the installation nor a home can be written it is compiled afresh each time.

    Args:
        function: a loop.
        more: options of numba's.
    """
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"} | more
    try:
        return cast(_Function, njit(cache=True, **options)(function))
    except RuntimeError:  # numba finds no folder
        return cast(_Function, njit(**options)(function))
