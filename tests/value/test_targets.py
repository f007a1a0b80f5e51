"""Value targets and rank correlation against numpy and scipy."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from epvf.value.targets import TargetConfig, average_ranks, spearman, transform

values = st.lists(st.sampled_from([0.0, 1.0, 2.5, -3.0, 500.0, 7.0]), min_size=8, max_size=8)
masks = st.lists(st.booleans(), min_size=8, max_size=8)


def _arrays(numbers, mask):
    return jnp.asarray(numbers, jnp.float32), jnp.asarray(mask)


@settings(max_examples=40, deadline=None)
@given(values, masks)
def test_average_ranks_are_scipys_over_the_valid_rows(numbers, mask):
    returns, valid = _arrays(numbers, mask)
    kept = np.asarray(mask)
    expected = stats.rankdata(np.asarray(numbers)[kept]) - 1
    np.testing.assert_allclose(np.asarray(average_ranks(returns, valid))[kept], expected)


@settings(max_examples=40, deadline=None)
@given(values, values, masks)
def test_spearman_is_scipys(a, b, mask):
    kept = np.asarray(mask)
    x, y = np.asarray(a)[kept], np.asarray(b)[kept]
    constant = kept.sum() < 2 or np.ptp(x) == 0 or np.ptp(y) == 0
    expected = 0.0 if constant else stats.spearmanr(x, y).statistic
    measured = spearman(jnp.asarray(a, jnp.float32), *_arrays(b, mask))
    assert float(measured) == pytest.approx(expected, abs=1e-5)


def test_spearman_survives_non_finite_rows_that_are_masked():
    returns = jnp.array([1.0, jnp.nan, 2.0, 3.0])
    predictions = jnp.array([10.0, 0.0, 20.0, 30.0])
    measured = spearman(predictions, returns, jnp.isfinite(returns))
    assert float(measured) == pytest.approx(1.0)


def test_centred_ranks_run_from_minus_half_to_half_and_ignore_monotone_maps():
    valid = jnp.ones(5, bool)
    config = TargetConfig("centred_ranks")
    ranks = transform(config, jnp.array([3.0, -1.0, 100.0, 0.0, 7.0]), valid)
    np.testing.assert_allclose(ranks, [0.0, -0.5, 0.5, -0.25, 0.25], atol=1e-6)
    again = transform(config, jnp.exp(jnp.array([3.0, -1.0, 10.0, 0.0, 7.0])), valid)
    np.testing.assert_allclose(ranks, again)


def test_equal_returns_rank_in_the_middle():
    ranks = transform(TargetConfig("centred_ranks"), jnp.full(6, 500.0), jnp.ones(6, bool))
    np.testing.assert_allclose(ranks, np.zeros(6), atol=1e-6)


def test_standardised_targets_have_mean_zero_and_variance_one_over_the_valid_rows():
    returns, valid = _arrays([1.0, 5.0, 9.0, 1e6], [True, True, True, False])
    targets = np.asarray(transform(TargetConfig("standardised"), returns, valid))
    np.testing.assert_allclose(targets, [-1.2247449, 0.0, 1.2247449, 0.0], rtol=1e-5)


@pytest.mark.parametrize(("name", "divisor"), [("raw", 1.0), ("scaled", 4.0)])
def test_raw_and_scaled_targets(name, divisor):
    returns, valid = _arrays([2.0, 8.0], [True, True])
    targets = transform(TargetConfig(name, scale=4.0), returns, valid)
    np.testing.assert_allclose(targets, np.array([2.0, 8.0]) / divisor)
