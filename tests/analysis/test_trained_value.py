"""V of a run on disk, against the formula that its learner computes."""

import json
import shutil
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epvf.analysis.restore import restore
from epvf.analysis.trained_value import load_value
from epvf.cli.main import main
from epvf.errors import UserError
from epvf.types import Evaluation
from epvf.value.v_state_theta import network

RUNS = Path(__file__).resolve().parents[1] / "fixtures" / "v0.1.0"


@pytest.fixture(scope="module")
def of_policies():
    return load_value(RUNS / "epvf")


@pytest.fixture(scope="module")
def of_states():
    return load_value(RUNS / "psvf")


def _trained(folder: Path, *options: str) -> Path:
    quick = ("--preset", "debug", "--iterations", "3", "--no-report", *options)
    assert main(["train", "cartpole", *quick, "--out", str(folder / "run")]) == 0
    return folder / "run"


def test_predictions_are_those_of_the_runs_learner(of_policies):
    found = restore(RUNS / "epvf")
    learner, state = cast(Any, found.setup.search), found.seed()
    thetas = 0.5 * np.random.default_rng(0).standard_normal((7, learner.policy.num_parameters))
    expected = learner.value(
        state.value, jnp.asarray(thetas, jnp.float32), learner.frame(state), None
    )
    assert (of_policies.kind, of_policies.units) == ("V(θ)", "return")
    np.testing.assert_allclose(of_policies(thetas), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(of_policies.theta, state.centres[0])
    assert of_policies(thetas[0]).shape == ()
    np.testing.assert_allclose(of_policies(thetas[0]), expected[0], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["of_policies", "of_states"])
def test_the_gradient_is_the_slope_of_predictions(name, request):
    value = request.getfixturevalue(name)
    theta = value.theta + 0.02 * np.random.default_rng(1).standard_normal(len(value.theta))
    gradient, moves = value.gradient(theta), np.eye(len(theta))[::5]
    assert gradient.shape == theta.shape
    step = 1e-3 if name == "of_states" else 1e-2
    ahead, behind = value(theta + step * moves), value(theta - step * moves)
    slopes = (ahead - behind) / (2 * step)
    # importances have bounds, and V(s, θ) a corner at each: small steps cross few of them
    assert np.corrcoef(slopes, gradient[::5])[0, 1] > 0.99
    assert np.linalg.norm(slopes) == pytest.approx(np.linalg.norm(gradient[::5]), rel=0.1)


def test_the_buffer_is_what_the_run_evaluated(of_policies):
    thetas, returns = of_policies.buffer()
    found = restore(RUNS / "epvf")
    stored = found.seed().buffer
    valid = np.asarray(stored.valid)
    assert 0 < len(returns) == valid.sum()
    np.testing.assert_array_equal(thetas, np.asarray(stored.thetas)[valid])
    np.testing.assert_array_equal(returns, np.asarray(stored.returns)[valid])
    assert isinstance(thetas, np.ndarray) and (returns >= 1.0).all()


@pytest.mark.slow
def test_policies_of_which_only_seeds_are_stored_are_drawn_again(tmp_path):
    runs = [_trained(tmp_path / how, "--buffer.store", how) for how in ("weights", "seeds")]
    (thetas, returns), (drawn, same) = (load_value(run).buffer() for run in runs)
    order, other = np.lexsort(thetas.T), np.lexsort(drawn.T)
    np.testing.assert_allclose(drawn[other], thetas[order], rtol=1e-6)
    np.testing.assert_array_equal(same[other], returns[order])


@pytest.mark.slow
@pytest.mark.parametrize("transform", ["scaled", "standardised"])
def test_predictions_are_returns_whatever_the_targets(tmp_path, transform):
    options = ("--target.transform", transform, "--target.scale", "50", "--value-update.steps")
    value = load_value(_trained(tmp_path, *options, "300"))
    thetas, returns = value.buffer()
    assert value.units == "return"
    assert value(thetas).mean() == pytest.approx(returns.mean(), rel=0.3)


@pytest.mark.slow
def test_v_of_states_predicts_what_is_earned_and_ranks_as_the_diagnosis_does(of_states):
    found = restore(RUNS / "psvf")
    around = found.around()
    key = jax.random.key(0)
    thetas = around.population(key, around.theta, 5)
    predicted = around.predicted(key, thetas, Evaluation(np.zeros(5), np.zeros(5, np.int32)))
    ours = of_states(thetas)
    assert (of_states.kind, of_states.units) == ("V(s, θ)", "discounted return")
    # what all policies have alike is left out there, and it counts in another unit
    slope, offset = np.polyfit(np.asarray(predicted), ours, 1)
    assert slope > 0.0
    np.testing.assert_allclose(slope * np.asarray(predicted) + offset, ours, rtol=1e-2, atol=1e-3)


@pytest.mark.slow
def test_a_linear_advantage_tells_of_any_state(tmp_path):
    options = ("--method", "psvf", "--psvf.advantage", "linear")
    value = load_value(_trained(tmp_path, *options))
    states = 0.1 * np.random.default_rng(0).standard_normal((4, 4))
    thetas = np.stack([value.theta, value.theta + 0.1])
    found = value(thetas, states)
    assert found.shape == (2, 4)
    state = restore(tmp_path / "run").seed()
    # at θ itself V is v
    v = network(state.value["v"], state.scaler(jnp.asarray(states)))[:, 0]
    np.testing.assert_allclose(found[0], state.reward_scale * v, rtol=1e-4)
    assert np.abs(found[1] - found[0]).max() > 0.0


@pytest.fixture(scope="module")
def of_starts(tmp_path_factory):
    """A run of two seeds by V(s₀, θ)."""
    options = ("--value.condition", "policy+state", "--num-seeds", "2", "--seed", "3")
    return _trained(tmp_path_factory.mktemp("starts"), *options)


@pytest.mark.slow
def test_v_of_start_states_is_averaged_over_them_or_tells_of_each(of_starts):
    value, found = load_value(of_starts), restore(of_starts)
    thetas, _ = value.buffer()
    sample = cast(Any, found.setup.search).frame(found.seed()).starts
    known = np.asarray(sample.states)[np.asarray(sample.weight) > 0]
    assert value.kind == "V(s₀, θ)"
    each = value(thetas[:3], known)
    assert each.shape == (3, len(known))
    np.testing.assert_allclose(each.mean(axis=1), value(thetas[:3]), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_of_several_seeds_each_has_its_own_v(of_starts):
    first, second = load_value(of_starts), load_value(of_starts, seed=4)
    assert not np.array_equal(first.theta, second.theta)
    np.testing.assert_array_equal(first.theta, load_value(of_starts, seed=3).theta)
    with pytest.raises(UserError, match="the run has no seed 5; it has 3 to 4"):
        load_value(of_starts, seed=5)


@pytest.mark.slow
def test_bad_input_is_told_in_words(of_policies, of_states, tmp_path):
    size = len(of_policies.theta)
    cases = [
        (lambda: of_policies(np.zeros(size + 1)), rf"must be \[{size}\] or \[N, {size}\]"),
        (lambda: of_policies(np.zeros((1, 1, size))), "thetas have shape"),
        (lambda: of_policies(of_policies.theta, np.zeros((2, 4))), r"V\(θ\) reads no states"),
        (lambda: of_policies(of_policies.theta, np.zeros((2, 3))), r"must be \[M, 4\]"),
        (lambda: of_policies.gradient(np.zeros((2, size))), "of one policy"),
        (of_states.buffer, "keeps no buffer"),
        (lambda: of_states(of_states.theta, np.zeros((2, 34))), "only at steps that were taken"),
        (lambda: load_value(RUNS / "openes"), "has no value function"),
        (lambda: load_value(RUNS / "ppo"), "has no value function"),
        (lambda: load_value(tmp_path), "is no run"),
    ]
    for call, message in cases:
        with pytest.raises(UserError, match=message):
            call()
    copy = tmp_path / "run"
    shutil.copytree(RUNS / "epvf", copy)
    shutil.rmtree(copy / "checkpoints")
    (copy / "checkpoints").mkdir()
    with pytest.raises(UserError, match="has no checkpoint yet"):
        load_value(copy)
    assert json.loads((copy / "config.json").read_text())["method"] == "epvf"
