"""The policy: ravel/unravel as inverse of each other, and the MLP against numpy by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epvf.errors import UserError
from epvf.policies.mlp import Policy

sizes = st.lists(st.integers(1, 7), min_size=2, max_size=5).map(tuple)


@settings(max_examples=25, deadline=None)
@given(sizes, st.integers(0, 3))
def test_ravel_is_the_inverse_of_unravel(layer_sizes, batch):
    policy = Policy(layer_sizes)
    shape = (batch, policy.num_parameters) if batch else (policy.num_parameters,)
    thetas = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    layers = policy.unravel(thetas)
    assert [layer.kernel.shape[-2:] for layer in layers] == list(policy.shapes)
    np.testing.assert_array_equal(policy.ravel(layers), thetas)


def test_unravel_of_numpy_copies_nothing():
    policy = Policy((4, 3, 2))
    thetas = np.zeros((5, policy.num_parameters), np.float32)
    for layer in policy.unravel(thetas):
        assert np.shares_memory(layer.kernel, thetas)
        assert np.shares_memory(layer.bias, thetas)


def test_parameters_are_kernel_then_bias_layer_by_layer():
    policy = Policy((2, 1, 1))
    first, second = policy.unravel(np.array([1.0, 2.0, 3.0, 4.0, 5.0], np.float32))
    np.testing.assert_array_equal(first.kernel, [[1.0], [2.0]])
    np.testing.assert_array_equal(first.bias, [3.0])
    np.testing.assert_array_equal(second.kernel, [[4.0]])
    np.testing.assert_array_equal(second.bias, [5.0])


@pytest.mark.parametrize("activation", ["tanh", "relu", "elu"])
@pytest.mark.parametrize("output", ["argmax", "clip", "tanh"])
def test_apply_equals_the_mlp_written_out(activation, output):
    policy = Policy((3, 5, 4), activation, output)
    theta = np.asarray(policy.init(jax.random.key(0), "lecun_uniform", 3.0))
    observation = np.array([0.3, -1.0, 2.0], np.float32)
    one, two = policy.unravel(theta)
    hidden = observation @ one.kernel + one.bias
    hidden = {
        "tanh": np.tanh(hidden),
        "relu": np.maximum(hidden, 0.0),
        "elu": np.where(hidden > 0, hidden, np.expm1(np.minimum(hidden, 0.0))),
    }[activation]
    raw = hidden @ two.kernel + two.bias
    expected = {"argmax": raw.argmax(), "clip": np.clip(raw, -1, 1), "tanh": np.tanh(raw)}[output]
    action = policy.apply(policy.unravel(jnp.asarray(theta)), jnp.asarray(observation))
    np.testing.assert_allclose(action, expected, rtol=1e-5, atol=1e-6)


def test_a_linear_policy_is_one_affine_map():
    policy = Policy((3, 2), output="clip")
    layers = policy.unravel(jnp.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.01, 0.02]))
    action = policy.apply(layers, jnp.ones(3))
    np.testing.assert_allclose(action, [0.91, 1.0], rtol=1e-6)


@pytest.mark.parametrize("init", ["lecun_normal", "lecun_uniform"])
def test_initial_weights_have_the_stated_spread(init):
    policy = Policy((100, 50))
    layer = policy.unravel(policy.init(jax.random.key(1), init, 2.0))[0]
    spread = 2.0 / 10.0 * (1.0 if init == "lecun_normal" else 3**-0.5)
    assert np.std(layer.kernel) == pytest.approx(spread, rel=0.05)
    assert (np.asarray(layer.bias) == 0.0).all() == (init == "lecun_normal")


def test_the_last_layer_starts_smaller_and_the_others_as_without() -> None:
    policy, key = Policy((5, 6, 7, 2)), jax.random.key(1)
    usual, small = (policy.unravel(policy.init(key, scale=2.0, last_scale=s)) for s in (1.0, 0.25))
    for one, other, factor in zip(usual, small, (1.0, 1.0, 0.25), strict=True):
        np.testing.assert_array_equal(other.kernel, factor * one.kernel)


def test_a_theta_of_the_wrong_length_is_refused_with_both_numbers():
    with pytest.raises(UserError, match=r"7 parameters.*4-2 has 10"):
        Policy((4, 2)).unravel(np.zeros(7))


@pytest.mark.parametrize("layer_sizes", [(4,), (), (4, 0, 2)])
def test_layer_sizes_must_be_positive_and_at_least_two(layer_sizes):
    with pytest.raises(UserError, match="at least two positive"):
        Policy(layer_sizes)
