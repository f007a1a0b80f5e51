"""What an iteration costs as a whole, and which part of it is learning."""

from typing import Any

from epvf.bench.learning import bench_learner
from epvf.bench.psvf import bench_psvf
from epvf.config.schema import Config
from epvf.errors import UserError
from epvf.methods.agents.settings import AGENTS
from epvf.methods.evolution import STRATEGIES
from epvf.tasks.base import Task


def check_method(config: Config) -> None:
    """Checks that there is learning to be measured.

    Raises:
        UserError: if the method learns no value function of policies.
    """
    if config.method in AGENTS or config.method in STRATEGIES:
        raise UserError(
            f"bench measures V(θ) and V(s, θ), which method {config.method!r} does not have"
        )


def bench_iteration(
    config: Config, task: Task, closed_loop: dict[str, Any], repeats: int = 5
) -> dict[str, Any]:
    """Times what an iteration consists of.

    Args:
        config: the run, of a method that `check_method` lets pass.
        task: what it is trained on.
        closed_loop: what `bench` found.
        repeats: turns; the medians over them are reported.

    Returns:
        What `bench_learner` or `bench_psvf` finds, `rollout_ms`, `iteration_ms` of all parts, and
        `learner_fraction`, that of V's and the policy's updates in it.
    """
    if config.method == "psvf":
        parts = bench_psvf(config, task, repeats)
    else:
        seconds = closed_loop["env_steps"] / closed_loop["steps_per_second"]
        parts = {"rollout_ms": 1e3 * seconds} | bench_learner(config, task.spec, repeats)
    learning = parts["value_ms"] + parts["policy_ms"]
    whole = parts.get("propose_ms", 0.0) + parts["rollout_ms"] + learning
    shares = {"iteration_ms": whole, "learner_fraction": learning / whole}
    return {"method": config.method} | parts | shares
