"""The paper's Ant: its model and, once for every engine, what it observes and is paid for.

Source: Bohlinger & Peters 2025, section 3; constants from RL-X, the authors' code, of November
2024. The functions take numpy or JAX arrays with any leading batch axes; engines only step.
"""

from functools import cache
from typing import Any, NamedTuple, TypeAlias

import mujoco
from jaxtyping import Bool, Float

from epvf.tasks.base import TaskSpec
from epvf.tasks.gym_models import model_file
from epvf.types import Array

OBSERVATION_SIZE = 34
ACTION_SIZE = 8
EPISODE_LENGTH = 1000
TARGET_SPEED = 2.0  # m/s, forwards in the torso's frame
REWARD_WIDTH = 0.25  # m²/s²
HEIGHT_RANGE = (0.2, 1.0)  # m; outside of it the episode terminates
OBSERVATION_LIMIT = 100.0

ALARMS = slice(int(mujoco.mjtWarning.mjWARN_BADQPOS), int(mujoco.mjtWarning.mjWARN_BADCTRL) + 1)
"""Warnings of a simulation that is no longer sound."""

Sextuple: TypeAlias = tuple[Any, Any, Any, Any, Any, Any]


class Transition(NamedTuple):
    """What a control step led to.

    Attributes:
        observation: `[..., 34]` torso height (m), joint positions (8, rad), joint velocities (8,
            rad/s), linear velocity (3, m/s), angular velocity (3, rad/s) and gravity direction
            (3), all in the torso's frame, and the controls (8). Non-finite entries are 0, the
            others clipped to ±100.
        reward: `[...]` in [0, 1]; NaN where anything observed is not finite.
        terminated: `[...]` whether the torso left its height range or the state is not finite.
    """

    observation: Float[Array, "*batch 34"]
    reward: Float[Array, "*batch"]
    terminated: Bool[Array, "*batch"]


def spec(backend: str, episode_length: int | None, traceable: bool) -> TaskSpec:
    """The Ant's sizes, on a given engine."""
    return TaskSpec(
        name="ant",
        backend=backend,
        observation_size=OBSERVATION_SIZE,
        action_size=ACTION_SIZE,
        discrete=False,
        episode_length=EPISODE_LENGTH if episode_length is None else episode_length,
        deterministic_reset=True,
        traceable=traceable,
        draws=traceable,
    )


def transition(
    qpos: Float[Array, "*batch 15"], qvel: Float[Array, "*batch 14"], ctrl: Float[Array, "*batch 8"]
) -> Transition:
    """Observation, reward and termination of the states after a control step.

    The reward is exp(-((v_x - 2)² + v_y²) / 0.25), with the velocity in the torso's frame.
    """
    xp = qpos.__array_namespace__()
    frame = torso_frame(*(qpos[..., i] for i in range(3, 7)), *(qvel[..., i] for i in range(3)))
    velocity, gravity = xp.stack(frame[:3], axis=-1), xp.stack(frame[3:], axis=-1)
    raw = xp.concat(observed(qpos, qvel, ctrl, velocity, gravity), axis=-1)
    finite = xp.isfinite(raw)
    healthy = finite.all(axis=-1)
    observation = xp.clip(xp.where(finite, raw, 0.0), -OBSERVATION_LIMIT, OBSERVATION_LIMIT)
    reward = xp.where(healthy, xp.exp(log_reward(frame[0], frame[1])), xp.nan)
    return Transition(observation, reward, fallen(qpos[..., 2]) | ~healthy)


# The four functions below also take numbers and rows, so that they compile into a CPU's loop.


def torso_frame(w: Any, x: Any, y: Any, z: Any, vx: Any, vy: Any, vz: Any) -> Sextuple:
    """A velocity `v` (3, m/s) and the direction of gravity (3) in the frame of a quaternion."""
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


def observed(qpos: Any, qvel: Any, ctrl: Any, velocity: Any, gravity: Any) -> tuple[Any, ...]:
    """The parts `[..., n]` of an observation in their order; velocity and gravity of the torso."""
    return (
        qpos[..., 2:3],
        qpos[..., 7:],
        qvel[..., 6:],
        velocity,
        qvel[..., 3:6],
        gravity,
        ctrl,
    )


def log_reward(forward: Any, sideways: Any) -> Any:
    """Logarithm of the reward for a velocity (m/s) in the torso's frame."""
    return ((forward - TARGET_SPEED) ** 2 + sideways**2) * (-1.0 / REWARD_WIDTH)


def fallen(height: Any) -> Any:
    """Whether a torso at this height (m) ends the episode."""
    return (height < HEIGHT_RANGE[0]) | (height > HEIGHT_RANGE[1])


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
