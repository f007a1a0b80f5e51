"""Two links to be swung up from the joint between them, in JAX, equal to Gymnasium's `Acrobot-v1`.

Source: Sutton 1996, with the constants and the equations ("book") of Gymnasium.
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
# Both links are 1 m long, weigh 1 kg and have their centre of mass in their middle.
CENTRE = 0.5  # m
INERTIA = 1.0  # kg m²
TIMESTEP = 0.2  # s
SPEED_LIMITS = (4.0 * math.pi, 9.0 * math.pi)  # rad/s
RESET_RANGE = 0.1


class AcrobotState(NamedTuple):
    """Angle of the first link (rad; 0 hangs down), of the second to the first, and velocities."""

    angle1: Float[jax.Array, ""]
    angle2: Float[jax.Array, ""]
    speed1: Float[jax.Array, ""]
    speed2: Float[jax.Array, ""]


def reset(key: PRNGKey) -> AcrobotState:
    """Draws every entry of the state from U(-0.1, 0.1)."""
    return AcrobotState(
        *jax.random.uniform(key, (4,), jnp.float32, minval=-RESET_RANGE, maxval=RESET_RANGE)
    )


def step(
    state: AcrobotState, action: Int[jax.Array, ""]
) -> tuple[AcrobotState, Float[jax.Array, ""], Bool[jax.Array, ""]]:
    """Turns the joint between the links with -1, 0 or 1 N m for 0.2 s.

    The reward is -1, and 0 of the step that terminates.
    """
    moved = _runge_kutta(state, jnp.asarray(action - 1, jnp.float32))
    new = AcrobotState(
        _wrapped(moved.angle1),
        _wrapped(moved.angle2),
        jnp.clip(moved.speed1, -SPEED_LIMITS[0], SPEED_LIMITS[0]),
        jnp.clip(moved.speed2, -SPEED_LIMITS[1], SPEED_LIMITS[1]),
    )
    terminated = -jnp.cos(new.angle1) - jnp.cos(new.angle2 + new.angle1) > 1.0
    return new, jnp.where(terminated, 0.0, -1.0), terminated


def observe(state: AcrobotState) -> Float[jax.Array, "6"]:
    """Cosine and sine of both angles, and the velocities."""
    first, second = state.angle1, state.angle2
    angles = [jnp.cos(first), jnp.sin(first), jnp.cos(second), jnp.sin(second)]
    return jnp.stack([*angles, state.speed1, state.speed2])


def _wrapped(angle: Float[jax.Array, ""]) -> Float[jax.Array, ""]:
    """The angle within ±π, as it is where it lies there already."""
    turned = jnp.mod(angle + math.pi, 2.0 * math.pi) - math.pi
    return jnp.where(jnp.abs(angle) <= math.pi, angle, turned)


def _runge_kutta(state: AcrobotState, torque: Float[jax.Array, ""]) -> AcrobotState:
    """One step of the classical fourth-order scheme."""

    def ahead(slope: AcrobotState, share: float) -> AcrobotState:
        return AcrobotState(*(x + share * TIMESTEP * y for x, y in zip(state, slope, strict=True)))

    one = _slope(state, torque)
    two = _slope(ahead(one, 0.5), torque)
    three = _slope(ahead(two, 0.5), torque)
    four = _slope(ahead(three, 1.0), torque)
    slopes = zip(one, two, three, four, strict=True)
    mean = AcrobotState(*((a + 2.0 * b + 2.0 * c + d) / 6.0 for a, b, c, d in slopes))
    return ahead(mean, 1.0)


def _slope(state: AcrobotState, torque: Float[jax.Array, ""]) -> AcrobotState:
    """Time derivative of the state."""
    first, second, speed1, speed2 = state
    cos, sin = jnp.cos(second), jnp.sin(second)
    both = CENTRE**2 + (1.0 + CENTRE**2 + 2.0 * CENTRE * cos) + 2.0 * INERTIA
    coupled = CENTRE**2 + CENTRE * cos + INERTIA
    pull2 = CENTRE * GRAVITY * jnp.cos(first + second - math.pi / 2.0)
    pull1 = (
        -CENTRE * speed2**2 * sin
        - 2.0 * CENTRE * speed2 * speed1 * sin
        + (CENTRE + 1.0) * GRAVITY * jnp.cos(first - math.pi / 2.0)
        + pull2
    )
    pushed = torque + coupled / both * pull1 - CENTRE * speed1**2 * sin - pull2
    gain2 = pushed / (CENTRE**2 + INERTIA - coupled**2 / both)
    gain1 = -(coupled * gain2 + pull1) / both
    return AcrobotState(speed1, speed2, gain1, gain2)


def make(episode_length: int | None = None, num_slots: int | None = None) -> JaxTask:
    """The task; episodes end after 500 steps unless told otherwise."""
    spec = TaskSpec(
        name="acrobot",
        backend="jax",
        observation_size=6,
        action_size=3,
        discrete=True,
        episode_length=EPISODE_LENGTH if episode_length is None else episode_length,
        deterministic_reset=False,
        traceable=True,
        draws=True,
        step_seconds=TIMESTEP,
    )
    return JaxTask(spec, Environment(reset, step, observe), num_slots)


TASK = of_environment(make)
