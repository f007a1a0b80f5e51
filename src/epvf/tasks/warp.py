"""The Ant on MJX-Warp: MuJoCo's physics in NVIDIA Warp kernels, called from JAX.

Faster than MJX on large GPUs, but its results differ from run to run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import cast

import jax.numpy as jnp
from jaxtyping import Float
from mujoco import mjx

from epvf.policy import Policy
from epvf.tasks import ant
from epvf.tasks import mjx as mjx_ant
from epvf.tasks.base import Replay, Stepped, TaskSpec, check_actions, check_policy, check_population
from epvf.tasks.rollout import Environment, JaxTask
from epvf.types import Array, Evaluate, Evaluation, Population, PRNGKey

CONTACTS_PER_ENV = 8  # a foot is a capsule, which touches the floor in up to two points
CONSTRAINTS_PER_ENV = 8 + 4 * CONTACTS_PER_ENV  # joint limits, and a pyramid per contact


@dataclass(frozen=True)
class WarpAnt:
    """The Ant on MJX-Warp.

    Warp shares one contact buffer among all environments, and overflowing it is undefined. The
    buffer is sized by the population, so `Evaluate` cannot be vmapped over seeds: not traceable.
    """

    spec: TaskSpec

    def evaluator(self, policy: Policy) -> Evaluate:
        """`Evaluate` for policies of this architecture; see `Task.evaluator`."""
        check_policy(self.spec, policy)

        def evaluate(key: PRNGKey, thetas: Population) -> Evaluation:
            check_population(policy, thetas)
            return self._sized(thetas.shape[0]).evaluator(policy)(key, jnp.asarray(thetas))

        return evaluate

    def replay(self, actions: Float[Array, "T N action"]) -> Replay:
        """Open-loop rollouts from the reset state; see `ReplayableTask.replay`."""
        check_actions(self.spec, actions)
        return self._sized(actions.shape[1]).replay(actions)

    def bare_stepper(self, policy: Policy, thetas: Population) -> Callable[[], Stepped]:
        """Steps as many environments with random actions; see `Task.bare_stepper`."""
        return self._sized(thetas.shape[0]).bare_stepper(policy, thetas)

    def _sized(self, num_envs: int) -> JaxTask:
        return JaxTask(self.spec, _environment(num_envs))


def make(episode_length: int | None = None) -> WarpAnt:
    """The task on MJX-Warp."""
    return WarpAnt(ant.spec("warp", episode_length, traceable=False))


@cache
def _environment(num_envs: int) -> Environment:
    model = ant.model()
    # a single solver iteration is meant; the device would print a line about it every step
    quiet = {"opt._impl.warn_overflow": 0}
    device_model = cast(mjx.Model, mjx.put_model(model, impl="warp").tree_replace(quiet))
    blank = mjx.make_data(
        model,
        impl="warp",
        naconmax=CONTACTS_PER_ENV * num_envs,
        njmax=CONSTRAINTS_PER_ENV,
    )
    return mjx_ant.environment(device_model, blank)
