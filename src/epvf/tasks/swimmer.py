"""Gymnasium's Swimmer (`Swimmer-v5`): its model, what it observes and is paid for."""

from functools import partial
from typing import Any

from epvf.tasks.body import Body
from epvf.tasks.gym_models import load
from epvf.tasks.starts import Around

FRAME_SKIP = 4  # of 0.01 s
SECONDS = 0.04
CONTROL_COST = 1e-4
RESET_NOISE = 0.1


def observe(s: Any) -> tuple[Any, Any]:
    """`[8]` positions (rad) but where it is, and velocities (m/s, rad/s)."""
    return s.qpos[2:], s.qvel


def reward(s: Any) -> Any:
    """Speed (m/s) forwards, less the controls' cost."""
    return (s.qpos[0] - s.previous_qpos[0]) / SECONDS - CONTROL_COST * (s.ctrl**2).sum()


model = partial(load, "swimmer.xml", "swimmer")
"""Of the physics."""

BODY = Body(
    name="swimmer",
    model=model,
    frame_skip=FRAME_SKIP,
    episode_length=1000,
    observe=observe,
    reward=reward,
    starts=Around(model, RESET_NOISE),
    quickest="lanes",
)
