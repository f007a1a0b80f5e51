"""Annotations executed: what every function is given, and gives back, is of the type that it says.

jaxtyping calls `checked` for each function of the modules below, and compares the shapes' letters
within a call. typeguard's own decorator reads a function's source, of which jaxtyping's have none.
"""

import inspect
from collections.abc import Callable
from typing import Any, Literal, get_origin

from jaxtyping import install_import_hook
from typeguard import ForwardRefPolicy, check_type

MODULES = (
    "epvf.analysis",
    "epvf.config",
    "epvf.methods",
    "epvf.policies",
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
)
"""All but those that numba or Warp compile, which take no decorated function."""


def install() -> None:
    """Checks modules that are imported from now on."""
    install_import_hook(MODULES, "contracts.checked")


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that checks its arguments against its signature, and nothing else."""
    signature = inspect.signature(function)
    wanted = {
        name: parameter.annotation
        for name, parameter in signature.parameters.items()
        if parameter.annotation not in (Any, parameter.empty)
        # names that a user chose are refused by the library itself, in words
        and get_origin(parameter.annotation) is not Literal
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }

    def check(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs).arguments
        for name, annotation in wanted.items():
            if name in bound:
                check_type(bound[name], annotation, forward_ref_policy=ForwardRefPolicy.IGNORE)

    return check
