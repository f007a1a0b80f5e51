"""What a policy reads and does on a task, in words: for files that leave the library."""

import re
from typing import Any

import mujoco

from epvf.errors import UserError
from epvf.tasks.body import Body
from epvf.tasks.entry import TaskEntry
from epvf.tasks.registry import TASKS


def interface(name: str) -> dict[str, str]:
    """Order and units of observations and actions of a task; empty where nobody tells.

    Keys: `observation`, `actions`, `action_low` and `action_high` (of continuous actions, in the
    units of the controls, which a policy's -1 and 1 stand for), `control_seconds` between two
    actions.

    Args:
        name: of a task; one that is not known is not an error.
    """
    try:
        if name not in TASKS:
            return {}
        task: Any = TASKS[name]
    except UserError:  # of another package, and broken
        return {}
    if isinstance(task, TaskEntry):
        return dict(task.interface)
    return _of_body(task) if isinstance(task, Body) else {}


def _of_body(body: Body) -> dict[str, str]:
    model = body.model()
    told = " ".join((body.observe.__doc__ or "").replace("`", "").split()).rstrip(".")
    named = [_actuator(model, index) for index in range(model.nu)]
    ends = [" ".join(f"{end:g}" for end in column) for column in model.actuator_ctrlrange.T]
    seconds = model.opt.timestep * body.frame_skip
    return {
        "observation": re.sub(r"\s+", " ", told),
        "actions": f"[{model.nu}] controls of {', '.join(named)}",
        "action_low": ends[0],
        "action_high": ends[1],
        "control_seconds": f"{seconds:g}",
    }


def _actuator(model: Any, index: int) -> str:
    """The actuator's name, or that of the joint that it drives."""
    name = mujoco.mj_id2name(model, mujoco.mjtObj.mjOBJ_ACTUATOR, index)
    joint = model.actuator_trnid[index, 0]
    return name or mujoco.mj_id2name(model, mujoco.mjtObj.mjOBJ_JOINT, joint) or f"{index}"
