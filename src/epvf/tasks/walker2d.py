"""Gymnasium's Walker2d (`Walker2d-v5`): its model, what it observes and is paid for."""

from functools import partial
from typing import Any

from epvf.tasks.body import Body, Draws
from epvf.tasks.gym_models import load

FRAME_SKIP = 4  # of 0.002 s
SECONDS = 0.008
VELOCITY_LIMIT = 10.0  # of what is observed
HEIGHT_RANGE = (0.8, 2.0)  # m
MAX_ANGLE = 1.0  # rad
HEALTHY_REWARD = 1.0
CONTROL_COST = 1e-3
RESET_NOISE = 5e-3


def observe(s: Any) -> tuple[Any, Any]:
    """`[17]` positions (m, rad) but where it is, and velocities (m/s, rad/s) clipped to ±10."""
    return s.qpos[1:], s.qvel.clip(-VELOCITY_LIMIT, VELOCITY_LIMIT)


def reward(s: Any) -> Any:
    """Speed (m/s) forwards, 1 for standing, less the controls' cost."""
    metres = s.qpos[0] - s.previous_qpos[0]
    healthy = HEALTHY_REWARD * (1.0 - terminated(s))
    return metres / SECONDS + healthy - CONTROL_COST * (s.ctrl**2).sum()


def terminated(s: Any) -> Any:
    """Whether the episode is over: the torso too low, too high, or tilted."""
    height, angle = s.qpos[1], abs(s.qpos[2])
    return (height <= HEIGHT_RANGE[0]) | (height >= HEIGHT_RANGE[1]) | (angle >= MAX_ANGLE)


def starts(random: Draws, num: int) -> tuple[Any, Any]:
    """Every position and velocity a little off, uniformly."""
    nq, nv = model().nq, model().nv
    offsets = random.uniform(-RESET_NOISE, RESET_NOISE, (num, nq + nv))
    return offsets[:, :nq], offsets[:, nq:]


model = partial(load, "walker2d_v5.xml", "walker2d")
"""Of the physics."""

BODY = Body(
    name="walker2d",
    model=model,
    frame_skip=FRAME_SKIP,
    episode_length=1000,
    observe=observe,
    reward=reward,
    terminated=terminated,
    starts=starts,
    quickest="lanes",
)
