"""Means over seeds and their intervals."""

import numpy as np
import pytest

from epvf.analysis.statistics import interval, iqm, summary


def test_the_interval_of_equal_seeds_has_no_width():
    values = np.repeat(np.arange(4.0)[None, :], 5, axis=0)
    low, high = interval(values)
    np.testing.assert_allclose(low, np.arange(4.0))
    np.testing.assert_allclose(high, np.arange(4.0))


def test_the_interval_is_about_as_wide_as_the_normal_one():
    values = np.random.default_rng(1).normal(3.0, 2.0, (200, 1))
    low, high = interval(values)
    half = 1.96 * values.std() / np.sqrt(200)
    np.testing.assert_allclose([low[0], high[0]], values.mean() + np.array([-half, half]), atol=0.1)


def test_the_interquartile_mean_leaves_out_the_extremes():
    values = np.array([1000.0, 3.0, 1.0, 2.0, -50.0, 4.0, 2.0, 3.0])
    assert iqm(values) == pytest.approx(2.5)
    np.testing.assert_array_equal(iqm(np.array([[3.0, 1.0], [2.0, 2.0]])), [2.0, 2.0])


def test_the_interval_of_a_single_seed_has_no_width():
    low, high = interval(np.array([[1.0, 2.0]]))
    np.testing.assert_array_equal([low, high], [[1.0, 2.0], [1.0, 2.0]])
    assert summary(np.array([3.0])) == dict.fromkeys(
        ("mean", "low", "high", "iqm", "iqm_low", "iqm_high"), 3.0
    )


def test_the_interquartile_mean_has_an_interval_that_extremes_do_not_widen():
    values = np.random.default_rng(0).normal(0.0, 1.0, 40)
    values[0] = 1e6
    numbers = summary(values)
    assert numbers["iqm_low"] < numbers["iqm"] < numbers["iqm_high"] < 10.0
    assert numbers["high"] > 1e4


def test_batches_of_resamples_are_those_of_the_plain_bootstrap():
    values = np.random.default_rng(0).normal(3.0, 2.0, (7, 5))
    rows = np.random.default_rng(0).integers(0, 7, (2000, 7))
    expected = np.percentile(values[rows].mean(axis=1), [2.5, 97.5], axis=0)
    np.testing.assert_allclose(interval(values), expected, rtol=1e-6)


def test_what_a_seed_never_measured_is_nan_and_no_warning():
    assert np.isnan(interval(np.array([1.0, np.nan, 2.0]))).all()
