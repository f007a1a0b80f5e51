"""The one MLP of value functions, against its formula, and how it is drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epvf.policies.activations import ACTIVATIONS
from epvf.policies.layers import ON_HOST
from epvf.value.networks import init_mlp, mlp, project


def _drawn(sizes, scaling="he", last_gain=1.0):
    keys = jax.random.split(jax.random.key(0), len(sizes) - 1)
    return init_mlp(keys, sizes, scaling, last_gain)


@pytest.mark.parametrize("batch", [(7,), (2, 3)])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_outputs_are_those_of_the_formula(batch, activation):
    params = jax.tree.map(lambda x: x + 0.1, _drawn((4, 5, 2)))
    x = jax.random.normal(jax.random.key(1), (*batch, 4))
    first, last = (jax.tree.map(np.asarray, layer) for layer in params)
    activate = ON_HOST["elu" if activation == "exp_elu" else activation]
    hidden = activate(np.asarray(x) @ first["kernel"] + first["bias"])
    expected = hidden @ last["kernel"] + last["bias"]
    np.testing.assert_allclose(mlp(params, [x], activation), expected, rtol=1e-4, atol=1e-5)


def test_parts_side_by_side_are_one_input():
    params = _drawn((4, 5, 2))
    x = jax.random.normal(jax.random.key(1), (7, 4))
    whole, parts = mlp(params, [x], "tanh"), mlp(params, [x[:, :1], x[:, 1:]], "tanh")
    np.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-6)
    kernel = params[0]["kernel"]
    np.testing.assert_allclose(project([x[:, :3], x[:, 3:]], kernel), x @ kernel, rtol=1e-4)


def test_residuals_are_added_between_layers_of_one_width_alone():
    params = jax.tree.map(jnp.zeros_like, _drawn((3, 3, 5, 5, 1)))
    params[-1]["kernel"] = jnp.ones((5, 1))
    params[1]["bias"] = jnp.full(5, 2.0)
    x = jnp.ones((1, 3))
    # 3 -> 3 keeps x, 3 -> 5 is relu(2), 5 -> 5 keeps that
    np.testing.assert_allclose(mlp(params, [x], "relu", residual=True), [[10.0]])
    np.testing.assert_allclose(mlp(params, [x], "relu"), [[0.0]])


def test_layer_norm_makes_hidden_layers_blind_to_their_inputs_size():
    params = _drawn((3, 8, 1))
    x = jax.random.normal(jax.random.key(1), (5, 3))
    small, large = (mlp(params, [c * x], "relu", layer_norm=True) for c in (1.0, 100.0))
    np.testing.assert_allclose(small, large, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("scaling, variance", [("he", 2.0), ("lecun", 1.0)])
def test_kernels_are_scaled_by_their_fan_in(scaling, variance):
    params = _drawn((400, 100, 300), scaling, last_gain=0.1)
    for layer, fan_in, gain in zip(params, (400, 100), (1.0, 0.1), strict=True):
        deviation = gain * (variance / fan_in) ** 0.5
        np.testing.assert_allclose(layer["kernel"].std(), deviation, rtol=0.05)
        assert not layer["bias"].any()
