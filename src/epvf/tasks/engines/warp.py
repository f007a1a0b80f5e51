"""Bodies on MJX-Warp: MuJoCo's physics in NVIDIA Warp kernels, called from JAX.

Faster than MJX on large GPUs, but its results differ from run to run.
"""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Float
from mujoco import mjx

from epvf.errors import RunFailed
from epvf.policies.mlp import Policy
from epvf.tasks.base import Replay, Stepped, TaskSpec, check_actions, check_policy, check_population
from epvf.tasks.body import Body
from epvf.tasks.engines import mjx as mjx_engine
from epvf.tasks.engines.environment import Environment
from epvf.tasks.engines.rollout import JaxTask
from epvf.tasks.engines.segments import JaxExplorer
from epvf.types import Array, Envs, Evaluate, Evaluation, Population, PRNGKey, Segment

_POINTS = 2  # in which a capsule touches the floor or another capsule
_PYRAMID = 4  # constraints of a contact with friction
_MOST_CONTACTS = 64  # per environment; more than that no body has at a time

_TOO_MANY_CONSTRAINTS = 0b11
_SOLVER_LIMITS = 0b11 << 9
"""Bits of Warp's `overflow`: the second are iteration limits, which are meant; all other bits are
buffers of contacts."""

_MARKS = {"constraints": np.inf, "contacts": -np.inf}
"""Rewards that say which buffer overflowed; physics that fails pays NaN. A reward that is not
finite ends an episode and becomes its return, so that the rollout carries it out."""


@dataclass(frozen=True)
class WarpTask:
    """A body on MJX-Warp.

    Warp shares one contact buffer among all environments, and what overflows it is left out. The
    buffer is sized by the population, so `Evaluate` cannot be vmapped over seeds: not traceable.

    Attributes:
        body: its model and formulas.
        spec: its numbers.
        contacts_per_env: contacts that there is room for, on average over the environments.
        constraints_per_env: rows of constraints that there is room for, in each environment.
    """

    body: Body
    spec: TaskSpec
    contacts_per_env: int
    constraints_per_env: int

    def evaluator(self, policy: Policy) -> Evaluate:
        """`Evaluate` for policies of this architecture; see `Task.evaluator`.

        It raises `RunFailed` if a buffer overflowed.
        """
        check_policy(self.spec, policy)

        def evaluate(key: PRNGKey, thetas: Population) -> Evaluation:
            check_population(policy, thetas)
            task = self.sized(thetas.shape[0])
            evaluation = task.evaluator(policy)(key, jnp.asarray(thetas))
            self.check_buffers(evaluation.returns)
            return evaluation

        return evaluate

    def explorer(self, policy: Policy, horizon: int) -> "WarpExplorer":
        """`Explore` for policies of this architecture; see `ExplorableTask.explorer`.

        It raises `RunFailed` if a buffer overflowed.
        """
        check_policy(self.spec, policy)
        return WarpExplorer(self, policy, horizon)

    def replay(self, actions: Float[Array, "T N action"]) -> Replay:
        """Open-loop rollouts from the reset state; see `ReplayableTask.replay`.

        Raises:
            RunFailed: if a buffer overflowed.
        """
        check_actions(self.spec, actions)
        replay = self.sized(actions.shape[1]).replay(actions)
        self.check_buffers(replay.reward)
        return replay

    def bare_stepper(self, policy: Policy, thetas: Population) -> Callable[[], Stepped]:
        """Steps as many environments with random actions; see `Task.bare_stepper`."""
        return self.sized(thetas.shape[0]).bare_stepper(policy, thetas)

    def sized(self, num_envs: int) -> JaxTask:
        """The task with buffers for so many environments."""
        sizes = (self.contacts_per_env, self.constraints_per_env)
        return JaxTask(self.spec, _environment(self.body, num_envs, *sizes))

    def check_buffers(self, rewards: Float[Array, "*any"]) -> None:
        """Looks for the marks of an overflow in rewards or returns."""
        host = np.asarray(rewards)
        for what, mark in _MARKS.items():
            if (host == mark).any():
                size = getattr(self, f"{what}_per_env")
                raise RunFailed(
                    f"Warp has room for {size} {what} an environment, but there were more, which "
                    f"it left out; raise {what}_per_env of epvf.tasks.engines.warp.make"
                )


