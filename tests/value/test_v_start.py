"""V(s, θ): what it reads, what J(θ) makes of it, and that it tells luck from skill."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epvf.config.presets import preset
from epvf.errors import UserError
from epvf.policies.mlp import Policy
from epvf.policies.noise import PerturbationConfig
from epvf.tasks import make
from epvf.types import Evaluation
from epvf.value.factory import make_value
from epvf.value.representations import RepresentationConfig
from epvf.value.v_start import MAX_STARTS
from epvf.value.v_theta import ValueConfig
from probes import RandomStartTask, config_of, first_state, records_of, reports_of, search_of

POLICY = Policy((3, 4, 2))
SLOPE = np.array([0.5, -1.0, 2.0, 0.25], np.float32)
START_SLOPE = np.array([300.0, 0.0, -100.0], np.float32)
"""Of starts within ±0.05: what they do to a return is far more than what θ does."""


def _value(representation="raw", **options):
    config = ValueConfig(**({"condition": "policy+state", "hidden_sizes": (8, 8)} | options))
    return make_value(POLICY, config, RepresentationConfig(representation), PerturbationConfig())


def _drawn(num, size, key=0):
    return jax.random.normal(jax.random.key(key), (num, size))


def _thetas(num, key=0):
    return _drawn(num, POLICY.num_parameters, key)


def _config(**delta):
    return config_of(**({"value__condition": "policy+state"} | delta))


def _linear(thetas, starts):
    return thetas @ SLOPE + starts @ START_SLOPE + 3.0


def _learn(config, formula):
    """The learner, its state before and after one iteration, and the population's evaluation."""
    task = RandomStartTask(formula)
    learner, state = search_of(config, task.spec), first_state(config, task)
    thetas = learner.propose(state, jnp.asarray(0))
    evaluation = task.evaluator(learner.policy)(jax.random.key(1), thetas)
    after, _ = learner.learn(state, jnp.asarray(0), thetas, evaluation)
    return learner, state, after, thetas, evaluation


