"""Several methods, or settings, on one task: the same budget of env steps and seeds for each."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from epvf.config.presets import preset
from epvf.config.schema import Config, reads, replace
from epvf.errors import UserError
from epvf.experiments.paper import Arm
from epvf.experiments.runner import Plan
from epvf.methods.registry import METHODS
from epvf.training.prepare import prepare

EVALUATIONS = 12
"""Of the unperturbed policy, at least, in a run whose episodes are of full length."""


def planned(
    task: str,
    methods: Sequence[str],
    seeds: int,
    env_steps: float,
    start: str = "tuned",
    delta: dict[str, Any] | None = None,
    settings: Mapping[str, Config] | None = None,
) -> Plan:
    """All runs of a comparison: one seed each, so that their seconds are those of one training.

    Args:
        task: what is trained.
        methods: that are compared, each with its own hyperparameters from the preset.
        seeds: of each method.
        env_steps: at which every run ends; a whole number.
        start: preset that every method starts from.
        delta: dotted fields that every method changes besides, e.g. the engine.
        settings: configurations that are compared besides, by name.

    Returns:
        All methods with the first seed, then with the next: cut short, it can still be compared.

    Raises:
        UserError: if anything is unknown, not positive, not whole, named twice or not installed,
            or a method does not fit the task.
    """
    settings = settings or {}
    if not methods and not settings:
        raise UserError(
            "which methods? epvf compare TASK --methods epvf openes ..., or --arm NAME='OPTIONS'"
        )
    names = [*methods, *settings]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"method {twice[0]!r} is named twice")
    for name, config in settings.items():
        _check_setting(name, config)
    for name, number in (("seeds", seeds), ("env_steps", env_steps)):
        if not 1 <= number < math.inf or number % 1:
            raise UserError(f"{name} is {number:g}, but must be a whole number of at least 1")
    env_steps = int(env_steps)
    configs: dict[str, Config] = {
        name: budgeted(replace(preset(task, start, name), delta or {}), env_steps)
        for name in methods
    }
    configs |= {name: budgeted(config, env_steps) for name, config in settings.items()}
    arms = [
        Arm(f"{name}-s{seed}", replace(config, {"seed": seed}))
        for seed in range(seeds)
        for name, config in configs.items()
    ]
    return Plan(f"compare {task}", f"{env_steps} env steps", start, seeds, arms)


def _check_setting(name: str, config: Config) -> None:
    """Raises a `UserError` for a name that is no folder's, or a field that is the comparison's."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", name):
        raise UserError(f"an arm's name is of letters, digits and . _ + -, not {name!r:.60}")
    if config.seed or config.num_seeds > 1:
        raise UserError(f"arm {name}: leave seeds to the comparison: epvf compare TASK --seeds M")


def budgeted(config: Config, env_steps: int) -> Config:
    """The configuration with a budget of env steps, which alone ends the run.

    Schedules go by iterations: over as many as the preset says or, where it says nothing, over its
    own or as many as the budget has with episodes of full length, if that is more. Evaluations come
    as often as in the preset, or `EVALUATIONS` times in so many iterations, if that is more.
    """
    setup = prepare(config)
    method = METHODS[config.method.name]
    segment = method.segment(config.method) or setup.task.spec.episode_length
    whole = config.num_envs * segment
    iterations = math.ceil(env_steps / whole)
    budget = {
        "env_steps": env_steps,
        "iterations": math.ceil(env_steps / config.num_envs),  # no episode is shorter than a step
        "eval.interval": min(config.eval.interval, max(1, iterations // EVALUATIONS)),
    }
    if reads(config.method.name, "schedule_iterations"):
        said = config.schedule_iterations
        budget["schedule_iterations"] = said or max(config.iterations, iterations)
    return replace(setup.config, budget | {"task.backend": config.task.backend})
