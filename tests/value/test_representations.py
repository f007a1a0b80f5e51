"""Representations: what each sees of a policy, what it ignores, and that all of it is trained."""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epvf.errors import UserError
from epvf.policies.mlp import Layer, Policy
from epvf.value.networks import project
from epvf.value.permutations import policy_spec
from epvf.value.representations import Probing, RepresentationConfig, Unf, make_representation

POLICY = Policy((3, 5, 4, 2))
NAMES = ("raw", "probing", "probing+raw", "unf", "unf+raw")
SMALL = partial(RepresentationConfig, num_probing_states=6, unf_channels=3, unf_matrix_channels=2)


def _thetas(policy, num, seed=0):
    rng = np.random.default_rng(seed)
    return 0.3 * rng.standard_normal((num, policy.num_parameters), np.float32)


@cache
def _made(name, policy=POLICY, config=None):
    """A representation and `(params, thetas) -> features` compiled, with θ/2 as normalised."""
    representation = make_representation(name, policy, config or SMALL())
    return representation, jax.jit(lambda params, t: representation(params, t, 0.5 * t))


@cache
def _params(name, policy=POLICY, config=None):
    """Parameters like drawn ones; drawing them takes the compiler longer than all the rest."""
    shapes = jax.eval_shape(_made(name, policy, config)[0].init, jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: 0.5 * rng.standard_normal(x.shape, np.float32), shapes)


def _features(name, thetas, policy=POLICY, config=None):
    return _made(name, policy, config)[1](_params(name, policy, config), thetas)


def _renumber(policy, thetas, seed):
    """The same functions with their hidden neurons renumbered."""
    rng, spec = np.random.default_rng(seed), policy_spec(policy)
    flat = [np.asarray(tensor) for layer in policy.unravel(thetas) for tensor in layer]
    moved = spec.permute(flat, {g: rng.permutation(n) for g, n in spec.sizes.items()})
    return policy.ravel([Layer(*pair) for pair in zip(moved[::2], moved[1::2], strict=True)])


def _flip(policy, thetas, seed):
    """The same functions of a tanh policy with the signs of some hidden neurons flipped."""
    rng, layers = np.random.default_rng(seed), policy.unravel(thetas)
    signs = [rng.choice([-1.0, 1.0], n).astype(np.float32) for n in policy.layer_sizes[1:-1]]
    ends = [np.ones(policy.layer_sizes[i], np.float32) for i in (0, -1)]
    ones = [ends[0], *signs, ends[1]]
    return policy.ravel(
        [
            Layer(layer.kernel * a[None, :, None] * b[None, None, :], layer.bias * b[None, :])
            for layer, a, b in zip(layers, ones[:-1], ones[1:], strict=True)
        ]
    )


@pytest.mark.parametrize("name", NAMES)
def test_features_are_one_row_a_policy(name):
    thetas = _thetas(POLICY, 5)
    features = _features(name, thetas)
    assert features.shape == (5, _made(name)[0].size)
    assert np.isfinite(features).all()
    np.testing.assert_allclose(_features(name, thetas[3:]), features[3:], rtol=1e-4, atol=1e-5)
    assert np.abs(features[0] - features[1]).max() > 1e-3


def test_sizes_at_the_ants_default():
    policy = Policy((34, 64, 64, 8))
    sizes = {n: make_representation(n, policy, RepresentationConfig()).size for n in NAMES}
    assert sizes["raw"] == 6920
    assert sizes["probing"] == 200 * 8
    assert sizes["probing+raw"] == sizes["probing"] + sizes["raw"]
    assert sizes["unf"] == 5 * 8 + 4
    assert sizes["unf+raw"] == sizes["unf"] + sizes["raw"]


def test_raw_is_the_normalised_weights():
    thetas = _thetas(POLICY, 2)
    np.testing.assert_array_equal(_features("raw", thetas), 0.5 * thetas)
    np.testing.assert_array_equal(
        _features("unf+raw", thetas)[:, -POLICY.num_parameters :], 0.5 * thetas
    )


