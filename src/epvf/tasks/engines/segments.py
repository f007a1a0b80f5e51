"""`Explore` for environments written in JAX: policies that take over in the middle of episodes."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from epvf.policies.mlp import Policy
from epvf.tasks.base import check_population
from epvf.tasks.engines.environment import Environment
from epvf.types import Array, Envs, Population, PRNGKey, RowKeys, Segment


@dataclass(frozen=True)
class JaxExplorer:
    """`Explore` as a scan over `horizon` steps; it can be traced, jitted and vmapped over seeds."""

    environment: Environment
    policy: Policy
    episode_length: int
    horizon: int

    def reset(self, key: PRNGKey, num: int) -> Envs:
        """See `Explore.reset`."""
        return started(jax.vmap(self.environment.reset)(jax.random.split(key, num)), num)

    def __call__(self, key: RowKeys, thetas: Population, envs: Envs) -> Segment:
        """See `Explore`; after each end of an episode, `key` decides where the next one starts."""
        check_population(self.policy, thetas)
        # float32 products on accelerators too, not TF32
        with jax.default_matmul_precision("highest"):
            return self._run(key, thetas, envs)

    @partial(jax.jit, static_argnums=0)
    def _run(self, key: RowKeys, thetas: Population, envs: Envs) -> Segment:
        layers = self.policy.unravel(thetas)
        keys = key if key.ndim else jax.random.split(key, (self.horizon, thetas.shape[0]))
        observe = jax.vmap(self.environment.observe)

        def advance(now: Envs, fresh_keys: Array) -> tuple[Envs, Any]:
            observations = observe(now.state)
            outputs = jax.vmap(self.policy.logits)(layers, observations)
            actions = jax.vmap(self.policy.act)(outputs)
            state, rewards, terminated = jax.vmap(self.environment.step)(now.state, actions)
            # physics that failed cannot go on either
            terminated |= ~jnp.isfinite(rewards)
            steps = now.steps + 1
            total = now.total + jnp.where(jnp.isfinite(rewards), rewards, 0.0)
            truncated = (steps >= self.episode_length) & ~terminated
            over = terminated | truncated
            fresh = started(jax.vmap(self.environment.reset)(fresh_keys), len(total))
            gone_on = Envs(state, steps, total, now.finished, now.finished_steps)
            begun = fresh._replace(finished=total, finished_steps=steps)
            now = jax.tree.map(partial(_choose, over), begun, gone_on)
            return now, (observations, outputs, rewards, terminated, truncated)

        envs, rows = jax.lax.scan(advance, envs, keys)
        seen, outputs, rewards, terminated, truncated = (jnp.swapaxes(x, 0, 1) for x in rows)
        observations = jnp.concatenate([seen, observe(envs.state)[:, None]], axis=1)
        return Segment(observations, outputs, rewards, terminated, truncated, envs)


def started(state: Any, num: int) -> Envs:
    """Environments whose first episode begins in these states."""
    zero = jnp.zeros(num)
    count = jnp.zeros(num, jnp.int32)
    return Envs(state, count, zero, zero + jnp.nan, count)


def _choose(over: Array, begun: Array, gone_on: Array) -> jax.Array:
    return jnp.where(over.reshape(-1, *[1] * (begun.ndim - 1)), begun, gone_on)
