"""Unitree's Go2, a quadruped, that is to walk at a commanded velocity on flat ground.

Model: MuJoCo Menagerie (BSD-3-Clause), from its package. Of the robot only the feet touch the
ground. Rewards of this kind: Rudin et al. 2022, "Learning to walk in minutes".
"""

from functools import cache
from typing import Any

import mujoco
import numpy as np

from epvf.errors import UserError
from epvf.files import one_line
from epvf.tasks.ant import torso_frame
from epvf.tasks.body import Body, Draws
from epvf.tasks.formulas import exp, maximum

TIMESTEP = 0.004  # s
FRAME_SKIP = 5  # 50 Hz
EPISODE_LENGTH = 1000  # 20 s
FEET = ("FL", "FR", "RL", "RR")

# Hip, thigh and calf of each leg (rad) where the robot stands, and how high its trunk is there (m).
STANCE = (0.0, 0.9, -1.8) * 4
HEIGHT = 0.27
TRUNK_HEIGHT = 0.445  # m, of the model's own state, in which its legs are straight
REACH = 0.5  # rad that an action of 1 takes a joint's target from the stance

FORWARD = (0.0, 1.2)  # m/s that are commanded
SIDEWAYS = (-0.3, 0.3)  # m/s
TURNING = (-0.5, 0.5)  # rad/s
TOLERANCE = 0.25  # m²/s², rad²/s²

MIN_HEIGHT = 0.15  # m
MIN_UPRIGHT = 0.5  # cosine of the tilt
JOINT_NOISE = 0.1  # rad
VELOCITY_NOISE = 0.1  # m/s, rad/s


def observe(s: Any) -> tuple[Any, ...]:
    """`[48]` linear (3, m/s) and angular velocity (3, rad/s) and direction of gravity (3) in the
    trunk's frame; joints' distance from the stance (12, rad), their velocities (12, rad/s), what
    the joints were told last, as their distance from the stance (12, rad); the command (3)."""
    vx, vy, vz, gx, gy, gz = torso_frame(s.qpos, s.qvel)
    posture, told = s.qpos[7:] - _STANCE, s.ctrl - _STANCE
    return (vx, vy, vz, s.qvel[3:6], gx, gy, gz, posture, s.qvel[6:], told, s.command)


def reward(s: Any) -> Any:
    """What follows the command, less what does not look like walking; never below 0."""
    return maximum(following(s) - roughness(s), 0.0)


def following(s: Any) -> Any:
    """At most 1.5: how near velocity and turning are to what is commanded."""
    vx, vy, _, _, _, _ = torso_frame(s.qpos, s.qvel)
    forward, sideways, turning = s.command[0], s.command[1], s.command[2]
    velocity = exp(-((vx - forward) ** 2 + (vy - sideways) ** 2) / TOLERANCE)
    return velocity + 0.5 * exp(-((s.qvel[5] - turning) ** 2) / TOLERANCE)


def roughness(s: Any) -> Any:
    """Costs of jumping, rocking, leaning, and of joints that move fast or far from the stance."""
    _, _, vz, gx, gy, _ = torso_frame(s.qpos, s.qvel)
    jumping = 1.0 * vz**2
    rocking = 0.02 * (s.qvel[3] ** 2 + s.qvel[4] ** 2)
    leaning = 1.0 * (gx**2 + gy**2)
    hurrying = 2e-4 * (s.qvel[6:] ** 2).sum()
    straying = 0.03 * ((s.qpos[7:] - _STANCE) ** 2).sum()
    return jumping + rocking + leaning + hurrying + straying


def terminated(s: Any) -> Any:
    """Whether the trunk is down or tilted by more than 60°."""
    _, _, _, _, _, gz = torso_frame(s.qpos, s.qvel)
    return (s.qpos[2] < MIN_HEIGHT) | (gz > -MIN_UPRIGHT)