@pytest.mark.slow
@pytest.mark.parametrize("representation", ["raw", "probing+raw", "unf"])
def test_j_and_its_gradient_are_means_over_starts_of_v_and_its_gradient(representation):
    value = _value(representation, activation="tanh")
    params, thetas, starts = value.init(jax.random.key(0)), _thetas(3), _drawn(20, 3, key=1)
    frame = value.frame(thetas, starts, jnp.ones(20, jnp.bool_))

    @jax.jit
    def at(start, t):
        return value(params, t, frame, jnp.broadcast_to(start[None, :], (3, 3)))

    @jax.jit
    def over_starts(t):
        return value.expected(params, t, frame)

    values = jnp.stack([at(start, thetas) for start in starts])
    assert values.std(axis=0).max() > 0.05
    np.testing.assert_allclose(over_starts(thetas), values.mean(axis=0), rtol=1e-4, atol=1e-5)
    slope = jax.jit(jax.grad(lambda t, start: at(start, t).sum()))
    gradients = [slope(thetas, start) for start in starts]
    expected = jax.jit(jax.grad(lambda t: over_starts(t).sum()))(thetas)
    np.testing.assert_allclose(expected, np.mean(np.stack(gradients), axis=0), rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_return_linear_in_start_and_policy_is_recovered():
    config = _config(
        value__hidden_sizes=[],
        value__inputs="standardised",
        value_update__steps=1500,
        value_update__learning_rate=0.03,
        policy_update__steps=1,
        policy_update__optimizer="sgd",
        policy_update__learning_rate=1.0,
    )
    learner, before, after, thetas, evaluation = _learn(config, _linear)
    frame = learner.frame(after._replace(centres=before.centres))
    predicted = learner.value(after.value, thetas, frame, evaluation.starts)
    np.testing.assert_allclose(predicted, evaluation.returns, rtol=1e-2, atol=1e-2)
    of_start = jax.grad(lambda s: learner.value(after.value, thetas, frame, s).sum())
    wanted = np.broadcast_to(START_SLOPE, (64, 3))
    np.testing.assert_allclose(of_start(evaluation.starts), wanted, rtol=0.01, atol=0.5)
    # One SGD step of length 1 is the gradient itself: of J, free of the starts' luck.
    np.testing.assert_allclose(after.centres[0] - before.centres[0], SLOPE, rtol=0.02, atol=5e-3)
    assert float(after.predicted_gain) == pytest.approx(float(SLOPE @ SLOPE), rel=0.03)


@pytest.mark.slow
def test_with_the_population_each_policy_keeps_the_start_that_it_met():
    config = _config(policy_update__gradient_at="population", policy_update__steps=1)
    learner, before, after, thetas, evaluation = _learn(config, _linear)
    before = before._replace(value=after.value, buffer=after.buffer)
    frame = learner.frame(before)

    def one(theta, start):
        return learner.value(before.value, theta[None], frame, start[None])[0]

    gradient = jax.vmap(jax.grad(one))(thetas, evaluation.starts).mean(axis=0)
    step = learner.update_policy(before, thetas, frame, evaluation.starts).centres
    # Adam's step follows the sign of the gradient.
    np.testing.assert_allclose((step - before.centres)[0], 1e-3 * jnp.sign(gradient), rtol=1e-2)


def test_starts_look_standardised_and_rows_not_yet_written_weigh_nothing():
    value, starts = _value(), 0.05 * _drawn(40, 3) + 7.0
    starts = starts.at[:, 2].set(1.0)
    padded = jnp.concatenate([starts, jnp.zeros((60, 3))])
    seen = value.frame(_thetas(1), padded, jnp.arange(100) < 40).starts
    whole = value.frame(_thetas(1), starts, jnp.ones(40, jnp.bool_)).starts
    for a, b in zip(seen[:2], whole[:2], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    looks = (starts - seen.centre[None, :]) / seen.scale[None, :]
    np.testing.assert_allclose(looks[:, :2].std(axis=0), 1.0, rtol=1e-3)
    np.testing.assert_allclose(looks.mean(axis=0)[:2], 0.0, atol=1e-3)
    assert np.isfinite(looks).all() and np.abs(looks[:, 2]).max() <= 1.0
    assert float(seen.weight.sum()) == pytest.approx(1.0)
    assert not seen.weight[40:].any()


def test_j_is_finite_before_any_start_is_known_and_bounded_in_cost():
    value = _value()
    thetas, starts = _thetas(2), value.empty_starts(MAX_STARTS + 50)
    frame = value.frame(thetas, starts, jnp.zeros(len(starts), jnp.bool_))
    assert frame.starts.states.shape == (MAX_STARTS, 3)
    np.testing.assert_array_equal(
        value.expected(value.init(jax.random.key(0)), thetas, frame), [0.0, 0.0]
    )


@pytest.mark.slow
def test_of_several_centres_the_one_with_the_highest_j_leads():
    config = _config(policy__num_centres=4)
    learner, _, after, _, _ = _learn(config, _linear)
    ranked = learner.value.expected(after.value, after.centres, learner.frame(after))
    assert ranked.shape == (4,)
    np.testing.assert_array_equal(learner.centre(after), after.centres[jnp.argmax(ranked)])


@pytest.mark.slow
def test_starts_are_stored_beside_their_policies_for_v_of_both_alone():
    _, _, after, thetas, evaluation = _learn(_config(), _linear)
    np.testing.assert_array_equal(after.buffer.thetas, thetas)
    np.testing.assert_array_equal(after.buffer.starts, evaluation.starts)
    _, _, after, _, _ = _learn(_config(value__condition="policy"), _linear)
    assert after.buffer.starts is None


@pytest.mark.slow
@pytest.mark.parametrize("traceable", [True, False])
def test_v_of_start_and_policy_tells_luck_from_skill(traceable):
    def spearman(condition):
        config = _config(
            value__condition=condition,
            value__inputs="standardised",
            value__hidden_sizes=[],
            target__transform="standardised",
            value_update__steps=100,
            value_update__learning_rate=0.02,
            policy_update__learning_rate=1e-2,
            iterations=8,
        )
        return records_of(config, RandomStartTask(_linear, traceable))[-1]["value/spearman"]

    assert spearman("policy+state") > 0.95
    assert spearman("policy") < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("traceable", [True, False])
def test_a_task_that_does_not_tell_its_starts_is_refused(traceable):
    task = RandomStartTask(_linear, traceable, tells=False)
    with pytest.raises(UserError, match=r"Evaluation.starts to be \[N, 3\], but it is None"):
        reports_of(_config(), task)
    assert reports_of(_config(value__condition="policy"), task)


def test_starts_that_are_no_observations_are_refused():
    with pytest.raises(UserError, match=r"to be \[N, 3\], but it is \[5, 2\]"):
        _value().read_starts(np.zeros((5, 2)))


def test_a_task_with_one_start_and_an_unknown_condition_are_refused():
    rest = (RepresentationConfig(), PerturbationConfig())
    with pytest.raises(UserError, match=r"always starts in the same; use value.condition"):
        make_value(POLICY, ValueConfig(condition="policy+state"), *rest, deterministic_reset=True)
    unknown: Any = "state"
    with pytest.raises(UserError, match=r"valid: policy, policy\+state"):
        make_value(POLICY, ValueConfig(condition=unknown), *rest)


@pytest.mark.slow
def test_evaluations_of_seeds_side_by_side_keep_their_starts():
    task = RandomStartTask(lambda t, s: s @ START_SLOPE, traceable=False)
    *_, last = reports_of(_config(num_seeds=2, iterations=2), task)
    buffer = last.state.learner.buffer
    assert buffer.starts.shape == (2, 64, 3)
    np.testing.assert_allclose(buffer.starts @ START_SLOPE, buffer.returns, rtol=1e-4, atol=1e-4)
    assert (np.asarray(buffer.starts[0]) != np.asarray(buffer.starts[1])).all()


@pytest.mark.slow
def test_v_of_start_and_policy_learns_cartpole():
    delta = {"value.condition": "policy+state", "num_seeds": 3, "iterations": 30}
    config = preset("cartpole").replace(delta)
    *_, last = reports_of(config, make("cartpole"))
    assert min(record["eval/episode_return"] for record in last.records[-3:]) > 400.0


def test_a_v_that_reads_no_starts_does_not_care_whether_they_are_told():
    learner, before, after, thetas, evaluation = _learn(_config(value__condition="policy"), _linear)
    silent = Evaluation(evaluation.returns, evaluation.lengths)
    again, _ = learner.learn(before, jnp.asarray(0), thetas, silent)
    np.testing.assert_array_equal(again.centres, after.centres)
