"""Laws of the weight-space layers: what they commute with, what they ignore, and how many exist."""

import math
from functools import cache
from itertools import permutations, product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epvf.value.permutations import PermutationSpec
from epvf.value.unf import EquivariantLinear, InvariantNetwork, mix_channels
from weight_space import mlp_spec, parameters_of, renumbering_of

BELL = (1, 1, 2, 5, 15, 52)
ARCHITECTURES = [(3, 2), (3, 5, 2), (4, 6, 5, 3), (2, 4, 3, 5, 2)]
# A recurrent network: the two axes of its second tensor are renumbered together.
TIED = PermutationSpec(((3, 4), (4, 4), (4,)), ((None, "h"), ("h", "h"), ("h",)))


SPECS = {
    "hidden": mlp_spec(3, 4, 5, 2),
    "linear": mlp_spec(3, 2),
    "all": mlp_spec(3, 4, 5, 2, permutable="all"),
    "tied": TIED,
}


def _draw(spec, batch=2, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((batch, *shape), np.float32) for shape in spec.shapes]


def _layer(spec, out_channels=None):
    sizes = tuple(spec.sizes.items())
    return EquivariantLinear(spec.groups, sizes, spec.channels, out_channels or spec.channels)


def _network(spec):
    return InvariantNetwork(spec.groups, tuple(spec.sizes.items()), spec.channels, 6, 3, 2)


@cache
def _features(spec):
    """Compiled `(params, tensors) -> features`."""
    network = _network(spec)
    return jax.jit(lambda params, tensors: network(params, spec.fold(tensors)))


@cache
def _outputs(spec):
    """A layer with channels of its own for each output, and it compiled."""
    layer = _layer(spec, tuple(range(2, 2 + len(spec.shapes))))
    return layer, jax.jit(lambda params, tensors: layer(params, spec.fold(tensors)))


def _permute_features(spec, features, renumbering):
    free = PermutationSpec(
        tuple(tuple(spec.sizes[g] for g in groups) for groups in spec.groups), spec.groups
    )
    return free.permute(features, renumbering)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_number_of_terms_is_the_number_of_index_partitions(spec):
    expected = sum(
        math.prod(BELL[(a + b).count(group)] for group in spec.sizes)
        for a, b in product(spec.groups, repeat=2)
    )
    assert _layer(spec).num_terms == expected


def test_terms_of_a_two_hidden_layer_policy_counted_by_hand():
    # Pairs of (W1, b1 | W2 | b2, W3 | b3) with hidden neurons permutable: two tensors with axis
    # h1, one with both, two with h2, one with neither. Inside one of the axis pairs 2 terms.
    rows = {"h1": 2, "h1h2": 1, "h2": 2, "": 1}
    terms = {
        (a, b): 2 ** (("h1" in a and "h1" in b) + ("h2" in a and "h2" in b))
        for a in rows
        for b in rows
    }
    expected = sum(rows[a] * rows[b] * n for (a, b), n in terms.items())
    assert _layer(mlp_spec(34, 64, 64, 8)).num_terms == expected == 55


def _fixed_entries(spec, renumbering):
    """Trace of the renumbering as a matrix on all tensors: the entries that stay in place."""
    total = 0
    for shape, axes in zip(spec.shapes, spec.axes, strict=True):
        stays = [
            n if a is None else int((np.asarray(renumbering[a]) == np.arange(n)).sum())
            for a, n in zip(axes, shape, strict=True)
        ]
        total += math.prod(stays)
    return total


def _burnside(spec):
    """Dimension of the linear maps that commute with every renumbering: the mean of trace²."""
    every = product(*(permutations(range(n)) for n in spec.sizes.values()))
    traces = [_fixed_entries(spec, dict(zip(spec.sizes, g, strict=True))) for g in every]
    return sum(t**2 for t in traces) // len(traces)


def _span(spec):
    """Rank of the maps that a layer's weights span, one matrix a weight."""
    layer = _layer(spec)
    params = layer.init(jax.random.key(0))
    bias = params.pop("bias")
    entries = sum(math.prod(shape) for shape in spec.shapes)

    def matrix(weights):
        stops = np.cumsum([math.prod(shape) for shape in spec.shapes])[:-1]
        pieces = jnp.split(jnp.eye(entries), stops, axis=1)
        basis = [p.reshape(-1, *shape) for p, shape in zip(pieces, spec.shapes, strict=True)]
        outputs = layer(weights | {"bias": bias}, spec.fold(basis))
        folded = spec.fold(basis)
        flat = [jnp.broadcast_to(y, x.shape) for y, x in zip(outputs, folded, strict=True)]
        return jnp.concatenate([jnp.moveaxis(y, 1, 0).reshape(entries, -1) for y in flat], axis=1)

    jacobian = jax.jit(jax.jacobian(matrix))(params)
    columns = [j.reshape(entries**2, -1) for j in jax.tree.leaves(jacobian)]
    return np.linalg.matrix_rank(np.concatenate(columns, axis=1), tol=1e-4)


