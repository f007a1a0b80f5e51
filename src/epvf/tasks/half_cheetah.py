"""Gymnasium's HalfCheetah (`HalfCheetah-v5`): its model, what it observes and is paid for.

The formulas take numbers and rows, so that they compile into a CPU's loop.
"""

from functools import cache
from typing import Any
from xml.etree import ElementTree

import mujoco
import numpy as np
from jaxtyping import Float

from epvf.tasks.gym_models import model_file

OBSERVATION_SIZE = 17
ACTION_SIZE = 6
EPISODE_LENGTH = 1000
FRAME_SKIP = 5  # of 0.01 s
SECONDS = 0.05
CONTROL_COST = 0.1
RESET_NOISE = 0.1


def observed(qpos: Any, qvel: Any) -> Any:
    """`[17]` positions (m, rad) but where it is, and velocities (m/s, rad/s)."""
    return np.concatenate((qpos[1:], qvel))


def reward(metres: Any, ctrl: Any) -> Any:
    """Speed (m/s) of a step that led so far forwards, less the controls' cost."""
    return metres / SECONDS - CONTROL_COST * (ctrl**2).sum()


def starts(random: np.random.Generator, num: int) -> Float[np.ndarray, "num 18"]:
    """Offsets of positions and velocities from the model's own, at the start of episodes."""
    positions = random.uniform(-RESET_NOISE, RESET_NOISE, (num, model().nq))
    velocities = RESET_NOISE * random.standard_normal((num, model().nv))
    return np.concatenate([positions, velocities], axis=1)


@cache
def model() -> mujoco.MjModel:
    """Gymnasium's model as it is; made once, not to be changed.

    Its file asks the compiler for a total mass, which MuJoCo warns of on the terminal and in a log
    file. So that is left out, and the masses are scaled afterwards, as the warning advises.

    Raises:
        UserError: if Gymnasium's model file is not installed.
    """
    cheetah = ElementTree.parse(model_file("half_cheetah.xml", "halfcheetah")).getroot()
    compiler = cheetah.find("compiler")
    mass = None if compiler is None else compiler.attrib.pop("settotalmass", None)
    compiled = mujoco.MjModel.from_xml_string(ElementTree.tostring(cheetah, "unicode"))
    if mass is not None:
        mujoco.mj_setTotalmass(compiled, float(mass))
        mujoco.mj_setConst(compiled, mujoco.MjData(compiled))
    return compiled
