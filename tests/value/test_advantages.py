"""GAE against sums written out, and its two ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epvf.value.advantages import Steps, advantages, strides


def _segment(seed: int, ends: float = 0.3):
    rng = np.random.default_rng(seed)
    rewards = rng.normal(size=(3, 7)).astype(np.float32)
    values = rng.normal(size=(3, 8)).astype(np.float32)
    terminated = rng.random((3, 7)) < ends
    truncated = (rng.random((3, 7)) < ends) & ~terminated
    return rewards, values, terminated, truncated


def _advantages(segment, discount, decay):
    rewards, values, terminated, truncated = map(jnp.asarray, segment)
    return advantages(Steps(rewards, terminated, truncated), values, discount, decay)


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


@pytest.mark.slow
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
    steps = Steps(jnp.ones((2, 5)), never, never)
    found = advantages(steps, jnp.full((2, 6), value), 0.9, decay)
    np.testing.assert_allclose(found, 0.0, atol=1e-5)


@given(st.integers(0, 1000), st.floats(0.0, 1.0))
def test_a_stride_ends_with_the_first_episode_that_ends_in_it(seed, discount):
    rewards, _, terminated, truncated = (x[:, :6] for x in _segment(seed))
    found = strides(Steps(*map(jnp.asarray, (rewards, terminated, truncated))), 3, discount)
    for i, j in np.ndindex(3, 2):
        total, ends = 0.0, (False, False)
        for k in range(3):
            t = 3 * j + k
            total += discount**k * rewards[i, t]
            ends = (terminated[i, t], truncated[i, t])
            if any(ends):
                break
        assert found.rewards[i, j] == pytest.approx(total, abs=1e-5)
        assert (found.terminated[i, j], found.truncated[i, j]) == ends


def test_strides_of_one_step_are_the_steps():
    rewards, _, terminated, truncated = _segment(3)
    steps = Steps(*map(jnp.asarray, (rewards, terminated, truncated)))
    jax.tree.map(np.testing.assert_array_equal, strides(steps, 1, 0.9), steps)


def test_with_all_the_future_strides_are_worth_what_their_steps_are():
    rewards, values, *_ = _segment(4)
    never = np.zeros((3, 6), bool)
    steps = Steps(*map(jnp.asarray, (rewards[:, :6], never, never)))
    fine = advantages(steps, jnp.asarray(values[:, :7]), 0.9, 1.0)
    coarse = advantages(strides(steps, 2, 0.9), jnp.asarray(values[:, :7:2]), 0.81, 1.0)
    np.testing.assert_allclose(coarse, fine[:, ::2], rtol=1e-4, atol=1e-5)
