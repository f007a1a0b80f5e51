"""Gymnasium's Reacher (`Reacher-v5`): its model, what it observes and is paid for."""

import math
from functools import partial
from typing import Any

from epvf.tasks.body import Body, Draws
from epvf.tasks.formulas import cos, sin, sqrt
from epvf.tasks.gym_models import load

FRAME_SKIP = 2  # of 0.01 s
EPISODE_LENGTH = 50
FINGERTIP, TARGET = 3, 4  # rows of the bodies
GOAL_RADIUS = 0.2  # m
GOAL = (0.1, -0.1)  # m; where the model itself has it
POSITION_NOISE = 0.1  # rad
VELOCITY_NOISE = 5e-3  # rad/s


def observe(s: Any) -> tuple[Any, ...]:
    """`[10]` cosines and sines of the arm's angles, the target's place (m), the arm's velocities
    (rad/s), and from the target to the fingertip (m)."""
    apart = s.xpos[FINGERTIP] - s.xpos[TARGET]
    return cos(s.qpos[:2]), sin(s.qpos[:2]), s.qpos[2:], s.qvel[:2], apart[:2]


def reward(s: Any) -> Any:
    """The distance from fingertip to target (m), negative, less the squares of the controls."""
    apart = s.xpos[FINGERTIP] - s.xpos[TARGET]
    return -sqrt((apart**2).sum()) - (s.ctrl**2).sum()


def starts(random: Draws, num: int) -> tuple[Any, Any]:
    """The arm a little off, uniformly; the target anywhere in a disc, at rest."""
    angle = random.uniform(-math.pi, math.pi, (num, 1))
    radius = GOAL_RADIUS * sqrt(random.uniform(0.0, 1.0, (num, 1)))
    arm = random.uniform(-POSITION_NOISE, POSITION_NOISE, (num, 2))
    velocities = random.uniform(-VELOCITY_NOISE, VELOCITY_NOISE, (num, 2))
    xp: Any = arm.__array_namespace__()
    x, y = radius * cos(angle) - GOAL[0], radius * sin(angle) - GOAL[1]
    return xp.concat([arm, x, y], axis=1), xp.concat([velocities, 0.0 * velocities], axis=1)


model = partial(load, "reacher.xml", "reacher")
"""Of the physics."""

BODY = Body(
    name="reacher",
    model=model,
    frame_skip=FRAME_SKIP,
    episode_length=EPISODE_LENGTH,
    observe=observe,
    reward=reward,
    starts=starts,
    quickest="lanes",
)
