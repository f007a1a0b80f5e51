"""Bodies on MJX: MuJoCo's physics as a JAX program."""

from collections.abc import Callable
from contextlib import redirect_stdout
from functools import cache
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Float

from epvf.tasks.body import Body, State, transition
from epvf.tasks.engines.environment import Environment
from epvf.tasks.engines.rollout import JaxTask
from epvf.types import PRNGKey

with redirect_stdout(None):  # where it says that Warp is not installed
    from mujoco import mjx


Bits: TypeAlias = Callable[[mjx.Data], jax.Array]
Mark: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array]
_Moving: TypeAlias = tuple[jax.Array, jax.Array, jax.Array, jax.Array]

CPU_SLOTS = 64
"""A CPU steps so few environments as fast as many, and wastes less on finished policies."""


class MjxState(NamedTuple):
    """All that one step needs of the one before, float32.

    The rest of MJX's data is computed anew by every step; carrying it through the rollout's loop
    would cost memory traffic and change nothing. The observation is there because a step has to
    compute most of it for the reward.
    """

    qpos: Float[jax.Array, "nq"]
    qvel: Float[jax.Array, "nv"]
    qacc_warmstart: Float[jax.Array, "nv"]
    observation: Float[jax.Array, "observation"]


class TimedState(NamedTuple):
    """The same of a body whose formulas read the time."""

    qpos: Float[jax.Array, "nq"]
    qvel: Float[jax.Array, "nv"]
    qacc_warmstart: Float[jax.Array, "nv"]
    observation: Float[jax.Array, "observation"]
    time: Float[jax.Array, ""]


class Draws:
    """Random numbers as a generator of numpy's gives them, from a JAX key."""

    def __init__(self, key: PRNGKey) -> None:
        self._key = key

    def uniform(self, low: float, high: float, size: tuple[int, ...]) -> jax.Array:
        """U(low, high)."""
        return jax.random.uniform(self._next(), size, jnp.float32, low, high)

    def standard_normal(self, size: tuple[int, ...]) -> jax.Array:
        """N(0, 1)."""
        return jax.random.normal(self._next(), size, jnp.float32)

    def _next(self) -> PRNGKey:
        self._key, key = jax.random.split(self._key)
        return key


def _no_bits(data: mjx.Data) -> jax.Array:
    return jnp.zeros((), jnp.int32)


def _as_it_is(reward: jax.Array, bits: jax.Array) -> jax.Array:
    return reward


def make(body: Body, episode_length: int | None = None, num_slots: int | None = None) -> JaxTask:
    """The task on MJX; on a CPU with few environments side by side unless told otherwise."""
    if num_slots is None and jax.default_backend() == "cpu":
        num_slots = CPU_SLOTS
    spec = body.spec("mjx", episode_length, traceable=True)
    return JaxTask(spec, _environment(body), num_slots)


def environment(
    body: Body,
    model: mjx.Model,
    blank: mjx.Data,
    bits: Bits = _no_bits,
    mark: Mark = _as_it_is,
) -> Environment:
    """The body as pure functions, stepped by MJX's engine of this model and data.

    What the engine tells of its steps in `bits`, `mark` may change a reward by.
    """
    timed = "time" in body.reads

    def reset(key: PRNGKey) -> Any:
        qpos, qvel = _start(body, key)
        warmstart, ctrl = jnp.zeros(model.nv, jnp.float32), jnp.zeros(model.nu, jnp.float32)
        time = jnp.zeros((), jnp.float32)
        seen = transition(body, State(qpos, qvel, ctrl, qpos, time)).observation
        return _kept(timed, qpos, qvel, warmstart, seen, time)

    def step(state: Any, action: jax.Array) -> tuple[Any, jax.Array, jax.Array]:
        time = state.time if timed else blank.time
        moving = (state.qpos, state.qvel, state.qacc_warmstart, time)
        # TF32 has broken training on physics; MJX itself relies on rank promotion
        with jax.default_matmul_precision("highest"), jax.numpy_rank_promotion("allow"):
            moved, told = _physics(body.frame_skip, model, blank.replace(ctrl=action), moving, bits)
        qpos, qvel, warmstart, time = moved
        result = transition(body, State(qpos, qvel, action, state.qpos, time))
        after = _kept(timed, qpos, qvel, warmstart, result.observation, time)
        return after, mark(result.reward, told), result.terminated

    return Environment(reset, step, lambda state: state.observation)


def _physics(
    times: int, model: mjx.Model, blank: mjx.Data, moving: _Moving, bits: Bits
) -> tuple[_Moving, jax.Array]:
    """So many steps of the physics: what moved, and the bits that any of the steps set."""

    def once(moving: _Moving) -> tuple[_Moving, jax.Array]:
        qpos, qvel, warmstart, time = moving
        data = mjx.step(
            model, blank.replace(qpos=qpos, qvel=qvel, qacc_warmstart=warmstart, time=time)
        )
        return (data.qpos, data.qvel, data.qacc_warmstart, data.time), bits(data)

    def again(_: Any, carry: tuple[_Moving, jax.Array]) -> tuple[_Moving, jax.Array]:
        moved, told = once(carry[0])
        return moved, carry[1] | told

    if times == 1:
        return once(moving)
    # a loop compiles the physics once
    told = jax.eval_shape(once, moving)[1]
    return jax.lax.fori_loop(0, times, again, (moving, jnp.zeros(told.shape, told.dtype)))


def _kept(timed: bool, *parts: jax.Array) -> Any:
    return TimedState(*parts) if timed else MjxState(*parts[:-1])


def _start(body: Body, key: PRNGKey) -> tuple[jax.Array, jax.Array]:
    model = body.model()
    qpos, qvel = jnp.asarray(model.qpos0, jnp.float32), jnp.zeros(model.nv, jnp.float32)
    if body.starts is None:
        return qpos, qvel
    positions, velocities = body.starts(Draws(key), 1)
    return qpos + positions[0], qvel + velocities[0]


@cache  # one object, so that its compiled rollouts are shared
def _environment(body: Body) -> Environment:
    model = body.model()
    return environment(body, mjx.put_model(model, impl="jax"), mjx.make_data(model, impl="jax"))
