"""Tasks: what turns policies into returns."""

from epvf.tasks.base import Replay, ReplayableTask, Task, TaskSpec
from epvf.tasks.registry import engines, make

__all__ = ["Replay", "ReplayableTask", "Task", "TaskSpec", "engines", "make"]
