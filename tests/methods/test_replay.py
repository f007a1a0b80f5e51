"""The ring buffer against a plain list."""

from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh

from epvf.methods import replay
from epvf.policies.noise import PerturbationConfig
from epvf.policies.population import drawn, perturbed
from epvf.runtime.devices import ROWS, SEEDS


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 6))
def test_the_ring_holds_what_a_list_of_the_newest_holds(size, num, rounds):
    ring = replay.empty(size, 2, jnp.zeros((size, 1)))
    newest: deque = deque(maxlen=size)
    for i in range(rounds):
        labels = np.arange(num, dtype=np.float32) + i * num
        thetas = np.stack([labels, -labels], axis=1)
        rows = (jnp.asarray(x) for x in (thetas, labels, labels[:, None]))
        ring = replay.add(ring, jnp.asarray(i * num), *rows)
        newest.extend(labels.tolist())
    kept = np.asarray(ring.valid)
    assert sorted(np.asarray(ring.returns)[kept].tolist()) == sorted(newest)
    # A return stays with its own θ and start state.
    np.testing.assert_array_equal(ring.starts[:, 0], np.where(kept, ring.returns, 0.0))
    np.testing.assert_array_equal(ring.thetas[:, 0], np.where(kept, ring.returns, 0.0))
    np.testing.assert_array_equal(ring.thetas[:, 1], np.where(kept, -ring.returns, 0.0))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_non_finite_return_is_kept_out(bad):
    ring = replay.add(replay.empty(4, 1), jnp.asarray(0), jnp.ones((2, 1)), jnp.array([bad, 5.0]))
    assert np.asarray(ring.valid).tolist() == [False, True, False, False]
    assert np.isfinite(ring.returns).all()


def test_a_finite_return_takes_the_place_of_a_bad_one():
    ring = replay.add(replay.empty(2, 1), jnp.asarray(0), jnp.ones((2, 1)), jnp.full(2, jnp.nan))
    ring = replay.add(ring, jnp.asarray(2), jnp.ones((2, 1)), jnp.array([1.0, 2.0]))
    assert np.asarray(ring.valid).all()


def test_samples_come_from_the_filled_rows_only_and_reach_all_of_them():
    rows = np.asarray(replay.sample(jax.random.key(0), jnp.asarray(3), 10, 500))
    assert set(rows.tolist()) == {0, 1, 2}
    rows = np.asarray(replay.sample(jax.random.key(0), jnp.asarray(25), 10, 500))
    assert set(rows.tolist()) == set(range(10))


@pytest.mark.slow
def test_a_ring_of_seeds_holds_the_same_pairs_as_one_of_weights():
    config = PerturbationConfig()
    empty = perturbed(config, jax.random.key(0), jnp.zeros((1, 3)), 4)
    seeds, weights = replay.empty_seeds(8, empty), replay.empty(8, 3)
    assert seeds.thetas.shape == weights.thetas.shape
    for i in range(5):
        centre = jnp.full((1, 3), float(i + 1))
        population = perturbed(config, jax.random.key(i), centre, 4)
        returns = jnp.array([1.0, 2.0, jnp.nan, 4.0]) + 10.0 * i
        seeds = replay.add(seeds, jnp.asarray(4 * i), population, returns)
        weights = replay.add(weights, jnp.asarray(4 * i), drawn(population), returns)
        both = [replay.take(ring, jnp.arange(8)) for ring in (seeds, weights)]
        filled = slice(0, 4 * (i + 1))
        np.testing.assert_array_equal(both[0].thetas[filled], both[1].thetas[filled])
        np.testing.assert_array_equal(both[0].returns, both[1].returns)
        np.testing.assert_array_equal(both[0].valid, both[1].valid)


@pytest.mark.parametrize(("size", "num"), [(12, 4), (10, 4), (4, 6), (4, 4)])
def test_a_ring_that_devices_share_holds_what_one_of_one_device_does(size, num):
    config = PerturbationConfig()
    mesh = Mesh(np.array(jax.local_devices()[:1]).reshape(1, 1), (SEEDS, ROWS))
    shared = one = replay.empty(size, 3)
    for i in range(5):
        population = perturbed(config, jax.random.key(i), jnp.full((1, 3), float(i)), num)
        returns, added = jnp.arange(float(num)) + 10.0 * i, jnp.asarray(num * i)
        shared = replay.add_apart(mesh, shared, added, population, returns)
        one = replay.add(one, added, drawn(population), returns)
        np.testing.assert_array_equal(shared.thetas, one.thetas)
        np.testing.assert_array_equal(shared.returns, one.returns)
