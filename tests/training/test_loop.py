"""The loop: one program or two halves, seeds side by side, budgets, and records."""

import dataclasses

import jax
import numpy as np
import pytest

from epvf.training.loop import HOPELESS, _Losses, iterate
from epvf.training.measure import evaluate_theta
from epvf.training.prepare import make_policy, prepare
from epvf.training.state import TrainingDiverged
from probes import KEYS, FormulaTask, config_of, records_of, reports_of, search_of, untimed

SUM = FormulaTask(lambda t: t.sum(-1))
HOST_SUM = FormulaTask(lambda t: t.sum(-1), traceable=False)


def _config(**delta):
    return config_of(**({"iterations": 6} | delta))


def test_one_program_and_two_halves_learn_the_same():
    fused, apart = (records_of(_config(), task) for task in (SUM, HOST_SUM))
    for a, b in zip(untimed(fused), untimed(apart), strict=True):
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
    stored = records_of(_config(**delta), task)
    again = records_of(_config(**delta, **{"buffer.store": "seeds"}), task)
    for a, b in zip(untimed(stored), untimed(again), strict=True):
        for name in a:
            assert a[name] == pytest.approx(b[name], rel=2e-3, abs=2e-4, nan_ok=True), name


@pytest.mark.parametrize("task", [SUM, HOST_SUM])
def test_a_run_repeats_to_the_bit_and_another_seed_differs(task):
    one, again, other = (untimed(records_of(_config(seed=s), task)) for s in (3, 3, 4))
    np.testing.assert_equal(one, again)
    assert one != other


@pytest.mark.slow
@pytest.mark.parametrize("task", [SUM, HOST_SUM])
def test_seeds_side_by_side_are_the_seeds_one_by_one(task):
    together = untimed(records_of(_config(num_seeds=2, seed=5), task))
    alone = untimed(records_of(_config(seed=6), task))
    second = [record for record in together if record.pop("seed") == 6]
    assert len(second) == len(alone) == 6
    for a, b in zip(second, alone, strict=True):
        for name in b:
            assert a[name] == pytest.approx(b[name], rel=2e-3, abs=2e-4, nan_ok=True), name


@pytest.mark.parametrize("task", [SUM, HOST_SUM])
def test_the_centre_is_measured_at_the_interval_and_at_the_end(task):
    records = records_of(_config(**{"eval.interval": 4}), task)
    measured = [np.isfinite(r["eval/episode_return"]) for r in records]
    assert measured == [True, False, False, False, True, True]


@pytest.mark.parametrize("task", [SUM, HOST_SUM])
def test_the_run_ends_with_the_iteration_that_reaches_the_env_steps(task):
    records = records_of(_config(env_steps=130, iterations=100), task)
    assert [r["steps/env"] for r in records] == [64, 128, 192]
    assert [r["steps/update"] for r in records] == [1, 2, 3]


@pytest.mark.parametrize("task", [SUM, HOST_SUM])
def test_the_centre_is_measured_where_env_steps_may_end_the_run(task):
    task = dataclasses.replace(task, longest=3)
    config = _config(env_steps=64 * 6, iterations=100, **{"eval.interval": 100})
    measured = [np.isfinite(r["eval/episode_return"]) for r in records_of(config, task)]
    assert measured == [True, False, False, True, True, True]


@pytest.mark.slow
def test_env_steps_are_counted_beyond_32_bits():
    *_, report = reports_of(_config(iterations=1), SUM)
    far = report.state._replace(env_steps=np.array([2**31 - 10]))
    *_, report = iterate(prepare(_config(iterations=2), SUM), far)
    assert report.records[-1]["steps/env"] == 2**31 - 10 + 64


def test_going_on_from_a_state_equals_never_having_stopped():
    whole = reports_of(_config(), HOST_SUM)
    for report in iterate(prepare(_config(), HOST_SUM)):
        if report.state.iteration == 3:
            copy = report.state._replace(learner=jax.tree.map(np.array, report.state.learner))
            break
    resumed = list(iterate(prepare(_config(), HOST_SUM), copy))
    assert [r.state.iteration for r in resumed] == [4, 5, 6]
    for a, b in zip(resumed, whole[3:], strict=True):
        np.testing.assert_equal(untimed(a.records), untimed(b.records))


@pytest.mark.parametrize("task", [SUM, HOST_SUM])
def test_a_state_that_was_kept_can_be_read_and_gone_on_from_again(task):
    setup = prepare(_config(iterations=3), task)
    states = [report.state for report in iterate(setup)]
    *_, again = iterate(setup, states[0])
    np.testing.assert_array_equal(again.state.learner.centres, states[-1].learner.centres)
    assert np.isfinite(states[0].learner.centres).all()


def test_compilation_is_announced():
    said: list[str] = []
    list(iterate(prepare(_config(iterations=1), SUM), announce=said.append))
    assert said[0].startswith("compiling") and said[1].startswith("compiled")


def test_records_hold_every_name_of_the_run_format():
    record = records_of(_config(iterations=1), SUM)[0]
    assert set(record) == KEYS


def test_records_tell_the_truth_about_the_population():
    config = _config(iterations=1)
    record = records_of(config, SUM)[0]
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


def _failing(at):
    """A task on the host all of whose rollouts fail at these iterations."""
    count = iter(range(1000))

    def formula(thetas):
        return np.full(len(thetas), np.nan) if next(count) in at else thetas.sum(-1)

    return FormulaTask(formula, traceable=False)


@pytest.mark.slow
def test_iterations_without_a_finite_rollout_end_the_run_if_they_come_in_a_row():
    assert HOPELESS == 3
    config = _config(iterations=9, **{"eval.interval": 9})
    records = records_of(config, _failing({1, 2, 4, 5, 7}))
    assert [r["rollout/nonfinite"] for r in records] == [0, 64, 64, 0, 64, 64, 0, 64, 0]
    reports = []
    with pytest.raises(TrainingDiverged, match="finite rollout in 3 iterations; look at nan/"):
        for report in iterate(prepare(config, _failing({1, 3, 4, 5}))):
            reports.append(report)
    assert [report.state.iteration for report in reports] == [1, 2, 3, 4, 5, 6]
    hopeless = FormulaTask(lambda t: t.sum(-1) * np.nan)
    with pytest.raises(TrainingDiverged, match="not one of 64 policies"):
        reports_of(_config(iterations=40, num_seeds=2), hopeless)


def test_a_loss_that_grows_out_of_all_proportion_is_told_once():
    told: list[str] = []
    config = _config(num_seeds=2, seed=3)
    losses = _Losses(config, told.append)
    search = search_of(config, SUM.spec).search

    def look(loss, size=1.0):
        ends = {"rollout/episode_return_min": [0.0], "rollout/episode_return_max": [size]}
        metrics = {name: np.array([[*one, *one]]) for name, one in ends.items()}
        losses.look(metrics | {"loss/value": np.array([[0.1, loss]])}, search)

    for loss, size in ((0.2, 1.0), (np.nan, 1.0), (900.0, 1.0), (1e6, 1000.0)):
        look(loss, size)  # as large as squared returns is in proportion
    assert told == []
    look(1e9)
    look(1e12)
    (line,) = told
    assert line.startswith("the loss of V has grown to 1e+09 (seed 4): V diverges. Lower ")
    losses.look({}, search)
