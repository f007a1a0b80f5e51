"""The paper's Ant: its model and, once for every engine, what it observes and is paid for.

Source: Bohlinger & Peters 2025, section 3; constants from RL-X, the authors' code, of November
2024.
"""

from dataclasses import replace
from functools import cache
from typing import Any, TypeAlias

import mujoco

from epvf.tasks.body import Body
from epvf.tasks.formulas import exp
from epvf.tasks.gym_models import model_file
from epvf.tasks.starts import Around, Commanded, commands_of

OBSERVATION_SIZE = 34
ACTION_SIZE = 8
EPISODE_LENGTH = 1000
TARGET_SPEED = 2.0  # m/s, forwards in the torso's frame
REWARD_WIDTH = 0.25  # m²/s²
HEIGHT_RANGE = (0.2, 1.0)  # m; outside of it the episode terminates
OBSERVATION_LIMIT = 100.0

OBJECTIVES = {
    "forward": (TARGET_SPEED, 0.0, 0.0, 0.0),
    "backward": (-TARGET_SPEED, 0.0, 0.0, 0.0),
    "left": (0.0, TARGET_SPEED, 0.0, 0.0),
    "right": (0.0, -TARGET_SPEED, 0.0, 0.0),
    "turn-left": (0.0, 0.0, 1.0, 1.0),
    "turn-right": (0.0, 0.0, -1.0, 1.0),
}
"""Commands: velocities forwards and to the left (m/s), turning (rad/s), and whether that counts."""

OBJECTIVE_NOISE = 0.01
"""Of starts with objectives (m, rad, m/s, rad/s): so that episodes of one command differ."""

Sextuple: TypeAlias = tuple[Any, Any, Any, Any, Any, Any]


def observe(s: Any) -> tuple[Any, ...]:
    """`[34]` torso height (m), joint positions (8, rad), joint velocities (8, rad/s), linear
    velocity (3, m/s), angular velocity (3, rad/s) and gravity direction (3), all in the torso's
    frame, and the controls (8)."""
    vx, vy, vz, gx, gy, gz = torso_frame(s.qpos, s.qvel)
    return (s.qpos[2], s.qpos[7:], s.qvel[6:], vx, vy, vz, s.qvel[3:6], gx, gy, gz, s.ctrl)


def reward(s: Any) -> Any:
    """exp(-((v_x - 2)² + v_y²) / 0.25), with the velocity in the torso's frame: in [0, 1]."""
    forward, sideways, _, _, _, _ = torso_frame(s.qpos, s.qvel)
    return exp(log_reward(forward, sideways))


def terminated(s: Any) -> Any:
    """Whether the torso is out of its height range."""
    return fallen(s.qpos[2])


def torso_frame(qpos: Any, qvel: Any) -> Sextuple:
    """The torso's velocity (3, m/s) and the direction of gravity (3) in the torso's frame."""
    w, x, y, z = qpos[3], qpos[4], qpos[5], qpos[6]
    vx, vy, vz = qvel[0], qvel[1], qvel[2]
    x2, y2, z2 = 2.0 * x, 2.0 * y, 2.0 * z
    # Rᵀv = v - w t + u × t, with the quaternion (w, u) and t = 2 u × v
    tx, ty, tz = y2 * vz - z2 * vy, z2 * vx - x2 * vz, x2 * vy - y2 * vx
    return (
        vx - w * tx + y * tz - z * ty,
        vy - w * ty + z * tx - x * tz,
        vz - w * tz + x * ty - y * tx,
        w * y2 - x * z2,
        -(y * z2 + w * x2),
        x * x2 + y * y2 - 1.0,
    )


def log_reward(forward: Any, sideways: Any) -> Any:
    """Logarithm of the reward for a velocity (m/s) in the torso's frame."""
    return ((forward - TARGET_SPEED) ** 2 + sideways**2) * (-1.0 / REWARD_WIDTH)


def fallen(height: Any) -> Any:
    """Whether a torso at this height (m) ends the episode."""
    return (height < HEIGHT_RANGE[0]) | (height > HEIGHT_RANGE[1])


def observe_commanded(s: Any) -> tuple[Any, ...]:
    """`[38]` what the paper's Ant observes, and the command."""
    return (*observe(s), s.command)


def reward_commanded(s: Any) -> Any:
    """The paper's reward for the commanded velocity; where turning counts, for that too."""
    forward, sideways, _, _, _, _ = torso_frame(s.qpos, s.qvel)
    velocity = (forward - s.command[0]) ** 2 + (sideways - s.command[1]) ** 2
    turning = s.command[3] * (s.qvel[5] - s.command[2]) ** 2
    return exp((velocity + turning) * (-1.0 / REWARD_WIDTH))


def towards(objectives: tuple[str, ...]) -> Body:
    """The Ant that is asked for one of these `OBJECTIVES` in each episode.

    Raises:
        UserError: if there is none of a name, or one is named twice.
    """
    commands = commands_of("ant", OBJECTIVES, objectives)
    return replace(
        BODY,
        observe=observe_commanded,
        reward=reward_commanded,
        starts=Commanded(Around(model, OBJECTIVE_NOISE), commands),
        towards=None,
    )


@cache
def model() -> mujoco.MjModel:
    """Gymnasium's Ant with the paper's edits; made once, not to be changed.

    Raises:
        UserError: if Gymnasium's model file is not installed.
    """
    ant = mujoco.MjSpec.from_file(str(model_file("ant.xml", "ant")))
    ant.option.timestep = 0.01
    ant.option.integrator = mujoco.mjtIntegrator.mjINT_EULER
    ant.option.solver = mujoco.mjtSolver.mjSOL_NEWTON
    ant.option.iterations = 1
    ant.option.ls_iterations = 4
    ant.option.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_EULERDAMP)
    for geom in ant.geoms:
        geom.contype = geom.conaffinity = 0
        if geom.name.endswith("ankle_geom"):
            ant.add_pair(geomname1=geom.name, geomname2="floor")
    return ant.compile()


BODY = Body(
    name="ant",
    model=model,
    frame_skip=1,
    episode_length=EPISODE_LENGTH,
    observe=observe,
    reward=reward,
    terminated=terminated,
    observation_limit=OBSERVATION_LIMIT,
    quickest="lanes",
    quickest_on_gpu="lanes",
    towards=towards,
)
