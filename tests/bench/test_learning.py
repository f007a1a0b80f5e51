"""What is timed is what training and the representations do."""

from typing import Any

import jax
import numpy as np
import pytest

from epvf.bench.learning import bench_learner, stage_calls, take_turns, with_num_envs
from epvf.config.presets import preset
from epvf.tasks.base import TaskSpec
from epvf.training.prepare import Setup, make_policy
from epvf.value.representations import Unf
from probes import FormulaTask, search_of

SPEC = TaskSpec("ant-sized", "jax", 5, 2, False, 1, True, True)
SMALL = preset("ant", "debug").replace(
    {"policy.hidden_sizes": [6, 7], "representation.num_probing_states": 3}
)
STAGES = {
    "raw": [],
    "probing": ["probing"],
    "unf+raw": ["unf read", "unf layer 1", "unf layer 2", "unf pool"],
}


def _setup(**delta) -> Any:
    """Of a task that is only known by its spec: nothing is rolled out."""
    config = SMALL.replace(delta)
    task = FormulaTask(lambda t: t.sum(-1))
    policy = make_policy(config, SPEC)
    return Setup(config, task, policy, search_of(config, SPEC).search, task.evaluator(policy), None)


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_every_stage_of_a_representation_is_timed(name):
    result = bench_learner(_setup(**{"representation.name": name}), repeats=1)
    assert list(result["representation_ms"]) == STAGES[name]
    times = [result["value_ms"], result["policy_ms"], *result["representation_ms"].values()]
    assert min(times) > 0 and result["learner_compile_seconds"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("signs", [False, True])
def test_the_stages_one_after_the_other_are_the_representation(signs):
    delta = {"representation.name": "unf", "representation.unf_sign_symmetry": signs}
    learner = _setup(**delta).search
    unf = learner.value.representation.parts[0][1]
    assert isinstance(unf, Unf)
    params = unf.init(jax.random.key(0))
    thetas = jax.random.normal(jax.random.key(1), (4, learner.policy.num_parameters))
    x = unf.config.unf_scale * thetas
    for stage in unf.stages(params, thetas):
        x = stage.function(stage.params, x)
    head = params["network"]["head"]
    standardised = (x - head["offset"][None]) * head["scale"][None]
    np.testing.assert_allclose(standardised, unf(params, thetas, thetas), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_stage_is_timed_for_the_whole_batch():
    learner = _setup(**{"representation.name": "unf"}).search
    (stage, *_) = learner.value.representation.stages(
        learner.value.representation.init(jax.random.key(0)),
        np.zeros((50, learner.policy.num_parameters), np.float32),
    )
    assert stage.chunk == 16 and stage.inputs.shape[0] == 16
    assert set(take_turns(stage_calls(learner, 50), 1)) == set(STAGES["unf+raw"])


def test_batch_and_buffer_follow_the_number_of_policies_where_they_were_equal_to_it():
    grown = with_num_envs(preset("ant", "paper"), 8)
    assert (grown.num_envs, grown.method.buffer.size, grown.method.value_update.batch_size) == (
        8,
        8,
        8,
    )
    own = with_num_envs(preset("cartpole", "paper"), 4).method
    assert (own.buffer.size, own.value_update.batch_size) == (100_000, 16)
