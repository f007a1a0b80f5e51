"""Gymnasium's inverted double pendulum (`InvertedDoublePendulum-v5`)."""

from functools import partial
from typing import Any

from epvf.tasks.body import Body
from epvf.tasks.formulas import cos, sin
from epvf.tasks.gym_models import load
from epvf.tasks.starts import Around

FRAME_SKIP = 5  # of 0.01 s
VELOCITY_LIMIT = 10.0  # of what is observed
FORCE_LIMIT = 10.0
TIP = 0  # row of the sites
UPRIGHT = 2.0  # m
MIN_HEIGHT = 1.0  # m
HEALTHY_REWARD = 10.0
RESET_NOISE = 0.1


def observe(s: Any) -> tuple[Any, ...]:
    """`[9]` the cart's place (m), sines and cosines of the angles, velocities (m/s, rad/s) clipped
    to ±10, and the constraints' force on the cart (N), clipped to ±10."""
    velocities = s.qvel.clip(-VELOCITY_LIMIT, VELOCITY_LIMIT)
    force = s.qfrc_constraint.clip(-FORCE_LIMIT, FORCE_LIMIT)
    return s.qpos[:1], sin(s.qpos[1:]), cos(s.qpos[1:]), velocities, force[:1]


def reward(s: Any) -> Any:
    """10 for standing, less what the tip is off, and less the velocities' squares."""
    x, height = s.site_xpos[TIP][0], s.site_xpos[TIP][2]
    off = 0.01 * x**2 + (height - UPRIGHT) ** 2
    moving = 1e-3 * s.qvel[1] ** 2 + 5e-3 * s.qvel[2] ** 2
    return HEALTHY_REWARD * (1.0 - terminated(s)) - off - moving


def terminated(s: Any) -> Any:
    """Whether the tip is too low."""
    return s.site_xpos[TIP][2] <= MIN_HEIGHT


model = partial(load, "inverted_double_pendulum.xml", "inverted-double-pendulum")
"""Of the physics."""

BODY = Body(
    name="inverted-double-pendulum",
    model=model,
    frame_skip=FRAME_SKIP,
    episode_length=1000,
    observe=observe,
    reward=reward,
    terminated=terminated,
    starts=Around(model, RESET_NOISE, velocities="normal"),
    quickest="lanes",
)
