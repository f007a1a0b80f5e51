"""Perturbation statistics, and the laws that clipping and jitter keep."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epvf.policies.noise import (
    PerturbationConfig,
    clip_weights,
    jitter,
    noise_deviation,
    noise_scale,
)
from epvf.policies.population import perturb

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


def test_clipping_bounds_the_perturbed_weights_only_when_asked():
    bounded = PerturbationConfig(noise="gaussian", scale=5.0, clip=0.3)
    assert np.abs(perturb(bounded, jax.random.key(5), CENTRES[:1], 100)).max() <= 0.3
    free = PerturbationConfig(noise="gaussian", scale=5.0)
    assert np.abs(perturb(free, jax.random.key(5), CENTRES[:1], 100)).max() > 0.3
    np.testing.assert_array_equal(clip_weights(CENTRES, None), CENTRES)


def test_jitter_is_relative_and_zero_jitter_copies():
    cloud = np.asarray(jitter(jax.random.key(6), CENTRES[0], 1000, 1e-3))
    ratio = cloud[:, [0, 1, 3]] / np.asarray(CENTRES)[0, [0, 1, 3]]
    assert 0.9e-3 < np.abs(ratio - 1).max() <= 1.001e-3
    same = jitter(jax.random.key(6), CENTRES[0], 5, 0.0)
    np.testing.assert_array_equal(same, np.tile(np.asarray(CENTRES[0]), (5, 1)))


def test_noise_scale_of_gaussian_does_not_depend_on_the_weights():
    scale = noise_scale(PerturbationConfig(noise="gaussian", scale=0.2, floor=9.0), CENTRES)
    np.testing.assert_allclose(scale, np.full(CENTRES.shape, 0.2), rtol=1e-6)
