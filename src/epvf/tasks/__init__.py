"""Tasks: what turns policies into returns."""

from epvf.tasks.base import Replay, ReplayableTask, Task, TaskSpec
from epvf.tasks.registry import describe, make, register

__all__ = [
    "Replay",
    "ReplayableTask",
    "Task",
    "TaskSpec",
    "describe",
    "make",
    "register",
]
