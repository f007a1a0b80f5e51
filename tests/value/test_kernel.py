"""V(θ) as kernel ridge regression: the kernel, its features, and what V makes of known returns."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from epvf.policies.mlp import Layer, Policy
from epvf.value.kernel import JITTER, gaussian, whitening
from epvf.value.linear_fit import ridge_line
from epvf.value.representations import RepresentationConfig, make_representation

POLICY = Policy((3, 5, 2))
CONFIG = partial(RepresentationConfig, name="kernel", num_probing_states=6, probing_init="visited")
POINTS = arrays(np.float32, (7, 3), elements=st.floats(-2, 2, width=32))


def _thetas(num, seed=0):
    draw = np.random.default_rng(seed)
    return 0.5 * draw.standard_normal((num, POLICY.num_parameters), np.float32)


def _visited(num=40, seed=1):
    return np.random.default_rng(seed).standard_normal((num, 3), np.float32)


def _refreshed(config, thetas, visited):
    representation = make_representation("kernel", POLICY, config)
    params = representation.init(jax.random.key(0))
    return representation, representation.refresh(params, jax.random.key(1), thetas, visited)


def _actions(states, thetas):
    layers = POLICY.unravel(thetas)
    rows = [[Layer(kernel[i], bias[i]) for kernel, bias in layers] for i in range(len(thetas))]
    return np.array([np.tanh([POLICY.logits(row, s) for s in states]).ravel() for row in rows])


@settings(max_examples=25, deadline=None)
@given(POINTS, st.floats(0.3, 3.0))
def test_the_kernel_is_that_of_gauss_of_every_pair(points, scale):
    squares = ((points[:, None, :].astype(float) - points[None, 3:].astype(float)) ** 2).sum(-1)
    expected = np.exp(-squares / (2.0 * scale**2))
    np.testing.assert_allclose(gaussian(points, points[3:], scale), expected, atol=2e-5)


@settings(max_examples=25, deadline=None)
@given(POINTS, st.floats(0.3, 3.0))
def test_products_of_landmarks_features_are_their_kernel(points, scale):
    kernel = np.asarray(gaussian(points, points, scale))
    features = kernel @ np.asarray(whitening(points, scale))
    np.testing.assert_allclose(features @ features.T, kernel, atol=3.0 * JITTER)


def test_a_ridge_regression_on_features_is_kernel_ridge_regression():
    draw = np.random.default_rng(0)
    x, y = draw.standard_normal((40, 3)), draw.standard_normal(40)
    x, y = x.astype(np.float32), (y - y.mean()).astype(np.float32)
    kernel = np.asarray(gaussian(x, x, 1.5), np.float64)
    features = jnp.asarray(kernel, jnp.float32) @ whitening(x, 1.5)
    slope, intercept = ridge_line(features, y, np.ones(40, bool), 0.1)
    # centred, as the regression's features are: its intercept has no penalty
    centring = np.eye(40) - 1 / 40
    weights = np.linalg.solve(centring @ kernel @ centring + 0.1 * 40 * np.eye(40), y)
    expected = centring @ kernel @ centring @ weights
    found = np.asarray(features @ slope + intercept)
    np.testing.assert_allclose(found - found.mean(), expected, atol=5e-3)


def test_features_compare_actions_in_visited_states():
    thetas, visited = _thetas(9), _visited()
    config = CONFIG(num_landmarks=9, length_scale=0.8)
    representation, params = _refreshed(config, thetas, visited)
    states = np.asarray(params["kernel"]["states"])
    assert all((state == visited).all(axis=1).any() for state in states)
    actions = _actions(states, thetas)
    centred = actions - actions.mean(axis=0)
    apart = centred / np.sqrt((centred**2).sum(axis=1).mean())
    features = representation(params, thetas, thetas)
    assert features.shape == (9, representation.size)
    kernel = np.exp(-((apart[:, None] - apart[None]) ** 2).sum(-1) / (2 * 0.8**2))
    np.testing.assert_allclose(features @ features.T, kernel, atol=5e-3)


def test_visited_states_that_are_not_finite_are_left_out():
    visited = _visited(4)
    visited[:2] = np.nan
    _, params = _refreshed(CONFIG(num_landmarks=3), _thetas(3), visited)
    states = np.asarray(params["kernel"]["states"])
    known = np.concatenate([visited[2:], np.zeros((1, 3), np.float32)])
    assert all((state == known).all(axis=1).any() for state in states)


def test_landmarks_that_all_do_the_same_leave_finite_features():
    thetas = np.repeat(_thetas(1), 5, axis=0)
    representation, params = _refreshed(CONFIG(num_landmarks=5), thetas, _visited())
    assert np.isfinite(representation(params, _thetas(3), _thetas(3))).all()


@pytest.mark.parametrize("init", ["uniform", "normal"])
def test_other_probing_states_stay_as_they_were_drawn(init):
    config = CONFIG(num_landmarks=4, probing_init=init)
    representation, params = _refreshed(config, _thetas(4), None)
    assert not representation.reads_visited
    drawn = representation.init(jax.random.key(0))["kernel"]["states"]
    np.testing.assert_array_equal(params["kernel"]["states"], drawn)


def test_probing_can_be_in_visited_states_which_are_not_learned():
    config = RepresentationConfig(num_probing_states=6, probing_init="visited")
    representation = make_representation("probing", POLICY, config)
    assert representation.reads_visited and representation.num_landmarks == 0
    params = representation.init(jax.random.key(0))
    visited = _visited()
    params = representation.refresh(params, jax.random.key(1), _thetas(0), visited)
    assert all((s == visited).all(axis=1).any() for s in np.asarray(params["probing"]["states"]))
    loss = lambda params: representation(params, _thetas(2), _thetas(2)).sum()  # noqa: E731
    gradient = jax.grad(loss)(params)
    np.testing.assert_array_equal(gradient["probing"]["states"], 0.0)
