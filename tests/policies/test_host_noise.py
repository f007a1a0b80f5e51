"""The host's threads draw what `jax.random` draws, whatever the population."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epvf.policies import host_noise
from epvf.policies.host_noise import ULPS, draw, draw_rows, room
from epvf.policies.mlp import Policy
from epvf.policies.noise import PerturbationConfig
from epvf.policies.population import Rescaled, perturbed
from epvf.policies.scaling import Scaler

POLICY = Policy((5, 7, 3))
SCALER = Scaler(
    jnp.array([0.5, -3.0, 0.0, 1e-2, 8.0]), jnp.array([0.1, 1.0, 3.0, 1e-3, 2.0], jnp.float32)
)

CONFIGS = st.builds(
    PerturbationConfig,
    noise=st.sampled_from(["scaled_uniform", "gaussian"]),
    scale=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    floor=st.sampled_from([0.0, 0.05, 2.0]),
    clip=st.sampled_from([None, 0.1, 1.5]),
    antithetic=st.booleans(),
)


@pytest.fixture(autouse=True, scope="module")
def optimised():
    """XLA as in training: without optimisations it fuses no products into sums."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def _by_jax(population, rows=None):
    """Drawn by a program of its own, whatever was compiled before."""
    rows = jnp.arange(len(population)) if rows is None else jnp.asarray(rows)
    return np.asarray(jax.jit(lambda population, rows: population[rows])(population, rows))


def _population(config: PerturbationConfig, seed: int, centres: int, each: int, size: int):
    around = jax.random.normal(jax.random.key(seed + 1), (centres, size))
    around = around.at[:, 0].set(0.0)  # has no uniform noise but for the floor
    return perturbed(config, jax.random.key(seed), around, centres * each)


def _assert_same_draws(config: PerturbationConfig, got: np.ndarray, expected: np.ndarray) -> None:
    if config.noise == "scaled_uniform":
        np.testing.assert_array_equal(got, expected)
    else:
        # noise off by some units, and a sum with the centre, whose own unit may be the larger one
        most = float(np.abs(expected).max()) + 6.0 * config.scale
        np.testing.assert_allclose(got, expected, rtol=0.0, atol=ULPS * 2.0**-23 * most)


@pytest.mark.slow
@settings(deadline=None, max_examples=12)
@given(
    config=CONFIGS,
    seed=st.integers(0, 2**31 - 8),
    centres=st.integers(1, 3),
    pairs=st.integers(1, 4),
    size=st.sampled_from([1, 17, 1023, 1025, 2500]),
    threads=st.integers(1, 3),
)
def test_populations_are_those_that_jax_draws(config, seed, centres, pairs, size, threads):
    population = _population(config, seed, centres, 2 * pairs, size)
    _assert_same_draws(config, draw(population, threads), _by_jax(population))


@pytest.mark.slow
@settings(deadline=None, max_examples=6)
@given(config=CONFIGS, rows=st.lists(st.integers(0, 35), min_size=1, max_size=9))
def test_any_rows_of_several_generations_can_be_drawn(config, rows):
    first, second = (_population(config, seed, 3, 6, 40) for seed in (4, 5))
    both = jax.tree.map(lambda *parts: jnp.concatenate(parts), first, second)
    expected = _by_jax(both, rows)
    _assert_same_draws(config, draw_rows(both, np.asarray(rows), 2), expected)


@pytest.mark.slow
@pytest.mark.parametrize("scaler", [None, SCALER])
@settings(deadline=None, max_examples=6)
@given(config=CONFIGS, noise=st.just(0.0) | st.floats(2.0**-20, 4.0, width=32))
def test_resized_noise_in_standardised_coordinates(scaler, config, noise):
    inner = _population(config, 3, 1, 6, POLICY.num_parameters)
    population = Rescaled(inner, jnp.float32(noise), scaler, POLICY)
    got, expected = draw(population, 1), _by_jax(population)
    if scaler is None:
        _assert_same_draws(config, got, expected)
    else:  # sums over the inputs come in another order; kernels of up to 1e4 cancel in them
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_every_normal_there_is_lies_within_the_bound_of_xlas():
    words = np.arange(2**23, dtype=np.uint32) << 9  # of the others the lower bits are not read

    @jax.jit
    def by_xla(words):
        least = np.nextafter(np.float32(-1.0), np.float32(0.0))
        numbers = jax.lax.bitcast_convert_type((words >> 9) | 0x3F800000, jnp.float32) - 1.0
        uniforms = jnp.maximum(least, numbers * (np.float32(1.0) - least) + least)
        return uniforms, np.float32(np.sqrt(2)) * jax.lax.erf_inv(uniforms)

    uniforms, expected = (np.asarray(x) for x in by_xla(words))
    mine, got = host_noise.normals(words)
    np.testing.assert_array_equal(mine, uniforms)
    np.testing.assert_array_max_ulp(got, expected, ULPS)


def test_the_bound_is_of_what_jax_random_normal_gives():
    config = PerturbationConfig(noise="gaussian", scale=1.0)
    population = perturbed(config, jax.random.key(9), jnp.zeros((1, 100_000)), 2)
    key = jax.random.fold_in(jax.random.key(9), 1)
    expected = jax.random.normal(key, (100_000,))
    np.testing.assert_array_max_ulp(draw(population, 1)[1], np.asarray(expected), ULPS)


def test_a_weight_that_is_not_finite_stays_so_and_spoils_no_other():
    centres = jnp.array([[1.0, jnp.nan, jnp.inf, -2.0]])
    population = perturbed(PerturbationConfig(clip=1.5), jax.random.key(0), centres, 4)
    np.testing.assert_array_equal(draw(population, 1), _by_jax(population))


def test_threads_and_parts_change_nothing():
    population = _population(PerturbationConfig(noise="gaussian"), 1, 1, 600, 700)
    np.testing.assert_array_equal(draw(population, 1), draw(population, 3))


def test_a_given_room_is_filled_and_one_that_does_not_fit_is_refused():
    population = _population(PerturbationConfig(), 1, 1, 4, 10)
    out = room((4, 10))
    assert draw(population, 1, out) is out
    assert out.ctypes.data % host_noise.ALIGNMENT == 0
    for wrong in (room((4, 11)), np.empty((4, 10)), room((10, 4)).T):
        with pytest.raises(ValueError, match="4, 10"):
            draw(population, 1, wrong)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("jax_threefry_partitionable", False),
        ("jax_default_prng_impl", "rbg"),
        ("jax_enable_x64", True),
    ],
)
def test_other_generators_are_known_as_such(option, value):
    assert host_noise.reproducible()
    before = getattr(jax.config, option)
    jax.config.update(option, value)
    try:
        assert not host_noise.reproducible()
    finally:
        jax.config.update(option, before)
