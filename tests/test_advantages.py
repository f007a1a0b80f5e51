"""GAE against sums written out, and its two ends."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epvf.advantages import advantages


def _segment(seed: int, ends: float = 0.3):
    rng = np.random.default_rng(seed)
    rewards = rng.normal(size=(3, 7)).astype(np.float32)
    values = rng.normal(size=(3, 8)).astype(np.float32)
    terminated = rng.random((3, 7)) < ends
    truncated = (rng.random((3, 7)) < ends) & ~terminated
    return rewards, values, terminated, truncated


def _advantages(segment, discount, decay):
    rewards, values, terminated, truncated = map(jnp.asarray, segment)
    return advantages(rewards, values, terminated, truncated, discount, decay)


def _written_out(segment, discount, decay):
    rewards, values, terminated, truncated = segment
    expected = np.zeros_like(rewards)
    for i, t in np.ndindex(*rewards.shape):
        factor = 1.0
        for k in range(t, rewards.shape[1]):
            after = values[i, k + 1]
            if terminated[i, k]:
                after = 0.0
            elif truncated[i, k]:
                after = values[i, k]
            expected[i, t] += factor * (rewards[i, k] + discount * after - values[i, k])
            if terminated[i, k] or truncated[i, k]:
                break
            factor *= discount * decay
    return expected


@given(st.integers(0, 1000), st.floats(0.0, 0.999), st.floats(0.0, 1.0))
def test_they_are_the_discounted_sums_of_errors_up_to_the_episode_end(seed, discount, decay):
    segment = _segment(seed)
    found = _advantages(segment, discount, decay)
    np.testing.assert_allclose(found, _written_out(segment, discount, decay), rtol=1e-4, atol=1e-5)


def test_with_all_the_future_it_is_the_return_less_the_value():
    rewards, values, *_ = _segment(1)
    never = np.zeros_like(rewards, bool)
    found = _advantages((rewards, values, never, never), 0.9, 1.0)
    powers = 0.9 ** np.arange(8)
    first = rewards[:, :] @ powers[:7] + powers[7] * values[:, 7] - values[:, 0]
    np.testing.assert_allclose(found[:, 0], first, rtol=1e-5)


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_a_value_that_is_right_leaves_no_advantage(decay):
    # reward 1 a step for ever, of which v knows
    value = 1.0 / (1.0 - 0.9)
    never = jnp.zeros((2, 5), bool)
    found = advantages(jnp.ones((2, 5)), jnp.full((2, 6), value), never, never, 0.9, decay)
    np.testing.assert_allclose(found, 0.0, atol=1e-5)
