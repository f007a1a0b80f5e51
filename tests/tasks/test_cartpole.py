"""CartPole against Gymnasium's."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epvf.errors import UserError
from epvf.policies.mlp import Policy
from epvf.tasks import cartpole, make

NUM_TRANSITIONS = 100_000


def random_states(num: int) -> np.ndarray:
    """States well within and beyond the limits, exact in float32: `[4, num]`."""
    scale = np.array([[3.0], [4.0], [0.3], [4.0]])
    return np.random.default_rng(0).uniform(-1.0, 1.0, (4, num)).astype(np.float32) * scale


def test_transitions_equal_gymnasium() -> None:
    states = random_states(NUM_TRANSITIONS).astype(np.float32)
    actions = np.random.default_rng(1).integers(0, 2, NUM_TRANSITIONS)
    reference = gymnasium.make_vec(
        "CartPole-v1", NUM_TRANSITIONS, vectorization_mode="vector_entry_point"
    )
    reference.reset(seed=0)
    reference.unwrapped.state = states.astype(np.float64)  # type: ignore[attr-defined]
    expected, expected_reward, expected_terminated, _, _ = reference.step(actions)

    new, reward, terminated = jax.jit(jax.vmap(cartpole.step))(
        cartpole.CartPoleState(*jnp.asarray(states)), jnp.asarray(actions)
    )

    np.testing.assert_allclose(jnp.stack(new, axis=1), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(reward, expected_reward)
    np.testing.assert_array_equal(terminated, expected_terminated)
    assert 0.1 < np.mean(terminated) < 0.9


def test_trajectory_equals_gymnasium() -> None:
    reference = gymnasium.make("CartPole-v1")
    reference.reset(seed=0)
    start = random_states(1)[:, 0].astype(np.float32) * 0.01
    reference.unwrapped.state = start.astype(np.float64)  # type: ignore[attr-defined]
    state, step = cartpole.CartPoleState(*jnp.asarray(start)), jax.jit(cartpole.step)
    for action in np.random.default_rng(2).integers(0, 2, 500):
        expected, expected_reward, expected_terminated, _, _ = reference.step(action)
        state, reward, terminated = step(state, action)
        np.testing.assert_allclose(cartpole.observe(state), expected, rtol=1e-4, atol=1e-5)
        assert reward == expected_reward
        assert terminated == expected_terminated
        if terminated:
            return
    pytest.fail("random actions should have let the pole fall")


def test_reset_is_uniform_like_gymnasiums() -> None:
    states = jax.vmap(cartpole.reset)(jax.random.split(jax.random.key(0), 20_000))
    values = np.stack(states)
    assert np.abs(values).max() <= 0.05
    np.testing.assert_allclose(values.mean(axis=1), 0.0, atol=1e-3)
    np.testing.assert_allclose(values.std(axis=1), 0.1 / np.sqrt(12), rtol=0.02)
    np.testing.assert_allclose(np.corrcoef(values), np.eye(4), atol=0.03)


def test_a_balancing_policy_reaches_500() -> None:
    policy = Policy((4, 2), output="argmax")
    # pushes to where the pole falls; the cart's own motion is damped
    theta = jnp.array([0, 0.1, 0, 0.5, 0, 3.0, 0, 1.0, 0, 0], jnp.float32)
    evaluation = make("cartpole").evaluator(policy)(jax.random.key(0), jnp.tile(theta, (16, 1)))
    np.testing.assert_array_equal(evaluation.returns, 500.0)
    np.testing.assert_array_equal(evaluation.lengths, 500)


def test_each_policy_resets_on_its_own_and_by_the_key() -> None:
    evaluate = make("cartpole").evaluator(Policy((4, 2), output="argmax"))
    thetas = jnp.ones((64, 10))
    first, again, other = (evaluate(jax.random.key(seed), thetas).lengths for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert len(np.unique(first)) > 1
    assert np.any(first != other)


def test_starts_are_the_reset_observations() -> None:
    key = jax.random.key(3)
    evaluate = make("cartpole").evaluator(Policy((4, 2), output="argmax"))
    states = jax.vmap(cartpole.reset)(jax.random.split(key, 16))
    # of a policy that is not finite too
    thetas = jnp.ones((16, 10)).at[5].set(jnp.nan)
    np.testing.assert_array_equal(evaluate(key, thetas).starts, jnp.stack(states, axis=1))


def test_cannot_be_replayed_from_random_states() -> None:
    with pytest.raises(UserError, match="'cartpole' cannot be replayed"):
        make("cartpole").replay(np.zeros((3, 2, 2)))