@pytest.mark.parametrize("output, squash", [("clip", np.tanh), ("argmax", jax.nn.softmax)])
def test_probing_is_the_actions_at_its_states(output, squash):
    policy = Policy((3, 5, 2), output=output)
    thetas = _thetas(policy, 2)
    states = _params("probing", policy)["probing"]["states"]
    expected = [
        squash(policy.logits([Layer(k[i], b[i]) for k, b in policy.unravel(thetas)], state))
        for i in range(2)
        for state in states
    ]
    np.testing.assert_allclose(
        _features("probing", thetas, policy), np.reshape(expected, (2, -1)), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("init, low", [("uniform", 0.0), ("normal", -np.inf)])
def test_probing_states_start_as_asked(init, low):
    states = Probing(Policy((3, 2)), 400, init).init(jax.random.key(0))["states"]
    assert states.shape == (400, 3)
    assert states.min() >= low
    assert (states.max() <= 1.0) == (init == "uniform")
    np.testing.assert_allclose(states.std(), 12**-0.5 if init == "uniform" else 1.0, rtol=0.1)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_renumbered_neurons_change_the_weights_but_not_what_the_policy_does(activation, seed):
    policy, thetas = Policy((3, 5, 4, 2), activation), _thetas(POLICY, 2, seed)
    moved = _renumber(policy, thetas, seed)
    for name in ("probing", "unf"):
        np.testing.assert_allclose(
            _features(name, moved, policy), _features(name, thetas, policy), rtol=1e-4, atol=2e-5
        )
    assert np.abs(moved - thetas).max() > 0.0 or seed == 0


@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_flipped_neurons_are_the_same_to_probing_and_to_the_sign_symmetric_unf(seed):
    thetas, config = _thetas(POLICY, 2, seed), SMALL(unf_sign_symmetry=True)
    moved = _renumber(POLICY, _flip(POLICY, thetas, seed), seed)
    for name in ("probing", "unf"):
        np.testing.assert_allclose(
            _features(name, moved, config=config),
            _features(name, thetas, config=config),
            rtol=1e-4,
            atol=2e-5,
        )


def test_only_the_sign_symmetric_unf_ignores_signs():
    thetas = _thetas(POLICY, 2)
    flipped = _flip(POLICY, thetas, seed=1)
    assert np.abs(flipped - thetas).max() > 0.1
    assert np.abs(_features("unf", flipped) - _features("unf", thetas)).max() > 1e-2


def test_unf_takes_natural_or_normalised_weights():
    thetas = _thetas(POLICY, 3)
    natural, normalised = SMALL(unf_scale=0.5), SMALL(unf_input="normalised")
    # Here the normalised weights are half the natural ones.
    np.testing.assert_allclose(
        _features("unf", thetas, config=natural),
        _features("unf", thetas, config=normalised),
        rtol=1e-5,
    )
    representation = _made("unf")[0]
    shifted = jax.jit(representation)(_params("unf"), thetas, thetas - thetas[:1])
    np.testing.assert_allclose(shifted, _features("unf", thetas), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num", [2, 5])
def test_chunks_change_neither_features_nor_gradients(num):
    thetas, params = _thetas(POLICY, num), _params("unf")
    results = []
    for chunk in (0, 2):
        representation = make_representation("unf", POLICY, SMALL(unf_chunk=chunk))

        def loss(params, t, representation=representation):
            features = representation(params, t, t)
            return (features**2).sum(), features

        results.append(jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, thetas))
    for whole, chunked in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(chunked, whole, rtol=1e-3, atol=1e-3 * np.abs(whole).max())


@pytest.mark.parametrize("config", [SMALL(), SMALL(unf_sign_symmetry=True)], ids=["", "signs"])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_parameter_and_theta(name, config):
    representation, features = _made(name, POLICY, config)
    thetas, params = _thetas(POLICY, 8), _params(name, POLICY, config)

    def loss(params, thetas):
        probe = np.random.default_rng(0).standard_normal((8, representation.size), np.float32)
        return (probe * features(params, thetas)).sum()

    gradient, to_thetas = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, thetas)
    structures: list[Any] = [jax.tree.structure(tree) for tree in (gradient, params)]
    assert structures[0] == structures[1]
    assert (np.abs(to_thetas).max(axis=1) > 0).all()
    for path, leaf in jax.tree.leaves_with_path(gradient):
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, path
    if "probing" in name:
        assert (np.abs(gradient["probing"]["states"]).max(axis=1) > 0).all()


