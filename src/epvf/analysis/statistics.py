"""Statistics over seeds: means and interquartile means, with intervals by bootstrap."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats

RESAMPLES = 2000
BATCH = 200
"""Resamples at a time: of many seeds' curves all together would be gigabytes."""

QUARTER = 0.25


def iqm(values: Float[np.ndarray, "*B seeds"]) -> np.ndarray:
    """Interquartile mean over the last axis: without the lowest and the highest quarter, rounded
    down to whole values."""
    return stats.trim_mean(values, QUARTER, axis=-1)


def interval(
    values: Float[np.ndarray, "seeds *T"], statistic: Callable[..., Any] = np.mean
) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval of a statistic over the first axis, by bootstrap over it (percentiles).

    Of a single seed nothing is known about the spread: the interval has no width. Where a seed's
    value is NaN, because it was never measured, it is NaN.

    Args:
        values: of each seed.
        statistic: takes `axis`.
    """
    if len(values) == 1:
        only = np.asarray(statistic(values, axis=0))
        return only, only
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", stats.DegenerateDataWarning
        )  # says that of NaN it makes NaN
        found = stats.bootstrap(
            (values,),
            statistic,
            n_resamples=RESAMPLES,
            batch=BATCH,
            method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval
    return np.asarray(found.low), np.asarray(found.high)


def summary(values: Float[np.ndarray, "seeds"]) -> dict[str, float]:
    """Mean and interquartile mean over seeds as plain numbers, with their intervals."""
    low, high = interval(values)
    iqm_low, iqm_high = interval(values, partial(stats.trim_mean, proportiontocut=QUARTER))
    numbers = {
        "mean": values.mean(), "low": low, "high": high,
        "iqm": iqm(values), "iqm_low": iqm_low, "iqm_high": iqm_high,
    }  # fmt: skip
    return {name: float(number) for name, number in numbers.items()}
