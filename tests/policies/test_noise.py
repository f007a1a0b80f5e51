"""Perturbation statistics, and the laws that clipping and jitter keep."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epvf.policies import noise as perturbation
from epvf.policies.noise import (
    PerturbationConfig,
    clip_weights,
    drawn,
    jitter,
    map_rows,
    noise_deviation,
    noise_scale,
    perturb,
    perturbed,
    sum_rows,
)

CENTRES = jnp.array([[0.1, -0.05, 0.0, 2.0], [1.0, 0.0, -1.0, 0.5]])


def test_scaled_uniform_noise_fills_its_interval_and_keeps_signs():
    config = PerturbationConfig(scale=0.3)
    thetas = np.asarray(perturb(config, jax.random.key(0), CENTRES[:1], 20_000))
    centre = np.asarray(CENTRES[0])
    offsets = thetas - centre
    half = 0.3 * np.abs(centre)
    assert (np.abs(offsets) <= half * (1 + 1e-5)).all()
    np.testing.assert_allclose(offsets.min(0), -half, rtol=1e-2, atol=1e-7)
    np.testing.assert_allclose(offsets.max(0), half, rtol=1e-2, atol=1e-7)
    np.testing.assert_allclose(offsets.std(0), half / 3**0.5, rtol=2e-2, atol=1e-7)
    np.testing.assert_array_equal(np.sign(thetas), np.broadcast_to(np.sign(centre), thetas.shape))


def test_zero_weights_get_no_scaled_noise_but_with_a_floor_they_do():
    plain = perturb(PerturbationConfig(), jax.random.key(0), CENTRES[:1], 1000)
    assert (np.asarray(plain)[:, 2] == 0.0).all()
    floored = PerturbationConfig(scale=0.5, floor=0.2)
    thetas = np.asarray(perturb(floored, jax.random.key(0), CENTRES[:1], 20_000))
    offsets = thetas - np.asarray(CENTRES[0])
    assert offsets[:, 2].max() == pytest.approx(0.1, rel=1e-2)
    # 0.1 lies below the floor, 2.0 above it.
    assert offsets[:, 0].max() == pytest.approx(0.1, rel=1e-2)
    assert offsets[:, 3].max() == pytest.approx(1.0, rel=1e-2)


def test_gaussian_noise_is_the_same_for_every_weight():
    config = PerturbationConfig(noise="gaussian", scale=0.7)
    thetas = np.asarray(perturb(config, jax.random.key(1), CENTRES[:1], 40_000))
    np.testing.assert_allclose(thetas.mean(0), CENTRES[0], atol=0.02)
    np.testing.assert_allclose(thetas.std(0), 0.7, rtol=0.02)


@pytest.mark.parametrize("noise", ["scaled_uniform", "gaussian"])
def test_noise_deviation_is_the_standard_deviation(noise):
    config = PerturbationConfig(noise=noise, scale=0.4, floor=0.05)
    thetas = np.asarray(perturb(config, jax.random.key(2), CENTRES[:1], 40_000))
    np.testing.assert_allclose(thetas.std(0), noise_deviation(config, CENTRES[0]), rtol=0.02)


def test_every_centre_gets_its_own_equal_share_in_order():
    config = PerturbationConfig(scale=0.01)
    thetas = np.asarray(perturb(config, jax.random.key(3), CENTRES, 10))
    for rows, centre in zip(thetas.reshape(2, 5, 4), np.asarray(CENTRES), strict=True):
        assert (np.abs(rows - centre) <= 0.0101 * np.abs(centre)).all()
    assert len({tuple(row) for row in thetas}) == 10


def test_antithetic_noise_comes_in_pairs_that_cancel():
    config = PerturbationConfig(antithetic=True)
    thetas = np.asarray(perturb(config, jax.random.key(4), CENTRES, 12)).reshape(2, 2, 3, 4)
    middle = thetas.mean(axis=1)
    np.testing.assert_allclose(
        middle, np.broadcast_to(np.asarray(CENTRES)[:, None], middle.shape), rtol=1e-6
    )


def test_clipping_bounds_the_perturbed_weights_only_when_asked():
    bounded = PerturbationConfig(noise="gaussian", scale=5.0, clip=0.3)
    assert np.abs(perturb(bounded, jax.random.key(5), CENTRES[:1], 100)).max() <= 0.3
    free = PerturbationConfig(noise="gaussian", scale=5.0)
    assert np.abs(perturb(free, jax.random.key(5), CENTRES[:1], 100)).max() > 0.3
    np.testing.assert_array_equal(clip_weights(CENTRES, None), CENTRES)


def test_different_keys_draw_different_noise_and_the_same_key_the_same():
    config = PerturbationConfig()
    one, again, other = (perturb(config, jax.random.key(k), CENTRES, 8) for k in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("noise", ["scaled_uniform", "gaussian"])
@pytest.mark.parametrize("antithetic", [False, True])
def test_rows_drawn_one_by_one_are_those_drawn_together(noise, antithetic):
    config = PerturbationConfig(noise=noise, antithetic=antithetic, clip=1.5)
    population = perturbed(config, jax.random.key(7), CENTRES, 12)
    together = drawn(population)
    assert population.shape == together.shape == (12, 4)
    rows = jnp.array([11, 3, 3, 0])
    np.testing.assert_allclose(population[rows], together[rows], rtol=1e-6)
    again = perturb(config, jax.random.key(7), CENTRES, 12)
    np.testing.assert_array_equal(together, again)


def test_a_sum_over_rows_that_are_not_stored_and_its_gradient_are_those_of_the_array(monkeypatch):
    monkeypatch.setattr(perturbation, "ROWS", 5)  # 12 rows in 3 parts of 4
    population = perturbed(PerturbationConfig(), jax.random.key(7), CENTRES, 12)
    weights = jnp.arange(12.0)

    def total(factor, thetas):
        part = lambda rows, weights: (jnp.sin(factor * rows).sum(-1) * weights).sum()  # noqa: E731
        return sum_rows(part, thetas, (weights,))

    lazy, stored = (jax.value_and_grad(total)(2.0, p) for p in (population, drawn(population)))
    np.testing.assert_allclose(lazy, stored, rtol=1e-5)
    rows = map_rows(lambda thetas: thetas[:, :2], population, ())
    np.testing.assert_allclose(rows, drawn(population)[:, :2], rtol=1e-6)


def test_jitter_is_relative_and_zero_jitter_copies():
    cloud = np.asarray(jitter(jax.random.key(6), CENTRES[0], 1000, 1e-3))
    ratio = cloud[:, [0, 1, 3]] / np.asarray(CENTRES)[0, [0, 1, 3]]
    assert 0.9e-3 < np.abs(ratio - 1).max() <= 1.001e-3
    same = jitter(jax.random.key(6), CENTRES[0], 5, 0.0)
    np.testing.assert_array_equal(same, np.tile(np.asarray(CENTRES[0]), (5, 1)))


def test_noise_scale_of_gaussian_does_not_depend_on_the_weights():
    scale = noise_scale(PerturbationConfig(noise="gaussian", scale=0.2, floor=9.0), CENTRES)
    np.testing.assert_allclose(scale, np.full(CENTRES.shape, 0.2), rtol=1e-6)
