"""`brax:ID`: environments of Brax (Freeman et al. 2021), on its own engines in JAX."""

from functools import cache, partial
from typing import Any

import jax

from epvf.errors import UserError
from epvf.registry import in_a_line
from epvf.tasks.adapters import traced
from epvf.tasks.adapters.ids import unknown_id
from epvf.tasks.engines.rollout import JaxTask
from epvf.tasks.entry import Engine, TaskEntry

EPISODE_LENGTH = 1000
"""Brax's default for all of them."""

PIPELINES = ("generalized", "positional", "spring", "mjx")
"""Brax's physics; `jax` is the one that an environment has by default."""


def entry(name: str) -> TaskEntry:
    """The task of an environment's name, as `brax.envs.get_environment` takes it.

    Raises:
        UserError: if there is no such environment.
    """
    asked = name.partition(":")[2]
    valid = traced.imported("brax.envs")._envs
    if asked not in valid:
        raise unknown_id("brax", asked, valid)
    makers = {
        backend: Engine(partial(_make, name, asked, backend), ("num_slots",))
        for backend in ("jax", *PIPELINES)
    }
    return TaskEntry(makers)


def _make(
    name: str,
    asked: str,
    backend: str,
    episode_length: int | None = None,
    num_slots: int | None = None,
) -> JaxTask:
    known, made = _environment(name, asked, backend)
    return traced.task(name, known, made, episode_length, num_slots, backend)


@cache
def _environment(name: str, asked: str, backend: str) -> tuple[traced.Known, Any]:
    options = {} if backend == "jax" else {"backend": backend}
    try:
        with traced.quiet():
            environment = traced.imported("brax.envs").get_environment(asked, **options)
            size = int(environment.action_size)
    except Exception as error:
        raise UserError(f"task {name!r} cannot be made: {in_a_line(error)}"[:200]) from None
    reset, step = functions(environment)
    known = traced.Known(reset, step, size, False, EPISODE_LENGTH)
    return known, traced.environment(name, known)


def functions(environment: Any, sees: Any = lambda observation: observation) -> Any:
    """An environment's `reset` and `step`, in the manner of Brax, as `traced.Known` has them.

    Args:
        environment: whose states have `obs`, `reward` and `done`.
        sees: of an observation what the policy is shown.
    """

    def reset(key: jax.Array) -> tuple[Any, Any]:
        # keys of the older kind, as these libraries expect
        state = environment.reset(jax.random.key_data(key))
        return state, sees(state.obs)

    def step(key: jax.Array, state: Any, action: jax.Array) -> tuple[Any, Any, Any, Any]:
        del key  # what is random they keep in their states
        state = environment.step(state, action)
        return state, sees(state.obs), state.reward, state.done > 0.5

    return reset, step
