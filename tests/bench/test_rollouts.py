"""The bench reports what it says."""

import numpy as np
import pytest

from epvf.bench.rollouts import bench
from epvf.errors import UserError
from epvf.policies.mlp import Policy
from epvf.tasks import make


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "policy"),
    [
        (make("ant", "native", episode_length=60), Policy((34, 8))),
        (make("cartpole", episode_length=20), Policy((4, 2), output="argmax")),
    ],
)
def test_bench(task, policy: Policy) -> None:
    thetas = np.full((8, policy.num_parameters), 0.1, np.float32)
    result = bench(task, policy, thetas, repeats=2)
    assert result["task"] == task.spec.name
    assert result["backend"] == task.spec.backend
    assert result["num_envs"] == 8
    assert 8 <= result["env_steps"] <= 8 * task.spec.episode_length
    assert result["theta_bytes"] == 4 * thetas.size
    assert result["steps_per_second"] > 0 and result["bare_steps_per_second"] > 0
    assert result["ratio"] > 0
    assert result["peak_memory_bytes"] is None or result["peak_memory_bytes"] >= 0
    assert result["peak_device_bytes"] is None or result["peak_device_bytes"] > 0
    assert result["rollout_compile_seconds"] >= 0
    known = result["roofline"]
    assert (known is not None) == task.spec.traceable
    assert known is None or known["bound_steps_per_second"] > 0


def test_refuses_no_repeats() -> None:
    with pytest.raises(UserError, match="repeats is 0"):
        bench(make("cartpole"), Policy((4, 2), output="argmax"), np.zeros((1, 10)), repeats=0)


def test_refuses_policies_that_cannot_be_run() -> None:
    policy = Policy((34, 8))
    thetas = np.full((2, policy.num_parameters), np.nan, np.float32)
    with pytest.raises(UserError, match="not finite"):
        bench(make("ant", "native", episode_length=3), policy, thetas)
