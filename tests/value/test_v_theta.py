"""V: shapes, inputs, and options of the network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epvf.policies.mlp import Policy
from epvf.policies.noise import PerturbationConfig, noise_deviation
from epvf.value.factory import make_value
from epvf.value.representations import RepresentationConfig
from epvf.value.v_theta import ValueConfig

POLICY = Policy((3, 4, 2))
PERTURBATION = PerturbationConfig(scale=0.3, floor=0.01)


def _value(**options):
    return make_value(POLICY, ValueConfig(**options), RepresentationConfig(), PERTURBATION)


def _thetas(num, key=0):
    return jax.random.normal(jax.random.key(key), (num, POLICY.num_parameters))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"hidden_sizes": ()},
        {"hidden_sizes": (8, 8, 8), "layer_norm": True, "residual": True},
        {"activation": "tanh", "inputs": "standardised"},
    ],
)
def test_v_is_one_number_a_policy(options):
    value = _value(**options)
    params = value.init(jax.random.key(0))
    thetas = _thetas(5)
    frame = value.frame(thetas[:1])
    predictions = value(params, thetas, frame)
    assert predictions.shape == (5,)
    assert np.isfinite(predictions).all()
    # Each policy's value depends on that policy alone.
    np.testing.assert_allclose(value(params, thetas[2:3], frame), predictions[2:3], rtol=1e-4)


def test_a_linear_v_on_raw_inputs_is_an_affine_map():
    value = _value(hidden_sizes=(), input_scale=0.5)
    params = value.init(jax.random.key(0))
    layer = params["mlp"][0]
    layer["bias"] = jnp.array([3.0])
    thetas = _thetas(4)
    expected = thetas / 0.5 @ layer["kernel"][:, 0] + 3.0
    np.testing.assert_allclose(value(params, thetas, value.frame(thetas[:1])), expected, rtol=1e-4)


def test_standardised_inputs_are_offsets_in_units_of_the_noise():
    value = _value(hidden_sizes=(), inputs="standardised")
    params = value.init(jax.random.key(0))
    centre = _thetas(1).at[0, 0].set(0.0)
    deviation = noise_deviation(PERTURBATION, centre[0])
    thetas = centre + 2.0 * deviation[None, :]
    frame = value.frame(centre)
    np.testing.assert_allclose(value(params, centre, frame), [0.0], atol=1e-6)
    expected = 2.0 * params["mlp"][0]["kernel"].sum()
    np.testing.assert_allclose(value(params, thetas, frame)[0], expected, rtol=1e-3)


def test_a_weight_without_noise_does_not_blow_up_its_input():
    value = make_value(
        POLICY, ValueConfig(inputs="standardised"), RepresentationConfig(), PerturbationConfig()
    )
    centre = jnp.zeros((1, POLICY.num_parameters))
    predictions = value(value.init(jax.random.key(0)), centre + 1e-3, value.frame(centre))
    assert np.isfinite(predictions).all()


def test_zero_init_predicts_nothing_and_has_no_gradient():
    value = _value(zero_init=True)
    params, thetas = value.init(jax.random.key(0)), _thetas(3)
    gradient = jax.grad(lambda t: value(params, t, value.frame(thetas[:1])).sum())(thetas)
    np.testing.assert_array_equal(gradient, np.zeros_like(gradient))


def test_the_frame_is_a_constant_to_gradients():
    value = _value(inputs="standardised", hidden_sizes=())
    params = value.init(jax.random.key(0))

    def through_the_frame(centre):
        return value(params, jnp.zeros_like(centre), value.frame(centre)).sum()

    centre = _thetas(1)
    np.testing.assert_array_equal(jax.grad(through_the_frame)(centre), np.zeros_like(centre))


def test_untrained_v_is_of_unit_order_on_unit_inputs():
    value = _value(hidden_sizes=(256, 256))
    thetas = _thetas(200)
    predictions = value(value.init(jax.random.key(3)), thetas, value.frame(thetas[:1]))
    assert 0.2 < np.std(predictions) < 5.0
