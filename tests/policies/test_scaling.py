"""The coordinates of standardised observations: they change what weights mean, not what they do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epvf.policies import scaling as coordinates
from epvf.policies.mlp import Policy
from epvf.policies.scaling import Scaler

SCALER = Scaler(jnp.array([100.0, -3.0, 0.0]), jnp.array([20.0, 0.1, 1.0]))


def _policy(hidden):
    return Policy((3, *hidden, 2))


@pytest.mark.parametrize("hidden", [(), (5,), (4, 6)])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31 - 1))
def test_weights_in_them_do_with_standardised_observations_what_theta_does(hidden, seed):
    policy, (one, two) = _policy(hidden), jax.random.split(jax.random.key(seed))
    theta = policy.init(one, "lecun_uniform")
    standardised = jax.random.normal(two, (3,))
    observation = SCALER.mean + SCALER.deviation * standardised
    weights = coordinates.standardised(policy, SCALER, theta)
    np.testing.assert_allclose(
        policy.logits(policy.unravel(weights), standardised),
        policy.logits(policy.unravel(theta), observation),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("batch", [(), (7,), (2, 3)])
def test_there_and_back_is_the_same_theta_for_any_batch(batch):
    policy = _policy((5,))
    thetas = jax.random.normal(jax.random.key(0), (*batch, policy.num_parameters))
    there = coordinates.standardised(policy, SCALER, thetas)
    assert there.shape == thetas.shape
    np.testing.assert_allclose(coordinates.raw(policy, SCALER, there), thetas, rtol=1e-4, atol=1e-4)
    # only the first layer knows observations
    np.testing.assert_array_equal(there[..., 20:], thetas[..., 20:])


def test_unit_noise_in_them_moves_a_first_layer_alike_along_all_inputs():
    policy = Policy((3, 1))
    noise = jax.random.normal(jax.random.key(0), (20_000, policy.num_parameters))
    layers = policy.unravel(coordinates.raw(policy, SCALER, noise))
    # at the mean only the bias is left; each deviation from it adds as much
    for step, variance in ((jnp.zeros(3), 1.0), *((row, 2.0) for row in jnp.eye(3))):
        observation = SCALER.mean + SCALER.deviation * step
        outputs = jnp.einsum("i,nih->nh", observation, layers[0].kernel) + layers[0].bias
        assert float(outputs.var()) == pytest.approx(variance, rel=0.05)
