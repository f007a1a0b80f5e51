"""Gymnasium's HalfCheetah (`HalfCheetah-v5`): its model, what it observes and is paid for."""

from functools import cache
from typing import Any
from xml.etree import ElementTree

import mujoco

from epvf.tasks.body import Body, Draws
from epvf.tasks.gym_models import model_file

FRAME_SKIP = 5  # of 0.01 s
SECONDS = 0.05
CONTROL_COST = 0.1
RESET_NOISE = 0.1


def observe(s: Any) -> tuple[Any, Any]:
    """`[17]` positions (m, rad) but where it is, and velocities (m/s, rad/s)."""
    return s.qpos[1:], s.qvel


def reward(s: Any) -> Any:
    """Speed (m/s) forwards, less the controls' cost."""
    return (s.qpos[0] - s.previous_qpos[0]) / SECONDS - CONTROL_COST * (s.ctrl**2).sum()


def starts(random: Draws, num: int) -> tuple[Any, Any]:
    """Positions off uniformly, velocities off normally."""
    positions = random.uniform(-RESET_NOISE, RESET_NOISE, (num, model().nq))
    return positions, RESET_NOISE * random.standard_normal((num, model().nv))


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


BODY = Body(
    name="halfcheetah",
    model=model,
    frame_skip=FRAME_SKIP,
    episode_length=1000,
    observe=observe,
    reward=reward,
    starts=starts,
    quickest="lanes",
)
