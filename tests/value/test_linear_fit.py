"""Closed-form fits of a linear V, against numpy's."""

import jax.numpy as jnp
import numpy as np
import pytest

from epvf.errors import UserError
from epvf.value.linear_fit import es_line, ridge_line
from probes import FormulaTask, config_of, search_of


def _problem(rows, columns, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(1.0, 2.0, (rows, columns)).astype(np.float32)
    y = rng.normal(size=rows).astype(np.float32)
    return x, y, rng.random(rows) < 0.8


def _numpy_ridge(x, y, penalty):
    """Ridge with a free intercept as least squares on rows and columns that were added."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    rows, columns = x.shape
    penalties = np.sqrt(penalty * rows) * np.eye(columns)
    left = np.block([[x, np.ones((rows, 1))], [penalties, np.zeros((columns, 1))]])
    *slope, intercept = np.linalg.lstsq(left, np.append(y, np.zeros(columns)), rcond=None)[0]
    return np.array(slope), intercept


@pytest.mark.parametrize(("rows", "columns"), [(40, 7), (9, 30), (12, 12)])
@pytest.mark.parametrize("penalty", [0.03, 1.0, 30.0])
def test_ridge_is_numpys_least_squares_in_dual_and_primal_form(rows, columns, penalty):
    x, y, valid = _problem(rows, columns)
    slope, intercept = ridge_line(jnp.asarray(x), jnp.asarray(y), jnp.asarray(valid), penalty)
    expected = _numpy_ridge(x[valid], y[valid], penalty)
    np.testing.assert_allclose(slope, expected[0], rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(intercept, expected[1], rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("line", [ridge_line, es_line])
def test_rows_that_are_not_valid_weigh_nothing(line):
    x, y, valid = _problem(20, 6)
    clean = line(x[valid], y[valid], np.ones(valid.sum(), bool), 0.5)
    x[~valid], y[~valid] = np.nan, np.inf
    spoiled = line(jnp.asarray(x), jnp.asarray(y), jnp.asarray(valid), 0.5)
    for a, b in zip(spoiled, clean, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("line", [ridge_line, es_line])
def test_without_a_valid_row_the_line_is_flat(line):
    x, y, _ = _problem(5, 3)
    slope, intercept = line(x, y, np.zeros(5, bool), 1.0)
    assert not slope.any() and float(intercept) == 0.0


def test_a_large_penalty_leaves_the_direction_of_evolution_strategies():
    x, y, _ = _problem(50, 200)
    x, y = x - x.mean(axis=0), y - y.mean()
    everything = np.ones(50, bool)
    ridge, es = ridge_line(x, y, everything, 1e5)[0], es_line(x, y, everything)[0]
    cosine = ridge @ es / jnp.linalg.norm(ridge) / jnp.linalg.norm(es)
    assert float(cosine) > 0.9999


def test_a_line_needs_a_linear_v():
    config = config_of()
    learner = search_of(config, FormulaTask(lambda t: t).spec)
    with pytest.raises(UserError, match="needs a linear V"):
        learner.value.with_line({}, jnp.zeros(4), jnp.zeros(()))
    with pytest.raises(UserError, match=r"value_update.fit 'ridge' needs a linear V"):
        config.replace({"value_update.fit": "ridge"})
