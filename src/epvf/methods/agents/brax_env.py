"""Our tasks as environments of Brax: `brax.envs.Env` around a task's pure functions.

Import this within `brax_compat.tolerated()`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from brax.envs.base import Env, State

from epvf.tasks.base import TaskSpec
from epvf.tasks.engines.rollout import Environment, JaxTask

NONFINITE = "nonfinite"
"""Metric of a step: 1 where its reward or state was not finite, otherwise 0."""


class BraxEnv(Env):
    """One environment; Brax's wrappers batch it, end its episodes and start them anew.

    `pipeline_state` is the task's own, small state. A step whose reward or observation is not
    finite ends the episode with reward 0, so that no learner ever sees a NaN.

    Attributes:
        spec: of the task.
    """

    def __init__(self, task: JaxTask) -> None:
        self.spec: TaskSpec = task.spec
        self._environment: Environment = task.environment

    def reset(self, rng: jax.Array) -> State:
        """The first state, for one key of Brax's kind, `[2]`."""
        state = self._environment.reset(jax.random.wrap_key_data(rng))
        zero = jnp.zeros((), jnp.float32)
        return State(state, self._environment.observe(state), zero, zero, {NONFINITE: zero})

    def step(self, state: State, action: jax.Array) -> State:
        """One env step: `action [action_size]`, or an index `[]` where actions are discrete."""
        inner, reward, terminated = self._environment.step(state.pipeline_state, action)
        raw = self._environment.observe(inner)
        finite = jnp.isfinite(reward) & jnp.all(jnp.isfinite(raw))
        return state.replace(
            pipeline_state=inner,
            obs=jnp.where(jnp.isfinite(raw), raw, 0.0),
            reward=jnp.where(finite, reward, 0.0).astype(jnp.float32),
            done=(terminated | ~finite).astype(jnp.float32),
            metrics={NONFINITE: (~finite).astype(jnp.float32)},
        )

    @property
    def observation_size(self) -> int:
        return self.spec.observation_size

    @property
    def action_size(self) -> int:
        return self.spec.action_size

    @property
    def backend(self) -> str:
        return self.spec.backend


class IdleEnv(BraxEnv):
    """Same sizes, but nothing happens: for evaluations that Brax insists on and nobody reads."""

    def reset(self, rng: jax.Array) -> State:
        zero = jnp.zeros((), jnp.float32)
        return State(zero, jnp.zeros(self.spec.observation_size), zero, zero, {NONFINITE: zero})

    def step(self, state: State, action: Any) -> State:
        del action
        return state