def test_projecting_parts_is_projecting_them_concatenated():
    representation = make_representation("unf+raw", POLICY, SMALL())
    thetas, params = _thetas(POLICY, 4), _params("unf+raw")
    kernel = np.random.default_rng(0).standard_normal((representation.size, 3), np.float32)
    parts = jax.jit(representation.features)(params, thetas, 0.5 * thetas)
    assert [part.shape[1] for part in parts] == [part.size for _, part in representation.parts]
    expected = _features("unf+raw", thetas) @ kernel
    np.testing.assert_allclose(project(parts, kernel), expected, rtol=1e-4, atol=1e-4)


def test_several_representations_batch_side_by_side():
    representation, features = _made("unf+raw")
    thetas = _thetas(POLICY, 3)
    params = jax.vmap(representation.init)(jax.random.split(jax.random.key(0), 2))
    both = jax.jit(jax.vmap(features, in_axes=(0, None)))(params, thetas)
    alone = features(jax.tree.map(lambda x: x[1], params), thetas)
    np.testing.assert_allclose(both[1], alone, rtol=1e-4, atol=1e-5)


def test_a_linear_policy_has_no_symmetry_and_is_represented_all_the_same():
    policy = Policy((3, 2))
    thetas = _thetas(policy, 2)
    for name in NAMES:
        assert np.isfinite(_features(name, thetas, policy)).all()
    assert jnp.ptp(_features("unf", thetas, policy), axis=0).max() > 1e-3


class OtherLayer(tuple):
    """No layer that the UNF knows."""


class OtherPolicy(Policy):
    def unravel(self, thetas):
        return [OtherLayer(layer) for layer in super().unravel(thetas)]


def test_an_unknown_name_is_an_error_in_words():
    with pytest.raises(UserError, match=r"unknown representation 'unf\+row'.*mean 'unf\+raw'"):
        make_representation("unf+row", POLICY, SMALL())


def test_unf_of_an_unknown_layer_kind_is_an_error_in_words():
    with pytest.raises(UserError, match=r"layer kind for the UNF 'OtherLayer'.*valid: Layer"):
        make_representation("unf+raw", OtherPolicy((3, 4, 2)), SMALL())


def test_probing_states_of_another_task_are_an_error_in_words():
    params = Probing(Policy((4, 2)), 6).init(jax.random.key(0))
    with pytest.raises(UserError, match=r"shape \(6, 4\), but 6 states of a policy with 3 obs"):
        thetas = _thetas(Policy((3, 2)), 1)
        Probing(Policy((3, 2)), 6)(params, thetas, thetas)


@pytest.mark.parametrize("policy", [Policy((3, 4, 2), "relu"), Policy((3, 2))], ids=str)
def test_sign_symmetry_needs_hidden_tanh(policy):
    with pytest.raises(UserError, match="needs a policy with hidden tanh layers, not 3"):
        make_representation("unf", policy, SMALL(unf_sign_symmetry=True))


def test_sign_symmetry_is_of_hidden_neurons_alone():
    with pytest.raises(UserError, match="needs unf_permutable 'hidden'"):
        Unf(POLICY, SMALL(unf_sign_symmetry=True, unf_permutable="all"))


@pytest.mark.parametrize(
    "delta, message",
    [
        ({"num_probing_states": 0}, "num_probing_states is 0; it must be 1 or more"),
        ({"unf_layers": 0}, "unf_layers is 0"),
        ({"unf_scale": 0.0}, "unf_scale is 0.0; it must be positive"),
        ({"unf_chunk": -1}, "unf_chunk is -1; it must be 0 or more"),
        ({"probing_init": "unifrm"}, "unknown probing_init 'unifrm' .*mean 'uniform'"),
        ({"unf_input": "raw"}, "unknown unf_input 'raw'"),
    ],
)
def test_settings_out_of_range_are_an_error_in_words(delta, message):
    with pytest.raises(UserError, match=message):
        RepresentationConfig(**delta)
