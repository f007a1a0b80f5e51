"""What V(s, θ) says of policies by what they would do: its two forms in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epvf.policies.scaling import Scaler
from epvf.value.v_state_theta import ADVANTAGES, StepBatch, init_network, network


def _steps(seed=0, num=50, actions=3):
    keys = jax.random.split(jax.random.key(seed), 4)
    return StepBatch(
        observations=jax.random.normal(keys[0], (num, 2)),
        centre=jnp.zeros((num, actions)),
        offsets=jax.random.normal(keys[1], (num, actions)),
        advantages=jax.random.normal(keys[2], (num,)),
        targets=jnp.zeros(num),
        weight=jnp.ones(num),
        scaler=Scaler(jnp.zeros(2), jnp.ones(2)),
    )


def _parameters(name, actions=3):
    width = ADVANTAGES[name].network_outputs(actions)
    return init_network(jax.random.key(7), (2, 5, width), gain=1.0) if width else []


def test_the_importance_of_a_step_is_the_ratio_of_normal_densities():
    batch, offsets = _steps(), 0.1 * jnp.ones((50, 3))
    density = lambda x: np.exp(-0.5 * (np.asarray(x) ** 2).sum(-1))  # noqa: E731
    ratio = density(batch.offsets - offsets) / density(batch.offsets)
    gain = ADVANTAGES["importance"].gain([], batch, offsets, 1e9)
    np.testing.assert_allclose(gain, ratio * batch.advantages, rtol=1e-4)


def test_no_step_counts_more_than_e_times():
    batch, far = _steps(), 50.0 * jnp.ones((50, 3))
    gain = ADVANTAGES["importance"].gain([], batch, far, 1e9)
    assert (jnp.abs(gain) <= np.e * jnp.abs(batch.advantages) + 1e-5).all()
    total = lambda x: ADVANTAGES["importance"].gain([], batch, x, 0.2).sum()  # noqa: E731
    np.testing.assert_array_equal(jax.grad(total)(far), jnp.zeros_like(far))


def test_importance_gains_nothing_beyond_its_bound_but_loses_without_one():
    batch, offsets = _steps(), 0.8 * jnp.ones((50, 3))
    free = ADVANTAGES["importance"].gain([], batch, offsets, 1e9)
    bound = ADVANTAGES["importance"].gain([], batch, offsets, 0.2)
    assert (bound <= free + 1e-6).all() and (bound < free - 1e-3).any()
    up = np.asarray(batch.advantages) > 0
    assert (bound[up] <= 1.2 * batch.advantages[up] + 1e-5).all()


@pytest.mark.slow
def test_slopes_of_importance_at_the_centre_are_those_of_a_regression():
    # E[A z] is the least-squares slope of A over white offsets z
    batch = _steps(num=20_000)
    slope = jnp.array([0.5, -1.0, 0.2])
    batch = batch._replace(advantages=batch.offsets @ slope)

    def mean(shift):
        shifted = jnp.broadcast_to(shift, batch.offsets.shape)
        return ADVANTAGES["importance"].gain([], batch, shifted, 0.2).mean()

    np.testing.assert_allclose(jax.grad(mean)(jnp.full(3, 1e-6)), slope, atol=0.05)


def test_the_linear_form_is_a_slope_with_a_price_on_distance():
    batch, parameters = _steps(), _parameters("linear")
    offsets = 0.3 * jnp.ones((50, 3))
    predicted = ADVANTAGES["linear"].predict(parameters, batch.inputs, offsets)
    np.testing.assert_allclose(
        predicted, 0.3 * network(parameters, batch.inputs).sum(-1), rtol=1e-4
    )
    gain = ADVANTAGES["linear"].gain(parameters, batch, offsets, 2.0)
    np.testing.assert_allclose(gain, predicted - 3 * 0.09 / 4.0, rtol=1e-4, atol=1e-5)
    best = 2.0 * network(parameters, batch.inputs)  # the prior's variance times the slope
    top = ADVANTAGES["linear"].gain(parameters, batch, best, 2.0)
    for step in (0.9, 1.1):
        assert (top >= ADVANTAGES["linear"].gain(parameters, batch, step * best, 2.0)).all()


@pytest.mark.parametrize("name", ADVANTAGES)
def test_the_centre_itself_is_predicted_to_gain_nothing(name):
    batch, parameters = _steps(), _parameters(name)
    nothing = jnp.zeros_like(batch.offsets)
    predicted = ADVANTAGES[name].predict(parameters, batch.inputs, nothing)
    np.testing.assert_array_equal(predicted, jnp.zeros(50))


def test_observations_are_standardised_and_bounded():
    scaler = Scaler(jnp.array([1.0, 2.0]), jnp.array([0.5, 2.0]))
    seen = scaler(jnp.array([[[1.5, 2.0], [100.0, -100.0]]]))
    np.testing.assert_allclose(seen, [[[1.0, 0.0], [5.0, -5.0]]])
