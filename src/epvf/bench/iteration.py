"""What an iteration costs as a whole, and which part of it is learning."""

from typing import Any

from epvf.bench.learning import bench_learner
from epvf.bench.psvf import bench_psvf
from epvf.errors import UserError
from epvf.methods.epvf import Learner
from epvf.methods.psvf import PSVFLearner
from epvf.training.prepare import Setup


def check_method(setup: Setup) -> None:
    """Checks that there is learning to be measured.

    Raises:
        UserError: if the method learns no value function of policies.
    """
    if not isinstance(setup.method, Learner | PSVFLearner):
        name = setup.config.method.name
        raise UserError(f"bench measures V(θ) and V(s, θ), which method {name!r} does not have")


def bench_iteration(setup: Setup, closed_loop: dict[str, Any], repeats: int = 5) -> dict[str, Any]:
    """Times what an iteration consists of.

    Args:
        setup: the run, of a method that `check_method` lets pass.
        closed_loop: what `bench` found.
        repeats: turns; the medians over them are reported.

    Returns:
        What `bench_learner` or `bench_psvf` finds, `rollout_ms`, `iteration_ms` of all parts, and
        `learner_fraction`, that of V's and the policy's updates in it.
    """
    if isinstance(setup.method, PSVFLearner):
        parts = bench_psvf(setup, repeats)
    else:
        seconds = closed_loop["env_steps"] / closed_loop["steps_per_second"]
        parts = {"rollout_ms": 1e3 * seconds} | bench_learner(setup, repeats)
    learning = parts["value_ms"] + parts["policy_ms"]
    whole = parts.get("propose_ms", 0.0) + parts["rollout_ms"] + learning
    shares = {"iteration_ms": whole, "learner_fraction": learning / whole}
    return {"method": setup.config.method.name} | parts | shares
