"""`Evaluate` for environments written in JAX: sums and start states leave it, no trajectory.

Source: Bohlinger & Peters 2025, section 2: every environment of an iteration runs its own policy.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from epvf.policy import Policy
from epvf.tasks.base import Replay, Stepped, TaskSpec, check_actions, check_policy, check_population
from epvf.types import Array, Evaluate, Evaluation, Population, PRNGKey

State: TypeAlias = Any

_BARE_STEPS = 100


@dataclass(frozen=True)
class Environment:
    """One environment as pure functions of one, unbatched state.

    Attributes:
        reset: key to the first state.
        step: state and action to the next state, its reward and whether it is terminal.
        observe: state to what the policy sees of it.
    """

    reset: Callable[[PRNGKey], State]
    step: Callable[[State, Any], tuple[State, Any, Any]]
    observe: Callable[[State], Any]


@dataclass(frozen=True)
class JaxTask:
    """A task on a JAX environment. `Evaluate` can be traced, jitted and vmapped over seeds."""

    spec: TaskSpec
    environment: Environment

    def evaluator(self, policy: Policy) -> Evaluate:
        """`Evaluate` for policies of this architecture; see `Task.evaluator`."""
        check_policy(self.spec, policy)
        return evaluator(self.environment, policy, self.spec.episode_length)

    def replay(self, actions: Float[Array, "T N action"]) -> Replay:
        """Open-loop rollouts from the reset state; see `ReplayableTask.replay`."""
        actions = jnp.asarray(actions, jnp.float32)
        check_actions(self.spec, actions)
        return _replay(self.environment, actions)

    def bare_stepper(self, policy: Policy, thetas: Population) -> Callable[[], Stepped]:
        """Steps as many environments with random actions; see `Task.bare_stepper`."""
        check_policy(self.spec, policy)
        check_population(policy, thetas)
        num_steps = min(self.spec.episode_length, _BARE_STEPS)
        actions = _random_actions(self.spec, (num_steps, thetas.shape[0]))

        def run() -> Stepped:
            start = time.perf_counter()
            jax.block_until_ready(_bare(self.environment, actions))
            return Stepped(actions.shape[0] * actions.shape[1], time.perf_counter() - start)

        run()  # compiles
        return run


class _Progress(NamedTuple):
    step: Int[jax.Array, ""]
    state: State
    done: Bool[jax.Array, "N"]
    returns: Float[jax.Array, "N"]
    lengths: Int[jax.Array, "N"]


def evaluator(environment: Environment, policy: Policy, episode_length: int) -> Evaluate:
    """`Evaluate` that runs all policies side by side until the last one is done.

    A policy is done when its episode terminates, after `episode_length` steps, or when a reward is
    not finite, which makes its return non-finite. A θ that is not finite is done from the start:
    its return is NaN and its length 0.
    """

    def evaluate(key: PRNGKey, thetas: Population) -> Evaluation:
        check_population(policy, thetas)
        # float32 products on accelerators too, not TF32
        with jax.default_matmul_precision("highest"):
            return _run(environment, policy, episode_length, key, thetas)

    return evaluate


@partial(jax.jit, static_argnums=(0, 1, 2))
def _run(
    environment: Environment,
    policy: Policy,
    episode_length: int,
    key: PRNGKey,
    thetas: Population,
) -> Evaluation:
    layers = policy.unravel(thetas)
    num_envs = thetas.shape[0]
    finite = jnp.all(jnp.isfinite(thetas), axis=-1)

    def running(progress: _Progress) -> Bool[jax.Array, ""]:
        return (progress.step < episode_length) & ~jnp.all(progress.done)

    def advance(progress: _Progress) -> _Progress:
        observations = jax.vmap(environment.observe)(progress.state)
        actions = jax.vmap(policy.apply)(layers, observations)
        state, rewards, terminated = jax.vmap(environment.step)(progress.state, actions)
        return _Progress(
            step=progress.step + 1,
            state=state,
            done=progress.done | terminated | ~jnp.isfinite(rewards),
            returns=progress.returns + jnp.where(progress.done, 0.0, rewards),
            lengths=progress.lengths + ~progress.done,
        )

    states = jax.vmap(environment.reset)(jax.random.split(key, num_envs))
    first = _Progress(
        step=jnp.zeros((), jnp.int32),
        state=states,
        done=~finite,
        returns=jnp.zeros(num_envs, jnp.float32),
        lengths=jnp.zeros(num_envs, jnp.int32),
    )
    last = jax.lax.while_loop(running, advance, first)
    returns = jnp.where(finite, last.returns, jnp.nan)
    return Evaluation(returns, last.lengths, jax.vmap(environment.observe)(states))


@partial(jax.jit, static_argnums=0)
def _replay(environment: Environment, actions: Float[jax.Array, "T N action"]) -> Replay:
    num_envs = actions.shape[1]
    states = _reset_all(environment, num_envs)

    def advance(carry: tuple[State, Any, Any], action: Any) -> tuple[Any, Replay]:
        state, observation, done = carry
        state, reward, terminated = jax.vmap(environment.step)(state, action)
        observed = jax.vmap(environment.observe)(state)
        observation = jnp.where(done[:, None], observation, observed)
        reward = jnp.where(done, 0.0, reward)
        done |= terminated | ~jnp.isfinite(reward)
        return (state, observation, done), Replay(observation, reward, done)

    first = (states, jax.vmap(environment.observe)(states), jnp.zeros(num_envs, bool))
    return jax.lax.scan(advance, first, actions)[1]


@partial(jax.jit, static_argnums=0)
def _bare(environment: Environment, actions: Any) -> State:
    def advance(states: State, action: Any) -> tuple[State, None]:
        return jax.vmap(environment.step)(states, action)[0], None

    return jax.lax.scan(advance, _reset_all(environment, actions.shape[1]), actions)[0]


def _reset_all(environment: Environment, num_envs: int) -> State:
    return jax.vmap(environment.reset)(jax.random.split(jax.random.key(0), num_envs))


def _random_actions(spec: TaskSpec, shape: tuple[int, int]) -> jax.Array:
    key = jax.random.key(0)
    if spec.discrete:
        return jax.random.randint(key, shape, 0, spec.action_size)
    return jax.random.uniform(key, (*shape, spec.action_size), minval=-1.0, maxval=1.0)
