"""One step of each built-in task on lanes, against its own functions under XLA."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epvf.policies.mlp import Policy
from epvf.tasks import make
from epvf.tasks.engines.lanes import LanesTask

NUM = 96  # as in test_mjx, so that XLA compiles MJX's steps of the walkers once
KEY = jax.random.key(0)
BODIES = (
    "hopper",
    "halfcheetah",
    "walker2d",
    "swimmer",
    "reacher",
    "inverted-double-pendulum",
)
"""The Ant's step is in test_rollout; Go2's model is not to be had everywhere."""

TASKS = ("cartpole", "pendulum", "acrobot")


def _thetas(policy: Policy) -> np.ndarray:
    draw = lambda key: policy.init(key, "lecun_uniform", 3.0)  # noqa: E731
    return np.asarray(jax.vmap(draw)(jax.random.split(jax.random.key(7), NUM)))


def _numbers(states: Any) -> np.ndarray:
    """Those of each state in a row."""
    return np.concatenate([np.reshape(x, (NUM, -1)) for x in jax.tree.leaves(states)], axis=1)


@pytest.mark.parametrize(
    "name", [*TASKS, *(pytest.param(body, marks=pytest.mark.slow) for body in BODIES)]
)
def test_a_step_is_that_of_the_tasks_functions(name: str) -> None:
    task: Any = make(name, "lanes", num_threads=1)
    assert isinstance(task, LanesTask)
    spec, environment = task.spec, task.program.environment
    sizes = (spec.observation_size, 8, spec.action_size)
    policy = Policy(sizes, output="argmax") if spec.discrete else Policy(sizes, output="tanh")
    thetas = _thetas(policy)
    begin = task.explorer(policy, 1).reset(KEY, NUM)
    before = task.explorer(policy, 20)(KEY, thetas, begin).envs  # some are on the ground by then
    ours = task.explorer(policy, 1)(KEY, thetas, before)
    outputs = jnp.asarray(ours.outputs[:, 0])
    actions = outputs.argmax(axis=1).astype(jnp.int32) if spec.discrete else jnp.tanh(outputs)
    states = jax.tree.map(jnp.asarray, before.state)
    state, reward, over = jax.jit(jax.vmap(environment.step))(states, actions)
    np.testing.assert_array_equal(ours.terminated[:, 0], over)
    on = ~(ours.terminated | ours.truncated)[:, 0]
    assert on.sum() > NUM // 3
    error = np.abs(_numbers(ours.envs.state) - _numbers(state)) / (1.0 + np.abs(_numbers(state)))
    worst = error.max(axis=1)[on]
    # of solvers that iterate, accelerations (kept for the next step's start) to their tolerance
    assert np.median(worst) < 3e-5 and np.quantile(worst, 0.95) < 1e-3 and worst.max() < 1e-2
    np.testing.assert_allclose(ours.rewards[on, 0], np.asarray(reward)[on], rtol=1e-4, atol=1e-4)
