"""Environments of other libraries in JAX as ours: what `from_gymnax`, `from_brax` and
`from_playground` share."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from epvf.errors import UserError
from epvf.registry import in_a_line
from epvf.tasks.base import TaskSpec
from epvf.tasks.engines.environment import Environment
from epvf.tasks.engines.rollout import JaxTask

Reset: TypeAlias = Callable[[Any], tuple[Any, Any]]
"""Key to the library's state and its observation."""

Step: TypeAlias = Callable[[Any, Any, Any], tuple[Any, Any, Any, Any]]
"""Key, state and action to the next state, its observation, the reward and whether it is over."""


class Known(NamedTuple):
    """A library's environment as pure functions of one state, and what it is like.

    Attributes:
        reset, step: its functions.
        action_size: numbers of an action in [-1, 1], or indices where `discrete`.
        discrete: whether an action is an index.
        episode_length: longest episode in steps.
    """

    reset: Reset
    step: Step
    action_size: int
    discrete: bool
    episode_length: int


class Seen(NamedTuple):
    """A state as ours.

    Attributes:
        inner: the library's.
        observation: `[observation]`, float32.
        key: of what is random in the steps to come.
    """

    inner: Any
    observation: jax.Array
    key: jax.Array


def environment(name: str, known: Known) -> tuple[Environment, int]:
    """The environment, and the length of its observations, which are concatenated.

    Raises:
        UserError: if it cannot be traced, or it observes images.
    """

    def reset(key: jax.Array) -> Seen:
        reset_key, key = jax.random.split(key)
        with _their_way():
            inner, observation = known.reset(reset_key)
        return Seen(inner, _flat(observation), key)

    def step(state: Seen, action: jax.Array) -> tuple[Seen, jax.Array, jax.Array]:
        step_key, key = jax.random.split(state.key)
        with _their_way():
            inner, observation, reward, over = known.step(step_key, state.inner, action)
        seen = _flat(observation)
        # a learner never sees what is not finite: the episode fails there
        finite = jnp.isfinite(seen)
        reward = jnp.where(finite.all(), jnp.asarray(reward, jnp.float32).reshape(()), jnp.nan)
        after = Seen(inner, jnp.where(finite, seen, 0.0), key)
        return after, reward, jnp.asarray(over, bool).reshape(())

    try:
        with _their_way():
            observed = jax.eval_shape(known.reset, jax.random.key(0))[1]
    except Exception as error:
        raise UserError(f"task {name!r} cannot be reset: {in_a_line(error)}"[:200]) from None
    for part in jax.tree.leaves(observed):
        if part.ndim > 2:
            shape = "x".join(map(str, part.shape))
            raise UserError(
                f"task {name!r} observes images ({shape}), but a policy here takes a vector"
            )
    size = sum(part.size for part in jax.tree.leaves(observed))
    return Environment(reset, step, lambda state: state.observation), size


def task(
    name: str,
    known: Known,
    made: tuple[Environment, int],
    episode_length: int | None,
    num_slots: int | None,
    backend: str = "jax",
) -> JaxTask:
    """The task on an environment that `environment` made."""
    spec = TaskSpec(
        name=name,
        backend=backend,
        observation_size=made[1],
        action_size=known.action_size,
        discrete=known.discrete,
        episode_length=known.episode_length if episode_length is None else episode_length,
        deterministic_reset=False,
        traceable=True,
        draws=True,
    )
    return JaxTask(spec, made[0], num_slots)


def imported(module: str) -> Any:
    """A module of one of these libraries, without their remarks on others.

    Raises:
        UserError: if it cannot be imported.
    """
    try:
        with quiet():
            return import_module(module)
    except Exception as error:
        raise UserError(f"cannot import {module!r}: {in_a_line(error)}"[:200]) from None


@contextmanager
def quiet() -> Iterator[None]:
    """Within the block these libraries say nothing of others that are old or not installed."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    with warnings.catch_warnings(), redirect_stdout(None):
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _their_way() -> Iterator[None]:
    """Within the block their functions can be traced as they are."""
    with warnings.catch_warnings(), jax.numpy_rank_promotion("allow"):
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _flat(observation: Any) -> jax.Array:
    parts = [jnp.ravel(jnp.asarray(part, jnp.float32)) for part in jax.tree.leaves(observation)]
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)
