"""Several methods on one task: the same budget of env steps, seeds and population for each."""

import math
from collections.abc import Sequence
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
) -> Plan:
    """All runs of a comparison: one seed each, so that their seconds are those of one training.

    Args:
        task: what is trained.
        methods: that are compared, each with its own hyperparameters from the preset.
        seeds: of each method.
        env_steps: at which every run ends; a whole number.
        start: preset that every method starts from.
        delta: dotted fields that every method changes besides, e.g. the engine.

    Returns:
        All methods with the first seed, then with the next: cut short, it can still be compared.

    Raises:
        UserError: if anything is unknown, not positive, not whole, named twice or not installed,
            or a method does not fit the task.
    """
    if not methods:
        raise UserError("which methods? epvf compare TASK --methods epvf openes ...")
    twice = [name for name in methods if list(methods).count(name) > 1]
    if twice:
        raise UserError(f"method {twice[0]!r} is named twice")
    for name, number in (("seeds", seeds), ("env_steps", env_steps)):
        if not 1 <= number < math.inf or number % 1:
            raise UserError(f"{name} is {number:g}, but must be a whole number of at least 1")
    env_steps = int(env_steps)
    configs = {
        name: budgeted(replace(preset(task, start, name), delta or {}), env_steps)
        for name in methods
    }
    arms = [
        Arm(f"{name}-s{seed}", replace(config, {"seed": seed}))
        for seed in range(seeds)
        for name, config in configs.items()
    ]
    return Plan(f"compare {task}", f"{env_steps} env steps", start, seeds, arms)


def budgeted(config: Config, env_steps: int) -> Config:
    """The configuration with a budget of env steps, which alone ends the run.

    Schedules go by iterations: over those of the preset, or as many as the budget has with
    episodes of full length, if that is more. Evaluations come as often as in the preset, or
    `EVALUATIONS` times in so many iterations, if that is more.
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
        budget["schedule_iterations"] = max(config.iterations, iterations)
    return replace(setup.config, budget | {"task.backend": config.task.backend})