def starts(random: Draws, num: int) -> tuple[Any, Any, Any]:
    """In the stance, a little off, moving a little; a command for the whole episode."""
    stance = (0.0, 0.0, HEIGHT - TRUNK_HEIGHT, 0.0, 0.0, 0.0, 0.0, *STANCE)
    joints = random.uniform(-JOINT_NOISE, JOINT_NOISE, (num, 12))
    velocities = random.uniform(-VELOCITY_NOISE, VELOCITY_NOISE, (num, 18))
    xp: Any = joints.__array_namespace__()
    still = xp.zeros((num, 7), dtype=joints.dtype)
    positions = xp.concat([still, joints], axis=1) + xp.asarray([stance], dtype=joints.dtype)
    asked = [random.uniform(*bounds, (num, 1)) for bounds in (FORWARD, SIDEWAYS, TURNING)]
    return positions, velocities, xp.concat(asked, axis=1)


@cache
def model() -> mujoco.MjModel:
    """Menagerie's Go2 on a floor that only its feet touch; made once, not to be changed.

    Raises:
        UserError: if Menagerie's package is not installed, or cannot get the model.
    """
    robot = _robot()
    robot.option.timestep = TIMESTEP
    robot.option.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_SENSOR)  # nobody reads them
    for geom in robot.geoms:
        geom.contype = 0
        geom.conaffinity = int(geom.name in FEET)
        geom.condim = 3
    _add_ground(robot)
    return robot.compile()


def _add_ground(robot: mujoco.MjSpec) -> None:
    """A floor without an end in squares of 1 m, a sky, and a sun."""
    texture, builtin = mujoco.mjtTexture, mujoco.mjtBuiltin
    robot.add_texture(
        name="sky",
        type=texture.mjTEXTURE_SKYBOX,
        builtin=builtin.mjBUILTIN_GRADIENT,
        rgb1=[0.75, 0.84, 0.93],
        rgb2=[0.35, 0.45, 0.6],
        width=256,
        height=1536,
    )
    squares = robot.add_texture(
        name="squares",
        type=texture.mjTEXTURE_2D,
        builtin=builtin.mjBUILTIN_CHECKER,
        rgb1=[0.62, 0.66, 0.7],
        rgb2=[0.53, 0.57, 0.61],
        width=256,
        height=256,
    )
    ground = robot.add_material(name="ground", texrepeat=[0.5, 0.5], texuniform=True)
    ground.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = squares.name
    robot.worldbody.add_geom(
        name="floor",
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        size=[0, 0, 0.05],
        material=ground.name,
        contype=1,
        conaffinity=0,
        condim=3,
    )
    robot.worldbody.add_light(
        type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
        dir=[0.3, 0.3, -1],
        diffuse=[0.6, 0.6, 0.6],
        ambient=[0.15, 0.15, 0.15],
        castshadow=False,
    )


def _robot() -> mujoco.MjSpec:
    """Menagerie's Go2, made for MJX; downloaded when it is first asked for."""
    try:
        import mujoco_menagerie
    except ImportError:
        raise UserError(
            "task 'go2' needs MuJoCo Menagerie's package: pip install 'epvf[robots]'"
        ) from None
    try:
        robot = mujoco_menagerie.get("unitree_go2")
        robot.path(progress=None)
        return robot.spec("go2_mjx")
    except (mujoco_menagerie.MenagerieError, OSError, ValueError) as error:
        raise UserError(
            "task 'go2' downloads the robot's model once, and could not: connect to the network "
            f"and try again ({one_line(error):.80})"
        ) from error


_STANCE = np.array(STANCE)

BODY = Body(
    name="go2",
    model=model,
    frame_skip=FRAME_SKIP,
    episode_length=EPISODE_LENGTH,
    observe=observe,
    reward=reward,
    terminated=terminated,
    starts=starts,
    observation_limit=100.0,
    action_offset=STANCE,
    action_scale=(REACH,) * 12,
    quickest="lanes",
)
