"""Tasks: what turns policies into returns.

The names below are loaded when first used, so that a process which only steps environments need not
wait for JAX.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from epvf.tasks.base import Replay, ReplayableTask, Task, TaskSpec
    from epvf.tasks.registry import describe, make, register

_HOMES = {
    "Replay": "epvf.tasks.base",
    "ReplayableTask": "epvf.tasks.base",
    "Task": "epvf.tasks.base",
    "TaskSpec": "epvf.tasks.base",
    "describe": "epvf.tasks.registry",
    "make": "epvf.tasks.registry",
    "register": "epvf.tasks.registry",
}

__all__ = [
    "Replay",
    "ReplayableTask",
    "Task",
    "TaskSpec",
    "describe",
    "make",
    "register",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
