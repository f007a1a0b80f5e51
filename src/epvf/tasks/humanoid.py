"""Gymnasium's Humanoid (`Humanoid-v5`): its model, what it observes and is paid for."""

from functools import partial
from typing import Any

from epvf.tasks.body import Body
from epvf.tasks.formulas import minimum
from epvf.tasks.gym_models import load
from epvf.tasks.starts import Around

FRAME_SKIP = 5  # of 0.003 s
SECONDS = 0.015
HEIGHT_RANGE = (1.0, 2.0)  # m
FORWARD_REWARD = 1.25
HEALTHY_REWARD = 5.0
CONTROL_COST = 0.1
CONTACT_COST = 5e-7
MAX_CONTACT_COST = 10.0
RESET_NOISE = 1e-2
ALL = 0  # row of `subtree_com`: the whole robot's


def observe(s: Any) -> tuple[Any, ...]:
    """`[348]` positions (m, rad) but where it is, velocities (22 + 23), and of the 13 bodies
    inertias (130), velocities (78), the actuators' forces (17) and contact forces (78)."""
    forces = s.qfrc_actuator[6:]
    return s.qpos[2:], s.qvel, s.cinert[1:], s.cvel[1:], forces, s.cfrc_ext[1:]


def reward(s: Any) -> Any:
    """Speed (m/s) of the centre of mass, 5 for standing, less costs of controls and contacts."""
    speed = (s.subtree_com[ALL][0] - s.previous_subtree_com[ALL][0]) / SECONDS
    contacts = minimum(CONTACT_COST * (s.cfrc_ext**2).sum(), MAX_CONTACT_COST)
    healthy = HEALTHY_REWARD * (1.0 - terminated(s))
    return FORWARD_REWARD * speed + healthy - CONTROL_COST * (s.ctrl**2).sum() - contacts


def terminated(s: Any) -> Any:
    """Whether the torso is out of its height range."""
    return (s.qpos[2] <= HEIGHT_RANGE[0]) | (s.qpos[2] >= HEIGHT_RANGE[1])


model = partial(load, "humanoid.xml", "humanoid")
"""Of the physics."""

BODY = Body(
    name="humanoid",
    model=model,
    frame_skip=FRAME_SKIP,
    episode_length=1000,
    observe=observe,
    reward=reward,
    terminated=terminated,
    starts=Around(model, RESET_NOISE),
)
