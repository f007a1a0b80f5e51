"""The numpy twin of `Policy.apply`."""

import jax
import numpy as np
import pytest

from epvf.policy import Policy
from epvf.tasks.numpy_policy import NumpyPolicies


@pytest.mark.parametrize("output", ["clip", "tanh"])
@pytest.mark.parametrize("activation", ["tanh", "relu", "elu"])
@pytest.mark.parametrize("hidden", [(), (7,), (64, 64), (5, 6, 7)])
def test_equals_the_policy(hidden, activation, output) -> None:
    policy = Policy((34, *hidden, 8), activation, output)
    rng = np.random.default_rng(0)
    thetas = 0.5 * rng.normal(size=(9, policy.num_parameters)).astype(np.float32)
    observations = rng.normal(size=(9, 34)).astype(np.float32)
    expected = jax.vmap(policy.apply)(policy.unravel(thetas), observations)
    policies = NumpyPolicies(policy, 9)
    for row, theta in enumerate(thetas):
        policies.load(row, theta)
    policies.observations[:] = observations
    np.testing.assert_allclose(policies(9), expected, atol=2e-5)
    np.testing.assert_allclose(policies(4), expected[:4], atol=2e-5)
    policies.move(8, 2)
    np.testing.assert_allclose(policies(4)[2], expected[8], atol=2e-5)


def test_bits_do_not_depend_on_row_and_company() -> None:
    policy = Policy((34, 64, 64, 8))
    rng = np.random.default_rng(0)
    thetas = rng.normal(size=(33, policy.num_parameters)).astype(np.float32)
    observations = rng.normal(size=(33, 34)).astype(np.float32)
    together, pair = NumpyPolicies(policy, 33), NumpyPolicies(policy, 2)
    together.observations[:] = observations
    for row, theta in enumerate(thetas):
        together.load(row, theta)
    actions = together(33).copy()
    for row, theta in enumerate(thetas):
        pair.load(1, theta)
        pair.observations[1] = observations[row]
        np.testing.assert_array_equal(pair(2)[1], actions[row])
