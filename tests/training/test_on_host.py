"""The loop on the host: who draws populations changes nothing of a run."""

import jax
import numpy as np
import pytest

from epvf.policies import host_noise
from probes import FormulaTask, config_of, records_of, untimed

TASK = FormulaTask(lambda thetas: np.sin(5.0 * thetas).sum(-1), traceable=False)
POPULATION = 64


@pytest.fixture(autouse=True, scope="module")
def optimised():
    """XLA as in training: without optimisations it fuses no products into sums."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.mark.slow
@pytest.mark.parametrize("store", ["weights", "seeds"])
def test_runs_on_uniform_noise_are_the_same_to_the_bit_whoever_draws_it(store, monkeypatch):
    config = config_of(
        **{
            "perturbation.noise": "scaled_uniform",
            "buffer.store": store,
            # the whole buffer is the newest population: nothing of an older one may be left in it
            "buffer.size": POPULATION,
            "value_update.batch_size": POPULATION,
            "num_envs": POPULATION,
            "num_seeds": 2,
            "iterations": 4,
        }
    )
    drawn, draw = [], host_noise.draw

    def counted(*given):
        drawn.append(given)
        return draw(*given)

    monkeypatch.setattr(host_noise, "draw", counted)
    on_threads = untimed(records_of(config, TASK))
    assert len(drawn) >= 2 * 4
    monkeypatch.setattr(host_noise, "reproducible", lambda: False)
    drawn.clear()
    np.testing.assert_equal(untimed(records_of(config, TASK)), on_threads)
    assert not drawn
