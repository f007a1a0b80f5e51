"""Algorithm 1 on returns with known answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epvf.errors import UserError
from epvf.methods.epvf import Learner, check
from epvf.training.loop import iterate
from epvf.training.prepare import prepare
from epvf.training.state import TrainingDiverged
from epvf.types import Evaluation
from probes import FormulaTask, config_of, first_state, records_of, reports_of, search_of

SLOPE = jnp.array([0.5, -1.0, 2.0, 0.25])
OPTIMUM = jnp.array([0.3, -0.2, 0.1, 0.4])


def _learner(config):
    return search_of(config, FormulaTask(lambda t: t).spec)


def _one_state(config):
    return first_state(config, FormulaTask(lambda t: t))


def _learn(config, state, formula, iteration=0):
    learner = _learner(config)
    thetas = learner.propose(state, jnp.asarray(iteration))
    lengths = jnp.ones(thetas.shape[0], jnp.int32)
    evaluation = Evaluation(formula(thetas), lengths)
    return learner.learn(state, jnp.asarray(iteration), thetas, evaluation), thetas


@pytest.mark.slow
def test_v_of_a_linear_return_recovers_its_gradient():
    config = config_of(
        value__hidden_sizes=[],
        value__inputs="standardised",
        value_update__steps=1000,
        value_update__learning_rate=0.02,
        policy_update__steps=1,
        policy_update__optimizer="sgd",
        policy_update__learning_rate=1.0,
    )
    state = _one_state(config)
    (after, metrics), _ = _learn(config, state, lambda t: t @ SLOPE + 3.0)
    # One SGD step of length 1 is the gradient itself.
    np.testing.assert_allclose(after.centres[0] - state.centres[0], SLOPE, rtol=0.02)
    assert float(after.predicted_gain) == pytest.approx(float(SLOPE @ SLOPE), rel=0.03)
    assert float(metrics["policy/step_norm"]) == pytest.approx(
        float(jnp.linalg.norm(SLOPE)), rel=0.02
    )


def _by_sgd(rate, **delta):
    delta = {"value__hidden_sizes": [], "value__inputs": "standardised"} | delta
    delta = {"iterations": 12, "value_update__learning_rate": rate} | delta
    return config_of(value_update__optimizer="sgd", **delta)


@pytest.mark.slow
def test_a_rate_that_is_too_high_for_sgd_is_shortened_and_another_is_not(monkeypatch):
    task = FormulaTask(lambda t: t @ np.asarray(SLOPE) + 3.0, traceable=False)
    losses = [record["loss/value"] for record in records_of(_by_sgd(50.0), task)]
    assert np.isfinite(losses).all() and max(losses) <= losses[0]
    (slow,) = reports_of(_by_sgd(0.02, iterations=1), task)
    monkeypatch.setattr(Learner, "_shortened", lambda self, gradient, curvature: gradient)
    (plain,) = reports_of(_by_sgd(0.02, iterations=1), task)
    for ours, theirs in zip(
        *map(jax.tree.leaves, (slow.state.learner, plain.state.learner)), strict=True
    ):
        if not jnp.issubdtype(ours.dtype, jax.dtypes.prng_key):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    with pytest.raises(TrainingDiverged):
        reports_of(_by_sgd(1e6), task)


@pytest.mark.parametrize("gradient_at", ["theta", "population"])
@pytest.mark.parametrize("traceable", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_quadratic_return_is_climbed_to_its_optimum(gradient_at, traceable):
    config = config_of(
        iterations=150,
        value__inputs="standardised",
        value__hidden_sizes=[32],
        target__transform="standardised",
        policy_update__steps=2,
        policy_update__learning_rate=2e-2,
        policy_update__final_learning_rate=1e-3,
        policy_update__gradient_at=gradient_at,
    )
    task = FormulaTask(lambda t: -((t - np.asarray(OPTIMUM)[None, :]) ** 2).sum(-1), traceable)
    *_, last = reports_of(config, task)
    np.testing.assert_allclose(last.state.learner.centres[0, 0], OPTIMUM, atol=0.1)
    assert last.records[-1]["eval/episode_return"] > -0.03


KERNEL = {
    "representation__name": "kernel",
    "representation__probing_init": "normal",
    "representation__num_probing_states": 8,
    "representation__num_landmarks": 64,
    "value__hidden_sizes": [],
    "value_update__fit": "ridge",
    "value_update__ridge": 1e-4,
    "policy_update__optimizer": "normalised",
    "policy_update__learning_rate": 0.1,
}


@pytest.mark.parametrize("store", ["weights", pytest.param("seeds", marks=pytest.mark.slow)])
@pytest.mark.parametrize("traceable", [pytest.param(True, marks=pytest.mark.slow), False])
def test_by_actions_of_stored_policies_a_quadratic_return_is_climbed(traceable, store):
    task = FormulaTask(lambda t: 1.0 - ((t - OPTIMUM[None]) ** 2).sum(-1), traceable=traceable)
    config = config_of(
        **KERNEL,
        buffer__store=store,
        iterations=30,
        policy_update__max_change=0.5,
        policy_update__final_learning_rate=0.02,
    )
    records = records_of(config, task)
    assert records[-1]["eval/episode_return"] > 0.98
    assert records[-1]["value/spearman"] > 0.8


@pytest.mark.parametrize("bound", [None, 0.2, 0.01])
def test_what_v_sees_of_theta_changes_no_further_than_allowed(bound):
    config = config_of(**KERNEL, policy_update__max_change=bound, policy_update__steps=30)
    state = _one_state(config)
    (after, _), _ = _learn(config, state, lambda t: t @ SLOPE)
    value = _learner(config).value
    frame = value.frame(state.centres)
    seen = [value.features(after.value, x, frame) for x in (state.centres, after.centres)]
    change = float(jnp.linalg.norm(seen[1] - seen[0]))
    if bound is None:
        assert change > 0.5
    elif bound == 0.01:
        np.testing.assert_array_equal(after.centres, state.centres)  # a single step is longer
    else:
        assert 0.5 * bound < change <= bound + 1e-5


def test_a_kernel_is_not_learned_by_gradient():
    with pytest.raises(UserError, match="'kernel' needs value_update"):
        check(config_of(representation__name="kernel"))


def test_a_normalised_step_follows_the_gradient_in_units_of_the_noise():
    config = config_of(
        policy_update__optimizer="normalised",
        policy_update__learning_rate=0.3,
        policy_update__steps=1,
        perturbation__noise="scaled_uniform",
        value__hidden_sizes=[],
    )
    learner, state = _learner(config), _one_state(config)
    centre = jnp.array([[0.5, -1.0, 0.0, 2.0]])
    state = state._replace(centres=centre)
    slope = state.value["mlp"][0]["kernel"][:, 0]
    thetas = learner.propose(state, jnp.asarray(0))
    after = learner.update_policy(state, thetas, learner.value.frame(centre))
    deviation = 0.1 * np.abs(centre[0]) / 3**0.5
    scaled = deviation * np.asarray(slope)
    expected = 0.3 * 2.0 * deviation * scaled / np.linalg.norm(scaled)
    np.testing.assert_allclose(after.centres[0] - centre[0], expected, rtol=1e-3, atol=1e-6)
    # A weight without noise, of which V can know nothing, stays where it is.
    assert float(after.centres[0, 2]) == 0.0


def test_a_linear_v_that_forgets_everything_climbs_as_evolution_strategies_do():
    # The control of docs/recipe.md: tiny steps, and a decay that removes all of V before each.
    config = config_of(
        value__hidden_sizes=[],
        value__inputs="standardised",
        value__zero_init=True,
        target__transform="centred_ranks",
        value_update__steps=1,
        value_update__optimizer="sgd",
        value_update__learning_rate=1e-4,
        value_update__weight_decay=1e4,
        policy_update__steps=1,
        policy_update__optimizer="sgd",
        policy_update__learning_rate=1e3,
    )
    state = _one_state(config)
    for iteration, formula in enumerate((lambda t: t @ SLOPE, lambda t: -(t**2).sum(-1))):
        (after, _), thetas = _learn(config, state, formula, iteration)
        ranks = np.argsort(np.argsort(formula(thetas))) / (len(thetas) - 1) - 0.5
        expected = ranks @ np.asarray(thetas - state.centres)  # equal noise on all weights
        step = np.asarray(after.centres - state.centres)[0]
        cosine = step @ expected / np.linalg.norm(step) / np.linalg.norm(expected)
        assert cosine > 0.9999
        state = after


def test_averaging_the_gradient_over_the_population_smooths_v():
    config = config_of(policy_update__gradient_at="population", policy_update__steps=1)
    learner, state = _learner(config), _one_state(config)
    thetas = learner.propose(state, jnp.asarray(0))
    frame = learner.value.frame(state.centres)
    gradient = jax.vmap(jax.grad(lambda t: learner.value(state.value, t[None], frame)[0]))(
        thetas
    ).mean(axis=0)
    after = learner.update_policy(state, thetas, frame)
    # Adam's first step follows the sign of the gradient.
    np.testing.assert_allclose(
        after.centres[0] - state.centres[0], 1e-3 * jnp.sign(gradient), rtol=1e-2
    )


def test_a_non_finite_return_is_counted_and_never_trains_v():
    config = config_of()
    state = _one_state(config)
    spoil = lambda t: t @ SLOPE  # noqa: E731
    (_, clean), thetas = _learn(config, state, spoil)
    (after, metrics), _ = _learn(config, state, lambda t: spoil(t).at[7].set(jnp.nan))
    assert int(metrics["rollout/nonfinite"]) == 1 and int(clean["rollout/nonfinite"]) == 0
    assert np.isfinite(metrics["loss/value"]) and bool(after.progress.healthy)
    assert np.asarray(after.buffer.valid).sum() == 63
    np.testing.assert_array_equal(after.progress.nonfinite_theta, thetas[7])
    # What the bad policy's parameters were makes no difference to φ.
    learner = _learner(config)
    returns = spoil(thetas).at[7].set(jnp.inf)
    evaluation = Evaluation(returns, jnp.ones(64, jnp.int32))
    other, _ = learner.learn(state, jnp.asarray(0), thetas.at[7].mul(50.0), evaluation)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        other.value,
        after.value,
    )


def test_a_population_that_is_all_non_finite_leaves_a_healthy_learner():
    config = config_of()
    (after, metrics), _ = _learn(config, _one_state(config), lambda t: t @ SLOPE * jnp.nan)
    assert int(metrics["rollout/nonfinite"]) == 64
    assert bool(after.progress.healthy) and np.isfinite(after.centres).all()


@pytest.mark.slow
@pytest.mark.parametrize("traceable", [True, False])
def test_an_update_that_is_not_finite_stops_the_run_and_is_not_applied(traceable):
    config = config_of(
        value_update__learning_rate=1e38, value_update__optimizer="sgd", iterations=9
    )
    task = FormulaTask(lambda t: 1e30 * t.sum(-1), traceable)
    reports = []
    with pytest.raises(TrainingDiverged, match="was not finite"):
        for report in iterate(prepare(config, task)):
            reports.append(report)
    assert np.isfinite(reports[-1].state.learner.centres).all()
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(reports[-1].state.learner.value))


def test_weights_stay_within_the_clip_and_the_fraction_at_it_is_reported():
    config = config_of(
        policy_update__weight_clip=0.1, policy_update__learning_rate=1.0, policy_update__steps=3
    )
    state = _one_state(config)
    assert np.abs(state.centres).max() <= 0.1
    (after, metrics), _ = _learn(config, state, lambda t: t @ SLOPE)
    assert np.abs(after.centres).max() <= np.float32(0.1)
    assert float(metrics["policy/clipped_fraction"]) == 1.0


def test_weight_decay_pulls_the_policy_to_zero():
    config = config_of(
        policy_update__weight_decay=0.5,
        policy_update__optimizer="sgd",
        policy_update__learning_rate=0.1,
        policy_update__steps=1,
        value__zero_init=True,
        value_update__learning_rate=1e-12,
    )
    state = _one_state(config)
    (after, _), _ = _learn(config, state, lambda t: t @ SLOPE)
    np.testing.assert_allclose(after.centres, 0.95 * state.centres, rtol=1e-4)


def test_the_learning_rate_falls_exponentially_to_its_final_value():
    config = config_of(
        iterations=5,
        policy_update__steps=3,
        policy_update__learning_rate=1e-2,
        policy_update__final_learning_rate=1e-6,
        value__hidden_sizes=[],
        value_update__learning_rate=1e-12,
        value_update__optimizer="sgd",
    )
    # A linear V that does not change gives Adam steps of exactly the learning rate.
    task = FormulaTask(lambda t: t.sum(-1))
    norms = [r["policy/step_norm"] for r in records_of(config, task)]
    rates = 1e-2 * (1e-4) ** (np.arange(15) / 14)
    expected = 2.0 * rates.reshape(5, 3).sum(axis=1)
    np.testing.assert_allclose(norms, expected, rtol=1e-2)


def test_several_centres_are_each_updated_by_their_own_gradient():
    config = config_of(
        policy__num_centres=4,
        policy_update__steps=1,
        policy_update__optimizer="sgd",
        policy_update__learning_rate=1.0,
        value__hidden_sizes=[],
        value__inputs="standardised",
        value_update__steps=1000,
        value_update__learning_rate=0.02,
    )
    state = _one_state(config)
    assert state.centres.shape == (4, 4)
    (after, _), _ = _learn(config, state, lambda t: t @ SLOPE)
    expected = np.broadcast_to(np.asarray(SLOPE), (4, 4))
    np.testing.assert_allclose(after.centres - state.centres, expected, rtol=0.03)
    learner = _learner(config)
    np.testing.assert_array_equal(
        learner.centre(after), after.centres[jnp.argmax(after.centres @ SLOPE)]
    )


def test_the_best_unperturbed_policy_is_remembered_with_its_return():
    config = config_of()
    learner, state = _learner(config), _one_state(config)
    good = Evaluation(jnp.full(4, 7.0), jnp.ones(4, jnp.int32))
    state, metrics = learner.record_centre(state, good)
    first = state.centres[0]
    assert float(state.progress.best_return) == float(metrics["eval/episode_return"]) == 7.0
    state = state._replace(centres=state.centres + 1.0)
    worse = Evaluation(jnp.full(4, 3.0), jnp.ones(4, jnp.int32))
    state, metrics = learner.record_centre(state, worse)
    assert float(metrics["policy/realized_gain"]) == -4.0
    np.testing.assert_array_equal(state.progress.best_theta, first)
    broken = Evaluation(jnp.array([1e9, jnp.nan, 1e9, 1e9]), jnp.ones(4, jnp.int32))
    state, _ = learner.record_centre(state, broken)
    np.testing.assert_array_equal(state.progress.best_theta, first)


def test_spearman_is_measured_before_v_has_seen_the_returns():
    config = config_of(value__hidden_sizes=[], value_update__steps=500)
    state = _one_state(config)
    learner = _learner(config)
    thetas = learner.propose(state, jnp.asarray(0))
    untrained = learner.value(state.value, thetas, learner.value.frame(state.centres))
    (_, metrics), _ = _learn(config, state, lambda t: -untrained)
    assert float(metrics["value/spearman"]) == pytest.approx(-1.0, abs=1e-5)


@pytest.mark.usefixtures("loose")
def test_the_loss_refuses_predictions_of_another_shape():
    learner, state = _learner(config_of()), _one_state(config_of())
    thetas = learner.propose(state, jnp.asarray(0))
    frame = learner.value.frame(state.centres)
    with pytest.raises(ValueError, match="targets are"):
        learner.value_loss(state.value, thetas, jnp.zeros((64, 1)), jnp.ones(64), frame)
