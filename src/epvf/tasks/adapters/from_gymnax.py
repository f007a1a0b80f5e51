"""`gymnax:ID`: environments of gymnax (Lange 2022), which are written in JAX."""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from epvf.errors import UserError
from epvf.registry import in_a_line
from epvf.tasks.adapters import traced
from epvf.tasks.adapters.ids import unknown_id
from epvf.tasks.adapters.spaces import scale
from epvf.tasks.engines.rollout import JaxTask
from epvf.tasks.entry import Engine, TaskEntry


def entry(name: str) -> TaskEntry:
    """The task of an environment's id, as `gymnax.make` takes it.

    Raises:
        UserError: if there is no such environment.
    """
    asked = name.partition(":")[2]
    valid = traced.imported("gymnax").registered_envs
    if asked not in valid:
        raise unknown_id("gymnax", asked, valid)
    return TaskEntry({"jax": Engine(partial(_make, name, asked), ("num_slots",))})


def _make(
    name: str, asked: str, episode_length: int | None = None, num_slots: int | None = None
) -> JaxTask:
    known, made = _environment(name, asked)
    return traced.task(name, known, made, episode_length, num_slots)


@cache
def _environment(name: str, asked: str) -> tuple[traced.Known, Any]:
    known = _known(name, asked)
    return known, traced.environment(name, known)


def _known(name: str, asked: str) -> traced.Known:
    try:
        with traced.quiet():
            environment, params = traced.imported("gymnax").make(asked)
            space = environment.action_space(params)
    except Exception as error:  # MNIST's has to be downloaded first, for one
        raise UserError(f"task {name!r} cannot be made: {in_a_line(error)}"[:200]) from None
    size, discrete, convert = _actions(name, space)

    def reset(key: jax.Array) -> tuple[Any, Any]:
        observation, state = environment.reset_env(key, params)
        return state, observation

    def step(key: jax.Array, state: Any, action: jax.Array) -> tuple[Any, Any, Any, Any]:
        # the inner step: the outer one starts the next episode by itself, and ends it by the clock
        observation, state, reward, over, _ = environment.step_env(
            key, state, convert(action), params
        )
        return state, observation, reward, over

    length = int(params.max_steps_in_episode)
    return traced.Known(reset, step, size, discrete, length)


def _actions(name: str, space: Any) -> tuple[int, bool, Any]:
    """Size, kind, and how an action is made of a policy's."""
    if hasattr(space, "n"):
        return int(space.n), True, lambda action: action
    if not (hasattr(space, "low") and len(getattr(space, "shape", ())) <= 1):
        what = type(space).__name__
        raise UserError(f"the actions of task {name!r} are {what}, but must be Discrete or a Box")
    size = int(np.prod(space.shape))
    middle, half, _ = scale(*(np.broadcast_to(b, (size,)) for b in (space.low, space.high)))
    return size, False, lambda action: jnp.reshape(middle + half * action, space.shape)
