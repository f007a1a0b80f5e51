"""Gymnasium's Hopper (`Hopper-v5`): its model, what it observes and is paid for.

The formulas take numbers and rows, so that they compile into a CPU's loop.
"""

from functools import cache
from typing import Any

import mujoco
import numpy as np
from jaxtyping import Float

from epvf.tasks.gym_models import model_file

OBSERVATION_SIZE = 11
ACTION_SIZE = 3
EPISODE_LENGTH = 1000
FRAME_SKIP = 4  # of 0.002 s
SECONDS = 0.008
STATE_LIMIT = 100.0  # positions but the first two, and velocities; beyond it the Hopper is down
VELOCITY_LIMIT = 10.0  # of what is observed
MIN_HEIGHT = 0.7  # m
MAX_ANGLE = 0.2  # rad
HEALTHY_REWARD = 1.0
CONTROL_COST = 1e-3
RESET_NOISE = 5e-3


def observed(qpos: Any, qvel: Any) -> Any:
    """`[11]` positions (m, rad) but where it is, and velocities (m/s, rad/s) clipped to ±10."""
    return np.concatenate((qpos[1:], np.minimum(np.maximum(qvel, -VELOCITY_LIMIT), VELOCITY_LIMIT)))


def down(qpos: Any, qvel: Any) -> Any:
    """Whether the episode is over: too low, tilted, or far from any sound state."""
    largest = max(np.abs(qpos[2:]).max(), np.abs(qvel).max())
    return qpos[1] <= MIN_HEIGHT or abs(qpos[2]) >= MAX_ANGLE or largest >= STATE_LIMIT


def reward(metres: Any, ctrl: Any, is_down: Any) -> Any:
    """Speed (m/s) of a step that led so far forwards, 1 for standing, less the controls' cost."""
    healthy = 0.0 if is_down else HEALTHY_REWARD
    return metres / SECONDS + healthy - CONTROL_COST * (ctrl**2).sum()


def starts(random: np.random.Generator, num: int) -> Float[np.ndarray, "num 12"]:
    """Offsets of positions and velocities from the model's own, at the start of episodes."""
    return random.uniform(-RESET_NOISE, RESET_NOISE, (num, model().nq + model().nv))


@cache
def model() -> mujoco.MjModel:
    """Gymnasium's model as it is; made once, not to be changed.

    Raises:
        UserError: if Gymnasium's model file is not installed.
    """
    return mujoco.MjModel.from_xml_path(str(model_file("hopper.xml", "hopper")))
