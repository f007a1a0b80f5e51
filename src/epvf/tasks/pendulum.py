"""The pendulum to be swung up, in JAX, equal to Gymnasium's `Pendulum-v1`."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from epvf.tasks.base import TaskSpec
from epvf.tasks.engines.environment import Environment
from epvf.tasks.engines.rollout import JaxTask
from epvf.tasks.entry import of_environment
from epvf.types import PRNGKey

EPISODE_LENGTH = 200
GRAVITY = 10.0  # m/s²
MASS = 1.0  # kg
LENGTH = 1.0  # m
TORQUE = 2.0  # N m, of an action of 1
TIMESTEP = 0.05  # s
SPEED_LIMIT = 8.0  # rad/s
RESET_RANGE = (math.pi, 1.0)  # of angle and angular velocity


class PendulumState(NamedTuple):
    """Angle (rad; 0 is upright) and angular velocity (rad/s)."""

    angle: Float[jax.Array, ""]
    speed: Float[jax.Array, ""]


def reset(key: PRNGKey) -> PendulumState:
    """Draws the angle from U(-π, π) and the velocity from U(-1, 1)."""
    drawn = jax.random.uniform(key, (2,), jnp.float32, minval=-1.0, maxval=1.0)
    return PendulumState(RESET_RANGE[0] * drawn[0], RESET_RANGE[1] * drawn[1])


def step(
    state: PendulumState, action: Float[jax.Array, "1"]
) -> tuple[PendulumState, Float[jax.Array, ""], Bool[jax.Array, ""]]:
    """Turns the joint with 2 N m times the action, for 0.05 s; it never terminates.

    The reward is -(angle² + 0.1 velocity² + 0.001 torque²) of the state before.
    """
    torque = TORQUE * jnp.clip(action[0], -1.0, 1.0)
    angle = jnp.mod(state.angle + math.pi, 2.0 * math.pi) - math.pi
    reward = -(angle**2 + 0.1 * state.speed**2 + 0.001 * torque**2)
    fall = 3.0 * GRAVITY / (2.0 * LENGTH) * jnp.sin(state.angle)
    speed = state.speed + (fall + 3.0 / (MASS * LENGTH**2) * torque) * TIMESTEP
    speed = jnp.clip(speed, -SPEED_LIMIT, SPEED_LIMIT)
    return PendulumState(state.angle + speed * TIMESTEP, speed), reward, jnp.zeros((), bool)


def observe(state: PendulumState) -> Float[jax.Array, "3"]:
    """Cosine and sine of the angle, and the angular velocity."""
    return jnp.stack([jnp.cos(state.angle), jnp.sin(state.angle), state.speed])


def make(episode_length: int | None = None, num_slots: int | None = None) -> JaxTask:
    """The task; episodes end after 200 steps unless told otherwise."""
    spec = TaskSpec(
        name="pendulum",
        backend="jax",
        observation_size=3,
        action_size=1,
        discrete=False,
        episode_length=EPISODE_LENGTH if episode_length is None else episode_length,
        deterministic_reset=False,
        traceable=True,
        terminates=False,
        draws=True,
        step_seconds=TIMESTEP,
    )
    return JaxTask(spec, Environment(reset, step, observe), num_slots)


TASK = of_environment(make)
