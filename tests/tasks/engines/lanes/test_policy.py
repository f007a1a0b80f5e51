"""Policies of lanes against the policies of the library."""

import ctypes
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epvf.policies.mlp import Layer, Policy
from epvf.tasks.engines.lanes import driver, objects
from epvf.tasks.engines.lanes import policy as network
from epvf.tasks.engines.lanes.objects import Code


def _act(policy: Policy, thetas: np.ndarray, seen: np.ndarray, width: int):
    """Actions and outputs of as many policies as there are lanes."""
    where = objects.target(width)
    code = Code(objects.compile_text(network.text(policy, where.lanes), where), where)
    size = policy.layer_sizes[-1]
    room = driver.room(
        width,
        1,
        policy.layer_sizes[0],
        policy.num_parameters,
        network.scratch_size(policy),
        size,
        1,
    )
    room.weights[:] = thetas[:, network.packing(policy, where.lanes)].T
    room.observation[:] = seen.T
    arrays = (room.observation, room.weights, room.scratch, room.action, room.outputs)
    function = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_void_p] * 5)(code.address("act"))
    function(*(array.ctypes.data for array in arrays))
    if policy.output == "argmax":
        return room.action[0].copy(), room.outputs.T.copy()
    return room.action.view(np.float32).T.copy(), room.outputs.T.copy()


def _population(policy: Policy, width: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    layers = [
        Layer(
            rng.normal(size=(width, *shape)) * 2.0 / np.sqrt(shape[0]),
            rng.normal(size=(width, shape[1])),
        )
        for shape in policy.shapes
    ]
    seen = rng.normal(size=(width, policy.layer_sizes[0]))
    return policy.ravel(layers).astype(np.float32), seen.astype(np.float32)


POLICIES = [
    Policy((34, 64, 64, 8)),
    Policy((5, 7), output="tanh"),
    Policy((1, 1)),
    Policy((4, 33, 2), "relu", "argmax"),
    Policy((3, 20, 9, 17), "elu", "tanh"),
    Policy((11, 256, 256, 3), "tanh", "clip"),
]


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_actions_and_outputs_are_the_policys(policy: Policy) -> None:
    thetas, seen = _population(policy, 16)

    @jax.jit
    @jax.vmap
    def reference(theta: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        outputs = policy.logits(policy.unravel(theta), x)
        return policy.act(outputs), outputs

    found: Any = reference(thetas, seen)
    expected_actions, expected = np.asarray(found[0]), np.asarray(found[1])
    for width in objects.WIDTHS:
        actions, outputs = _act(policy, thetas[:width], seen[:width], width)
        np.testing.assert_allclose(outputs, expected[:width], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(actions, expected_actions[:width], atol=1e-5)


def test_any_width_makes_the_same_bits() -> None:
    if not objects.target().lanes.fused:
        pytest.skip("this processor cannot fuse products and sums")
    policy = Policy((34, 64, 64, 8))
    thetas, seen = _population(policy, 16)
    whole = _act(policy, thetas, seen, 16)[1]
    for width in (4, 8):
        np.testing.assert_array_equal(
            whole[:width], _act(policy, thetas[:width], seen[:width], width)[1]
        )


def test_the_first_of_equal_outputs_is_taken_and_nan_before_all() -> None:
    policy = Policy((1, 3), output="argmax")
    rows: list[list[float]] = [[1, 1, 0], [0, 2, 2], [-1, -1, -1], [0, np.nan, 5]]
    thetas = np.array([[0, 0, 0, *row] for row in rows], np.float32)
    actions, _ = _act(policy, thetas, np.zeros((4, 1), np.float32), 4)
    assert actions.tolist() == [int(jnp.argmax(jnp.array(row))) for row in rows] == [0, 1, 0, 1]


def test_nan_and_infinity_reach_the_action() -> None:
    policy = Policy((1, 2, 1), output="clip")
    thetas = np.zeros((4, policy.num_parameters), np.float32)
    thetas[1, -1], thetas[2, -1], thetas[3, 0] = np.nan, -np.inf, np.nan
    actions, _ = _act(policy, thetas, np.ones((4, 1), np.float32), 4)
    np.testing.assert_array_equal(actions[:, 0], [0.0, np.nan, -1.0, np.nan])
