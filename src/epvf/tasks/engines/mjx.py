"""The Ant on MJX: MuJoCo's physics as a JAX program."""

from collections.abc import Callable
from contextlib import redirect_stdout
from functools import cache
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Float

from epvf.tasks import ant
from epvf.tasks.engines.environment import Environment
from epvf.tasks.engines.rollout import JaxTask
from epvf.types import PRNGKey

with redirect_stdout(None):  # where it says that Warp is not installed
    from mujoco import mjx


Judge: TypeAlias = Callable[[jax.Array, mjx.Data], jax.Array]

CPU_SLOTS = 64
"""A CPU steps so few environments as fast as many, and wastes less on finished policies."""


class AntState(NamedTuple):
    """All that one step needs of the one before, float32.

    The rest of MJX's data is computed anew by every step; carrying it through the rollout's loop
    would cost memory traffic and change nothing. The observation is there because a step has to
    compute most of it for the reward.
    """

    qpos: Float[jax.Array, "15"]
    qvel: Float[jax.Array, "14"]
    qacc_warmstart: Float[jax.Array, "14"]
    observation: Float[jax.Array, "34"]


def _as_it_is(reward: jax.Array, data: mjx.Data) -> jax.Array:
    return reward


def make(episode_length: int | None = None, num_slots: int | None = None) -> JaxTask:
    """The task on MJX; on a CPU with few environments side by side unless told otherwise."""
    if num_slots is None and jax.default_backend() == "cpu":
        num_slots = CPU_SLOTS
    return JaxTask(ant.spec("mjx", episode_length, traceable=True), _environment(), num_slots)


def environment(model: mjx.Model, blank: mjx.Data, judge: Judge = _as_it_is) -> Environment:
    """The Ant as pure functions, stepped by MJX's engine of this model and data.

    `judge` may change a reward by what the engine tells of the step.
    """

    def step(state: AntState, action: jax.Array) -> tuple[AntState, jax.Array, jax.Array]:
        moving = {"qpos": state.qpos, "qvel": state.qvel, "qacc_warmstart": state.qacc_warmstart}
        # TF32 has broken training on physics; MJX itself relies on rank promotion
        with jax.default_matmul_precision("highest"), jax.numpy_rank_promotion("allow"):
            data = mjx.step(model, blank.replace(ctrl=action, **moving))
        result = ant.transition(data.qpos, data.qvel, action)
        state = AntState(data.qpos, data.qvel, data.qacc_warmstart, result.observation)
        return state, judge(result.reward, data), result.terminated

    return Environment(_reset, step, _observe)


@cache  # one object, so that its compiled rollouts are shared
def _environment() -> Environment:
    model = ant.model()
    return environment(mjx.put_model(model, impl="jax"), mjx.make_data(model, impl="jax"))


def _reset(key: PRNGKey) -> AntState:
    del key  # the Ant always starts in the same state
    model = ant.model()
    qpos, qvel = jnp.asarray(model.qpos0, jnp.float32), jnp.zeros(model.nv, jnp.float32)
    observation = ant.transition(qpos, qvel, jnp.zeros(model.nu, jnp.float32)).observation
    return AntState(qpos, qvel, jnp.zeros(model.nv, jnp.float32), observation)


def _observe(state: AntState) -> jax.Array:
    return state.observation
