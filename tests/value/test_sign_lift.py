"""Features that see neither a neuron's sign nor its number."""

from functools import cache

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epvf.policies.mlp import Layer, Policy
from epvf.value.sign_lift import SignInvariantLift
from epvf.value.unf import InvariantNetwork
from weight_space import mlp_spec, parameters_of, renumbering_of

ARCHITECTURES = [(3, 5, 2), (4, 6, 5, 3), (2, 4, 3, 5, 2)]


def _flip(layers, signs):
    """Flips neurons: incoming weights, bias and outgoing weights by `signs[l]` `[H_l]`."""
    ends = layers[0].kernel.shape[1], layers[-1].bias.shape[-1]
    ones = [np.ones(ends[0], np.float32), *signs, np.ones(ends[1], np.float32)]
    return [
        Layer(layer.kernel * a[None, :, None] * b[None, None, :], layer.bias * b[None, :])
        for layer, a, b in zip(layers, ones[:-1], ones[1:], strict=True)
    ]


def _layers(layer_sizes, seed):
    policy, rng = Policy(layer_sizes), np.random.default_rng(seed)
    return policy.unravel(rng.standard_normal((2, policy.num_parameters), np.float32))


def _signs(layer_sizes, seed):
    rng = np.random.default_rng(seed)
    return [rng.choice([-1.0, 1.0], n).astype(np.float32) for n in layer_sizes[1:-1]]


@pytest.mark.parametrize("layer_sizes", ARCHITECTURES, ids=str)
def test_odd_features_flip_with_their_neuron(layer_sizes):
    lift = SignInvariantLift(layer_sizes, channels=4)
    layers, signs = _layers(layer_sizes, 0), _signs(layer_sizes, 0)
    for odd, flipped, sign in zip(
        lift.odd(layers), lift.odd(_flip(layers, signs)), signs, strict=True
    ):
        np.testing.assert_array_equal(flipped, odd * sign[None, None, :])


@cache
def _lifted(layer_sizes):
    """A lift, a network behind it, and both compiled: `(params, layers) -> features`."""
    lift = SignInvariantLift(layer_sizes, channels=4)
    network = InvariantNetwork(lift.groups, lift.sizes, lift.out_channels, 6, 3, 2)
    features = jax.jit(lambda params, layers: network(params[1], lift(params[0], layers)))
    return lift, network, features


@pytest.mark.parametrize("layer_sizes", ARCHITECTURES, ids=str)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_lifted_networks_see_neither_signs_norrenumbering_of(layer_sizes, seed):
    lift, network, features = _lifted(layer_sizes)
    params, spec = (parameters_of(lift, seed), parameters_of(network, seed)), mlp_spec(*layer_sizes)
    layers, signs = _layers(layer_sizes, seed), _signs(layer_sizes, seed)
    flat = [tensor for layer in _flip(layers, signs) for tensor in layer]
    moved = spec.permute(flat, renumbering_of(spec, seed))
    same = [Layer(*pair) for pair in zip(moved[::2], moved[1::2], strict=True)]
    expected = features(params, layers)
    np.testing.assert_allclose(features(params, same), expected, atol=1e-4, rtol=1e-4)
    assert np.abs(expected[0] - expected[1]).max() > 1e-2
    # A flip of incoming weights alone is another policy and has to be seen.
    half = [layers[0]._replace(kernel=-layers[0].kernel), *layers[1:]]
    assert np.abs(features(params, half) - expected).max() > 1e-3
