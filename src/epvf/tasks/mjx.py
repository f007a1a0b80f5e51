"""The Ant on MJX: MuJoCo's physics as a JAX program."""

from contextlib import redirect_stdout
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from epvf.tasks import ant
from epvf.tasks.rollout import Environment, JaxTask
from epvf.types import PRNGKey

with redirect_stdout(None):  # where it says that Warp is not installed
    from mujoco import mjx


class AntState(NamedTuple):
    """All that one step needs of the one before, float32.

    The rest of MJX's data is computed anew by every step; carrying it through the rollout's loop
    would cost memory traffic and change nothing.
    """

    qpos: Float[jax.Array, "15"]
    qvel: Float[jax.Array, "14"]
    qacc_warmstart: Float[jax.Array, "14"]
    ctrl: Float[jax.Array, "8"]


def make(episode_length: int | None = None) -> JaxTask:
    """The task on MJX."""
    return JaxTask(ant.spec("mjx", episode_length, traceable=True), _environment())


def environment(model: mjx.Model, blank: mjx.Data) -> Environment:
    """The Ant as pure functions, stepped by MJX's engine of this model and data."""

    def step(state: AntState, action: jax.Array) -> tuple[AntState, jax.Array, jax.Array]:
        state = state._replace(ctrl=action)
        # TF32 has broken training on physics; MJX itself relies on rank promotion
        with jax.default_matmul_precision("highest"), jax.numpy_rank_promotion("allow"):
            data = mjx.step(model, blank.replace(**state._asdict()))
        state = AntState(data.qpos, data.qvel, data.qacc_warmstart, action)
        result = ant.transition(state.qpos, state.qvel, state.ctrl)
        return state, result.reward, result.terminated

    return Environment(_reset, step, _observe)


@cache  # one object, so that its compiled rollouts are shared
def _environment() -> Environment:
    model = ant.model()
    return environment(mjx.put_model(model, impl="jax"), mjx.make_data(model, impl="jax"))


def _reset(key: PRNGKey) -> AntState:
    del key  # the Ant always starts in the same state
    model = ant.model()
    return AntState(
        jnp.asarray(model.qpos0, jnp.float32),
        jnp.zeros(model.nv, jnp.float32),
        jnp.zeros(model.nv, jnp.float32),
        jnp.zeros(model.nu, jnp.float32),
    )


def _observe(state: AntState) -> jax.Array:
    return ant.transition(state.qpos, state.qvel, state.ctrl).observation
