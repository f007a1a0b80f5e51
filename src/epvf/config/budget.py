"""How long a run lasts."""

import math
from typing import Any

from epvf.config.convert import LARGEST
from epvf.config.schema import Config, reads, replace
from epvf.methods.registry import METHODS


def lasting(config: Config, env_steps: int) -> Config:
    """The configuration with an end at so many env steps, however many iterations these take.

    Schedules keep the length that they had, and stay at their final values beyond it.

    Raises:
        UserError: if that contradicts something else.
    """
    # no episode is shorter than a step
    least = METHODS[config.method.name].segment(config.method) or 1
    most = max(config.iterations, math.ceil(env_steps / (config.num_envs * least)))
    changed: dict[str, Any] = {"env_steps": env_steps, "iterations": min(most, LARGEST)}
    if reads(config.method.name, "schedule_iterations"):
        changed["schedule_iterations"] = config.schedule_iterations or config.iterations
    return replace(config, changed)
