"""`playground:ID`: environments of MuJoCo Playground (Zakka et al. 2025), on MJX."""

from collections.abc import Mapping
from functools import cache, partial
from typing import Any

from epvf.errors import UserError
from epvf.registry import in_a_line
from epvf.tasks.adapters import traced
from epvf.tasks.adapters.from_brax import functions
from epvf.tasks.adapters.ids import unknown_id
from epvf.tasks.engines.rollout import JaxTask
from epvf.tasks.entry import Engine, TaskEntry

POLICYS_PART = "state"
"""Of an observation in parts: the others are for critics, which may know more."""


def entry(name: str) -> TaskEntry:
    """The task of an environment's name, as `mujoco_playground.registry.load` takes it.

    Raises:
        UserError: if there is no such environment.
    """
    asked = name.partition(":")[2]
    valid = _registry().ALL_ENVS
    if asked not in valid:
        raise unknown_id("playground", asked, valid)
    return TaskEntry({"mjx": Engine(partial(_make, name, asked), ("num_slots",))})


def _registry() -> Any:
    return traced.imported("mujoco_playground").registry


def _make(
    name: str, asked: str, episode_length: int | None = None, num_slots: int | None = None
) -> JaxTask:
    known, made = _environment(name, asked)
    return traced.task(name, known, made, episode_length, num_slots, "mjx")


@cache
def _environment(name: str, asked: str) -> tuple[traced.Known, Any]:
    try:
        with traced.quiet():
            registry = _registry()
            config = registry.get_default_config(asked)
            # Warp, their default, needs a CUDA GPU and more memory than its contacts fit in
            environment = registry.load(asked, config, {"impl": "jax"})
            size = int(environment.action_size)
    except Exception as error:  # robots are downloaded when they are first loaded, for one
        raise UserError(f"task {name!r} cannot be made: {in_a_line(error)}"[:200]) from None
    length = int(config.episode_length) // int(config.get("action_repeat", 1))
    reset, step = functions(environment, _seen)
    known = traced.Known(reset, step, size, False, length)
    return known, traced.environment(name, known)


def _seen(observation: Any) -> Any:
    return observation[POLICYS_PART] if isinstance(observation, Mapping) else observation
