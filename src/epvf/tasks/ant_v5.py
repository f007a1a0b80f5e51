"""Gymnasium's Ant of 105 observations (`Ant-v5`), not the paper's: that is `epvf.tasks.ant`."""

from functools import partial
from typing import Any

from epvf.tasks.body import Body
from epvf.tasks.gym_models import load
from epvf.tasks.starts import Around

FRAME_SKIP = 5  # of 0.01 s
SECONDS = 0.05
HEIGHT_RANGE = (0.2, 1.0)  # m
FORCE_LIMIT = 1.0
HEALTHY_REWARD = 1.0
CONTROL_COST = 0.5
CONTACT_COST = 5e-4
RESET_NOISE = 0.1
TORSO = 1  # row of the bodies


def observe(s: Any) -> tuple[Any, ...]:
    """`[105]` positions (m, rad) but where it is, velocities (m/s, rad/s), and the contact forces
    on the 13 bodies, clipped to ±1."""
    return s.qpos[2:], s.qvel, s.cfrc_ext[1:].clip(-FORCE_LIMIT, FORCE_LIMIT)


def reward(s: Any) -> Any:
    """Speed (m/s) of the torso, 1 for standing, less costs of controls and contacts."""
    speed = (s.xpos[TORSO][0] - s.previous_xpos[TORSO][0]) / SECONDS
    healthy = HEALTHY_REWARD * (1.0 - terminated(s))
    contacts = CONTACT_COST * (s.cfrc_ext.clip(-FORCE_LIMIT, FORCE_LIMIT) ** 2).sum()
    return speed + healthy - CONTROL_COST * (s.ctrl**2).sum() - contacts


def terminated(s: Any) -> Any:
    """Whether the torso is out of its height range."""
    return (s.qpos[2] < HEIGHT_RANGE[0]) | (s.qpos[2] > HEIGHT_RANGE[1])


model = partial(load, "ant.xml", "ant-v5")
"""Of the physics."""

BODY = Body(
    name="ant-v5",
    model=model,
    frame_skip=FRAME_SKIP,
    episode_length=1000,
    observe=observe,
    reward=reward,
    terminated=terminated,
    starts=Around(model, RESET_NOISE, velocities="normal"),
)
