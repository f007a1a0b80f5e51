"""Populations: whose rows they are, and that drawing them later changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epvf.policies import population as population_rows
from epvf.policies.noise import PerturbationConfig
from epvf.policies.population import drawn, map_rows, perturb, perturbed, sum_rows

CENTRES = jnp.array([[0.1, -0.05, 0.0, 2.0], [1.0, 0.0, -1.0, 0.5]])


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
    monkeypatch.setattr(population_rows, "ROWS", 5)  # 12 rows in 3 parts of 4
    population = perturbed(PerturbationConfig(), jax.random.key(7), CENTRES, 12)
    weights = jnp.arange(12.0)

    def total(factor, thetas):
        part = lambda rows, weights: (jnp.sin(factor * rows).sum(-1) * weights).sum()  # noqa: E731
        return sum_rows(part, thetas, (weights,))

    lazy, stored = (jax.value_and_grad(total)(2.0, p) for p in (population, drawn(population)))
    np.testing.assert_allclose(lazy, stored, rtol=1e-5)
    rows = map_rows(lambda thetas: thetas[:, :2], population, ())
    np.testing.assert_allclose(rows, drawn(population)[:, :2], rtol=1e-6)
