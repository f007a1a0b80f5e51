"""Gymnasium's Hopper (`Hopper-v5`): its model, what it observes and is paid for."""

from functools import partial
from typing import Any

from epvf.tasks.body import Body, Draws
from epvf.tasks.gym_models import load

FRAME_SKIP = 4  # of 0.002 s
SECONDS = 0.008
STATE_LIMIT = 100.0  # positions but the first two, and velocities; beyond it the Hopper is down
VELOCITY_LIMIT = 10.0  # of what is observed
MIN_HEIGHT = 0.7  # m
MAX_ANGLE = 0.2  # rad
HEALTHY_REWARD = 1.0
CONTROL_COST = 1e-3
RESET_NOISE = 5e-3


def observe(s: Any) -> tuple[Any, Any]:
    """`[11]` positions (m, rad) but where it is, and velocities (m/s, rad/s) clipped to ±10."""
    return s.qpos[1:], s.qvel.clip(-VELOCITY_LIMIT, VELOCITY_LIMIT)


def reward(s: Any) -> Any:
    """Speed (m/s) forwards, 1 for standing, less the controls' cost."""
    metres = s.qpos[0] - s.previous_qpos[0]
    healthy = HEALTHY_REWARD * (1.0 - terminated(s))
    return metres / SECONDS + healthy - CONTROL_COST * (s.ctrl**2).sum()


def terminated(s: Any) -> Any:
    """Whether the episode is over: too low, tilted, or far from any sound state."""
    far = (abs(s.qpos[2:]).max() >= STATE_LIMIT) | (abs(s.qvel).max() >= STATE_LIMIT)
    return (s.qpos[1] <= MIN_HEIGHT) | (abs(s.qpos[2]) >= MAX_ANGLE) | far


def starts(random: Draws, num: int) -> tuple[Any, Any]:
    """Every position and velocity a little off, uniformly."""
    nq, nv = model().nq, model().nv
    offsets = random.uniform(-RESET_NOISE, RESET_NOISE, (num, nq + nv))
    return offsets[:, :nq], offsets[:, nq:]


model = partial(load, "hopper.xml", "hopper")
"""Of the physics."""

BODY = Body(
    name="hopper",
    model=model,
    frame_skip=FRAME_SKIP,
    episode_length=1000,
    observe=observe,
    reward=reward,
    terminated=terminated,
    starts=starts,
    quickest="lanes",
)
