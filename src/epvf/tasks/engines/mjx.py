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


Judge: TypeAlias = Callable[[jax.Array, mjx.Data], jax.Array]

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


def _as_it_is(reward: jax.Array, data: mjx.Data) -> jax.Array:
    return reward


def make(body: Body, episode_length: int | None = None, num_slots: int | None = None) -> JaxTask:
    """The task on MJX; on a CPU with few environments side by side unless told otherwise."""
    if num_slots is None and jax.default_backend() == "cpu":
        num_slots = CPU_SLOTS
    spec = body.spec("mjx", episode_length, traceable=True)
    return JaxTask(spec, _environment(body), num_slots)


def environment(
    body: Body, model: mjx.Model, blank: mjx.Data, judge: Judge = _as_it_is
) -> Environment:
    """The body as pure functions, stepped by MJX's engine of this model and data.

    `judge` may change a reward by what the engine tells of the step.
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
            data = _physics(body.frame_skip, model, blank.replace(ctrl=action), moving)
        result = transition(body, State(data.qpos, data.qvel, action, state.qpos, data.time))
        reward = judge(result.reward, data)
        after = (data.qpos, data.qvel, data.qacc_warmstart, result.observation, data.time)
        return _kept(timed, *after), reward, result.terminated

    return Environment(reset, step, lambda state: state.observation)


def _physics(times: int, model: mjx.Model, blank: mjx.Data, moving: tuple[Any, ...]) -> mjx.Data:
    """So many steps of the physics, the last one's data."""

    def once(moving: tuple[Any, ...]) -> mjx.Data:
        qpos, qvel, warmstart, time = moving
        return mjx.step(
            model, blank.replace(qpos=qpos, qvel=qvel, qacc_warmstart=warmstart, time=time)
        )

    def advance(_: Any, moving: tuple[Any, ...]) -> tuple[Any, ...]:
        data = once(moving)
        return data.qpos, data.qvel, data.qacc_warmstart, data.time

    if times > 1:  # a loop, so that they compile once
        moving = jax.lax.fori_loop(0, times - 1, advance, moving)
    return once(moving)


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
