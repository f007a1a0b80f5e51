"""What all methods share: the best policy, keys of one use, and exact sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from epvf.methods.base import Keys
from epvf.methods.metrics import count_steps, rollout_metrics, total_steps
from epvf.methods.psvf import _mean
from epvf.types import Evaluation
from probes import FormulaTask, config_of, search_of


@pytest.fixture(scope="module")
def search():
    """EPVF for a task of three observations."""
    return search_of(config_of("epvf"), FormulaTask(lambda thetas: thetas.sum(-1)).spec)


def _recorded(search, state, *returns):
    values = jnp.asarray(returns, jnp.float32)
    return search.record_centre(state, Evaluation(values, jnp.ones(len(returns), jnp.int32)))[0]


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_only_a_finite_evaluation_is_ever_the_best(search, bad):
    state = search.init_state(jax.random.key(0))
    assert _recorded(search, state, bad, 1.0).progress.best_return == -np.inf
    state = _recorded(search, state, 2.0, 4.0)
    assert state.progress.best_return == 3.0
    assert _recorded(search, state, bad, 9.0).progress.best_return == 3.0
    # and it blocks none that comes after
    assert _recorded(search, _recorded(search, state, bad, 9.0), 5.0).progress.best_return == 5.0


@pytest.mark.parametrize("method", ["epvf", "psvf", "openes", "matched-openes"])
def test_first_policies_start_as_the_configuration_says(method: str) -> None:
    spec = FormulaTask(lambda thetas: thetas.sum(-1)).spec
    usual, small = (
        search_of(config_of(method, {"policy.init_scale": 0.1, "policy.last_layer_scale": s}), spec)
        for s in (1.0, 0.5)
    )
    centres = [one.centre(one.init_state(jax.random.key(3))) for one in (usual, small)]
    kernels = [usual.policy.unravel(centre)[-1].kernel for centre in centres]
    assert np.abs(kernels[0]).max() > 0.0
    np.testing.assert_allclose(kernels[1], 0.5 * kernels[0], rtol=1e-6)


def test_every_use_of_a_key_has_its_own_in_every_iteration(search):
    state = search.init_state(jax.random.key(3))
    drawn = [
        tuple(np.asarray(jax.random.key_data(key)).tolist())
        for iteration in range(20)
        for key in search.keys(state, iteration)
    ]
    assert len(set(drawn)) == len(drawn) == 20 * len(Keys._fields)


@given(arrays.arrays(np.int32, 50, elements=st.integers(0, 2**31 - 1)))
def test_env_steps_are_summed_exactly(lengths):
    assert total_steps(count_steps(jnp.asarray(lengths))) == lengths.sum(dtype=np.int64)


def test_env_steps_beyond_32_bits_are_counted():
    lengths = np.full(4096, 2**19, np.int32)
    assert total_steps(count_steps(jnp.asarray(lengths))) == 2**31


def test_of_no_finite_return_there_is_nothing_to_tell():
    returns = jnp.asarray([np.nan, np.inf, -np.inf])
    told = rollout_metrics(Evaluation(returns, jnp.ones(3, jnp.int32)), jnp.isfinite(returns))
    names = ("", "_std", "_min", "_max")
    assert all(np.isnan(told[f"rollout/episode_return{name}"]) for name in names)
    assert told["rollout/nonfinite"] == 3


@given(
    arrays.arrays(np.float32, (6, 2), elements=st.floats(-100, 100, width=32)),
    arrays.arrays(np.bool_, 6),
    st.sampled_from([np.nan, np.inf, -np.inf]),
)
def test_a_row_of_no_weight_may_hold_anything(rows, counts, bad):
    weight = counts.astype(np.float32)
    spoilt = np.where(counts[:, None], rows, np.float32(bad))
    expected = _mean(jnp.asarray(rows), jnp.asarray(weight))
    np.testing.assert_array_equal(_mean(jnp.asarray(spoilt), jnp.asarray(weight)), expected)
