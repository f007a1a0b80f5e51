"""What PPO and SAC share: agents that step environments themselves, trained by Brax."""

from collections.abc import Callable
from typing import Any

from epvf.methods.agents import brax_compat
from epvf.methods.base import Plan
from epvf.tasks.base import TaskSpec

UNREAD = frozenset(
    {
        "policy.num_centres",
        "policy.init",
        "policy.init_scale",
        "policy.last_layer_scale",
        "checkpoint",
        "num_seeds",
        "schedule_iterations",
    }
)
"""Of a configuration's fields; Brax's state cannot be saved whole, so there are no checkpoints."""


def unfit(spec: TaskSpec, config: Plan) -> str | None:
    """Why an agent cannot learn a task."""
    brax_compat.require(config.method.name)
    if not spec.traceable:
        return "it needs an engine in JAX: --backend mjx"
    if not spec.discrete and config.policy.output != "tanh":
        return f"it squashes its actions: use policy.output 'tanh', not {config.policy.output!r}"
    return None


def train(
    config: Any, task: Any, iterations: int, tally: Any, listener: Callable[[Any], None]
) -> None:
    """Trains with Brax's function of the method's name; whatever `listener` raises ends it."""
    with brax_compat.tolerated():
        from epvf.methods.agents import brax_agents

        {"ppo": brax_agents.ppo, "sac": brax_agents.sac}[config.method.name](
            config, task, iterations, tally, listener
        )