@dataclass(frozen=True)
class WarpExplorer:
    """`Explore` whose buffers are looked at after each call."""

    task: WarpTask
    policy: Policy
    horizon: int

    def reset(self, key: PRNGKey, num: int) -> Envs:
        """See `Explore.reset`."""
        return self._sized(num).reset(key, num)

    def __call__(self, key: PRNGKey, thetas: Population, envs: Envs) -> Segment:
        """See `Explore`."""
        segment = self._sized(thetas.shape[0])(key, jnp.asarray(thetas), envs)
        self.task.check_buffers(segment.rewards)
        return segment

    def _sized(self, num_envs: int) -> JaxExplorer:
        return self.task.sized(num_envs).explorer(self.policy, self.horizon)


def make(
    body: Body,
    episode_length: int | None = None,
    contacts_per_env: int | None = None,
    constraints_per_env: int | None = None,
) -> WarpTask:
    """The task on MJX-Warp; the room for contacts and constraints is what the body can need."""
    contacts, constraints = room(body.model())
    return WarpTask(
        body,
        body.spec("warp", episode_length, traceable=False),
        contacts if contacts_per_env is None else contacts_per_env,
        constraints if constraints_per_env is None else constraints_per_env,
    )


def room(model: mujoco.MjModel) -> tuple[int, int]:
    """Contacts that a model can have at a time, and rows of constraints with its joint limits."""
    contacts = min(_POINTS * _num_pairs(model), _MOST_CONTACTS)
    return contacts, int(model.jnt_limited.sum()) + _PYRAMID * contacts


def _num_pairs(model: mujoco.MjModel) -> int:
    """Pairs of geoms that may touch: named ones, and those whose bits match."""
    num = int(model.npair)
    for one in range(model.ngeom):
        for other in range(one):
            match = (model.geom_contype[one] & model.geom_conaffinity[other]) | (
                model.geom_contype[other] & model.geom_conaffinity[one]
            )
            num += bool(match) and model.geom_bodyid[one] != model.geom_bodyid[other]
    return num


@cache
def physics(body: Body) -> mujoco.MjModel:
    """The body's model; with a single solver iteration it does not start from the last step's
    acceleration.

    MuJoCo and MJX start from that or from the acceleration without constraints, whichever costs
    less. Warp knows only the former, from where the single iteration that the Ant has does not get
    far enough: a policy trained elsewhere would keep two thirds of its return.
    """
    model = copy(body.model())
    if model.opt.iterations == 1:
        model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_WARMSTART)
    return model


@cache
def _environment(
    body: Body, num_envs: int, contacts_per_env: int, constraints_per_env: int
) -> Environment:
    import warp

    # what it would say of kernels that it loads is no result, but would stand among them
    warp.config.log_level = warp.LOG_WARNING
    model = physics(body)
    # a single solver iteration is meant; the device would print a line about it every step
    quiet = {"opt._impl.warn_overflow": 0}
    device_model = cast(mjx.Model, mjx.put_model(model, impl="warp").tree_replace(quiet))
    blank = mjx.make_data(
        model,
        impl="warp",
        naconmax=contacts_per_env * num_envs,
        njmax=constraints_per_env,
    )
    return mjx_engine.environment(body, lambda: (device_model, blank), _overflow, _marked)


def _overflow(data: mjx.Data) -> jax.Array:
    """Warp's bits of what overflowed."""
    implementation: Any = data._impl
    return implementation.overflow


def _marked(reward: jax.Array, overflow: jax.Array) -> jax.Array:
    """The reward, or a mark instead of it where Warp's bits say that a buffer overflowed."""
    constraints = (overflow & _TOO_MANY_CONSTRAINTS) != 0
    contacts = (overflow & ~(_TOO_MANY_CONSTRAINTS | _SOLVER_LIMITS)) != 0
    reward = jnp.where(constraints, _MARKS["constraints"], reward)
    return jnp.where(contacts, _MARKS["contacts"], reward)
