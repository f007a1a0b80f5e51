"""CartPole in JAX, equal to Gymnasium's `CartPole-v1`.

Source: Barto, Sutton & Anderson 1983, with the constants of Gymnasium.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from epvf.tasks.base import TaskSpec
from epvf.tasks.engines.environment import Environment
from epvf.tasks.engines.rollout import JaxTask
from epvf.tasks.entry import of_environment
from epvf.types import PRNGKey

EPISODE_LENGTH = 500
GRAVITY = 9.8  # m/s²
POLE_MASS = 0.1  # kg
TOTAL_MASS = 1.0 + POLE_MASS  # kg
HALF_LENGTH = 0.5  # m, of the pole
FORCE = 10.0  # N
TIMESTEP = 0.02  # s
POSITION_LIMIT = 2.4  # m
ANGLE_LIMIT = 12 * 2 * math.pi / 360  # rad
RESET_RANGE = 0.05


class CartPoleState(NamedTuple):
    """Position (m) and velocity of the cart, angle (rad) and angular velocity of the pole."""

    x: Float[jax.Array, ""]
    x_dot: Float[jax.Array, ""]
    angle: Float[jax.Array, ""]
    angle_dot: Float[jax.Array, ""]


def reset(key: PRNGKey) -> CartPoleState:
    """Draws every entry of the state from U(-0.05, 0.05)."""
    return CartPoleState(
        *jax.random.uniform(key, (4,), jnp.float32, minval=-RESET_RANGE, maxval=RESET_RANGE)
    )


def step(
    state: CartPoleState, action: Int[jax.Array, ""]
) -> tuple[CartPoleState, Float[jax.Array, ""], Bool[jax.Array, ""]]:
    """Pushes the cart left (0) or right (1) for 0.02 s.

    The reward is 1, also of the step that terminates.
    """
    force = jnp.where(action == 1, FORCE, -FORCE)
    sin, cos = jnp.sin(state.angle), jnp.cos(state.angle)
    pole = POLE_MASS * HALF_LENGTH
    push = (force + pole * jnp.square(state.angle_dot) * sin) / TOTAL_MASS
    angle_acc = (GRAVITY * sin - cos * push) / (
        HALF_LENGTH * (4.0 / 3.0 - POLE_MASS * jnp.square(cos) / TOTAL_MASS)
    )
    x_acc = push - pole * angle_acc * cos / TOTAL_MASS
    new = CartPoleState(
        x=state.x + TIMESTEP * state.x_dot,
        x_dot=state.x_dot + TIMESTEP * x_acc,
        angle=state.angle + TIMESTEP * state.angle_dot,
        angle_dot=state.angle_dot + TIMESTEP * angle_acc,
    )
    terminated = (jnp.abs(new.x) > POSITION_LIMIT) | (jnp.abs(new.angle) > ANGLE_LIMIT)
    return new, jnp.ones((), jnp.float32), terminated


def observe(state: CartPoleState) -> Float[jax.Array, "4"]:
    """The whole state."""
    return jnp.stack(state)


def make(episode_length: int | None = None, num_slots: int | None = None) -> JaxTask:
    """The task; episodes end after 500 steps unless told otherwise."""
    spec = TaskSpec(
        name="cartpole",
        backend="jax",
        observation_size=4,
        action_size=2,
        discrete=True,
        episode_length=EPISODE_LENGTH if episode_length is None else episode_length,
        deterministic_reset=False,
        traceable=True,
        draws=True,
        step_seconds=TIMESTEP,
    )
    return JaxTask(spec, Environment(reset, step, observe), num_slots)


TASK = of_environment(
    make,
    interface={
        "observation": "[4] position (m) and velocity (m/s) of the cart, angle (rad) and angular "
        "velocity (rad/s) of the pole",
        "actions": "0 pushes the cart to the left with 10 N, 1 to the right",
        "control_seconds": str(TIMESTEP),
    },
)