@pytest.mark.parametrize(
    "spec",
    [
        mlp_spec(2, 2, 2, 1),
        mlp_spec(1, 2, 1),
        mlp_spec(2, 2, 2, permutable="all"),
        mlp_spec(2, 1, 2, 1),
    ],
    ids=["deep", "shallow", "all", "one neuron"],
)
def test_a_layer_spans_all_equivariant_maps(spec):
    """Burnside's average knows nothing of partitions, and reverse-mode needs no view."""
    assert _span(spec) == _burnside(spec)


def test_a_layer_spans_all_equivariant_maps_where_axes_are_tied():
    spec = PermutationSpec(((4, 4), (4,)), (("h", "h"), ("h",)))
    assert _span(spec) == _burnside(spec) == _layer(spec).num_terms


def test_groups_smaller_than_their_indices_make_terms_repeat():
    spec = PermutationSpec(((2, 2), (2,)), (("h", "h"), ("h",)))
    assert _span(spec) == _burnside(spec) < _layer(spec).num_terms


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_layers_commute_withrenumbering_of(spec, seed):
    layer, outputs = _outputs(spec)
    params = parameters_of(layer, seed)
    tensors, renumbering = _draw(spec, seed=seed), renumbering_of(spec, seed)
    before = _permute_features(spec, outputs(params, tensors), renumbering)
    after = outputs(params, spec.permute(tensors, renumbering))
    for a, b in zip(after, before, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec",
    [mlp_spec(*sizes) for sizes in ARCHITECTURES] + [SPECS["all"], TIED],
    ids=[*map(str, ARCHITECTURES), "all", "tied"],
)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_networks_do_not_seerenumbering_of(spec, seed):
    tensors, params = _draw(spec, seed=seed), parameters_of(_network(spec), seed)
    features = _features(spec)(params, tensors)
    moved = _features(spec)(params, spec.permute(tensors, renumbering_of(spec, seed)))
    assert features.shape == (2, _network(spec).size)
    np.testing.assert_allclose(moved, features, atol=1e-4, rtol=1e-4)
    assert np.abs(features[0] - features[1]).max() > 1e-2


def test_observations_can_be_told_apart_unless_they_are_permutable():
    for spec, told_apart in ((SPECS["hidden"], True), (SPECS["all"], False)):
        first, *rest = _draw(spec)
        params = parameters_of(_network(spec), 0)
        a, b = (_features(spec)(params, [kernel, *rest]) for kernel in (first, first[:, ::-1]))
        assert (np.abs(a - b).max() > 1e-2) == told_apart


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_outputs_of_drawn_layers_have_about_unit_variance(spec):
    layer = _layer(spec, (64,) * len(spec.shapes))
    outputs = jax.jit(lambda t: layer(layer.init(jax.random.key(0)), spec.fold(t)))
    assert all(0.3 < y.std() < 3 for y in outputs(_draw(spec, batch=64)))


def test_drawn_features_are_standardised():
    spec = mlp_spec(34, 64, 64, 8)
    params = _network(spec).init(jax.random.key(0))
    features = np.asarray(_features(spec)(params, _draw(spec, batch=256)))
    alive = features.std(axis=0) > 0
    assert alive.mean() > 0.9
    assert np.median(np.abs(features.mean(axis=0)[alive])) < 0.2
    assert np.median(np.abs(features.std(axis=0)[alive] - 1)) < 0.2
    assert features.std(axis=0).max() < 5


def test_mixing_channels_has_the_gradient_of_a_tensor_product():
    keys = jax.random.split(jax.random.key(0), 3)
    weights, x = jax.random.normal(keys[0], (2, 3)), jax.random.normal(keys[1], (3, 4, 5))
    probe = jax.random.normal(keys[2], (2, 4, 5))
    ours = jax.grad(lambda w, x: (probe * mix_channels(w, x)).sum(), (0, 1))(weights, x)
    plain = jax.grad(lambda w, x: (probe * jnp.tensordot(w, x, 1)).sum(), (0, 1))(weights, x)
    for a, b in zip(ours, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
