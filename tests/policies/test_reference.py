"""A policy in numpy acts as the policy in JAX does."""

from typing import get_args

import jax
import numpy as np
import pytest

from epvf.policies.activations import Activation
from epvf.policies.mlp import Output, Policy
from epvf.policies.reference import act


@pytest.mark.parametrize("activation", get_args(Activation))
@pytest.mark.parametrize("output", get_args(Output))
def test_actions_are_those_of_the_policy(activation, output):
    policy = Policy((3, 5, 2), activation, output)
    theta = np.asarray(3.0 * policy.init(jax.random.key(0), "lecun_uniform"))
    layers = policy.unravel(theta)
    for observation in np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32):
        expected = np.asarray(policy.apply(layers, observation))
        np.testing.assert_allclose(act(policy, layers, observation), expected, rtol=1e-4, atol=1e-5)
