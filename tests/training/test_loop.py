"""The loop: one program or two halves, seeds side by side, budgets, and records."""

import dataclasses

import jax
import numpy as np
import pytest

from epvf.config.schema import Config, replace
from epvf.methods.registry import make_policy
from epvf.training.loop import evaluate_theta, train
from probes import BASE, FormulaTask

SUM = FormulaTask(lambda t: t.sum(-1))
HOST_SUM = FormulaTask(lambda t: t.sum(-1), traceable=False)


def _config(**delta):
    return replace(Config(), BASE | {"iterations": 6} | delta)


def _records(config, task):
    return [record for report in train(config, task) for record in report.records]


def _untimed(records):
    return [{k: v for k, v in r.items() if not k.startswith("time/")} for r in records]


def test_one_program_and_two_halves_learn_the_same():
    fused, apart = (_records(_config(), task) for task in (SUM, HOST_SUM))
    for a, b in zip(_untimed(fused), _untimed(apart), strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name] == pytest.approx(b[name], rel=2e-3, abs=2e-4, nan_ok=True), name


@pytest.mark.slow
@pytest.mark.parametrize("task", [SUM, HOST_SUM])
@pytest.mark.parametrize("gradient_at", ["theta", "population"])
@pytest.mark.parametrize("batch_size", [32, 128])
def test_populations_drawn_again_teach_as_stored_ones_do(task, gradient_at, batch_size):
    delta = {
        "buffer.size": 128,
        "value_update.batch_size": batch_size,
        "policy_update.gradient_at": gradient_at,
    }
    stored = _records(_config(**delta), task)
    again = _records(_config(**delta, **{"buffer.store": "seeds"}), task)
    for a, b in zip(_untimed(stored), _untimed(again), strict=True):
        for name in a:
            assert a[name] == pytest.approx(b[name], rel=2e-3, abs=2e-4, nan_ok=True), name


@pytest.mark.parametrize("task", [SUM, HOST_SUM])
def test_a_run_repeats_to_the_bit_and_another_seed_differs(task):
    one, again, other = (_untimed(_records(_config(seed=s), task)) for s in (3, 3, 4))
    np.testing.assert_equal(one, again)
    assert one != other


@pytest.mark.parametrize("task", [SUM, HOST_SUM])
def test_seeds_side_by_side_are_the_seeds_one_by_one(task):
    together = _untimed(_records(_config(num_seeds=2, seed=5), task))
    alone = _untimed(_records(_config(seed=6), task))
    second = [record for record in together if record.pop("seed") == 6]
    assert len(second) == len(alone) == 6
    for a, b in zip(second, alone, strict=True):
        for name in b:
            assert a[name] == pytest.approx(b[name], rel=2e-3, abs=2e-4, nan_ok=True), name


@pytest.mark.parametrize("task", [SUM, HOST_SUM])
def test_the_leader_is_measured_at_the_interval_and_at_the_end(task):
    records = _records(_config(**{"eval.interval": 4}), task)
    measured = [np.isfinite(r["eval/episode_return"]) for r in records]
    assert measured == [True, False, False, False, True, True]


@pytest.mark.parametrize("task", [SUM, HOST_SUM])
def test_the_run_ends_with_the_iteration_that_reaches_the_env_steps(task):
    records = _records(_config(env_steps=130, iterations=100), task)
    assert [r["steps/env"] for r in records] == [64, 128, 192]
    assert [r["steps/update"] for r in records] == [1, 2, 3]


@pytest.mark.parametrize("task", [SUM, HOST_SUM])
def test_the_leader_is_measured_where_env_steps_may_end_the_run(task):
    task = dataclasses.replace(task, longest=3)
    config = _config(env_steps=64 * 6, iterations=100, **{"eval.interval": 100})
    measured = [np.isfinite(r["eval/episode_return"]) for r in _records(config, task)]
    assert measured == [True, False, False, True, True, True]


def test_env_steps_are_counted_beyond_32_bits():
    *_, report = train(_config(iterations=1), SUM)
    far = report.state._replace(env_steps=np.array([2**31 - 10]))
    *_, report = train(_config(iterations=2), SUM, state=far)
    assert report.records[-1]["steps/env"] == 2**31 - 10 + 64


def test_going_on_from_a_state_equals_never_having_stopped():
    whole = list(train(_config(), HOST_SUM))
    for report in train(_config(), HOST_SUM):
        if report.state.iteration == 3:
            learners = jax.tree.map(np.array, report.state.learner)
            copy = report.state._replace(learner=learners)
            break
    resumed = list(train(_config(), HOST_SUM, state=copy))
    assert [r.state.iteration for r in resumed] == [4, 5, 6]
    for a, b in zip(resumed, whole[3:], strict=True):
        np.testing.assert_equal(_untimed(a.records), _untimed(b.records))


def test_compilation_is_announced():
    said: list[str] = []
    list(train(_config(iterations=1), SUM, announce=said.append))
    assert said[0].startswith("compiling") and said[1].startswith("compiled")


def test_records_hold_every_name_of_the_run_format():
    record = _records(_config(iterations=1), SUM)[0]
    assert set(record) == {
        "steps/update",
        "steps/env",
        "time/wall",
        "time/sps",
        "rollout/episode_return",
        "rollout/episode_return_std",
        "rollout/episode_return_min",
        "rollout/episode_return_max",
        "rollout/episode_length",
        "rollout/nonfinite",
        "eval/episode_return",
        "loss/value",
        "value/spearman",
        "policy/step_norm",
        "policy/clipped_fraction",
        "policy/predicted_gain",
        "policy/realized_gain",
    }


def test_records_tell_the_truth_about_the_population():
    config = _config(iterations=1)
    record = _records(config, SUM)[0]
    low, high = record["rollout/episode_return_min"], record["rollout/episode_return_max"]
    assert low < record["rollout/episode_return"] < high
    # 64 policies of 4 weights with noise 0.1 each: deviation of the sum is 0.2.
    assert record["rollout/episode_return_std"] == pytest.approx(0.2, rel=0.25)


def test_evaluate_theta_averages_over_a_cloud():
    policy = make_policy(_config(), SUM.spec)
    theta = np.ones(policy.num_parameters, np.float32)
    evaluation = evaluate_theta(SUM.evaluator(policy), jax.random.key(0), theta, 100, 1e-2)
    assert evaluation.returns.shape == (100,)
    assert 0 < np.std(evaluation.returns) < 0.02
    assert np.mean(evaluation.returns) == pytest.approx(4.0, abs=5e-3)
