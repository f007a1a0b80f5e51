"""The loop on the host: who draws populations changes nothing of a run."""

import jax
import numpy as np
import pytest

from epvf.policies import host_noise
from epvf.policies.mlp import Policy
from epvf.policies.noise import PerturbationConfig
from epvf.policies.population import Recipe, perturbed
from epvf.tasks import make
from epvf.tasks.engines.lanes import LanesTask
from epvf.training import on_host
from probes import FormulaTask, config_of, records_of, untimed

TASK = FormulaTask(lambda thetas: np.sin(5.0 * thetas).sum(-1), traceable=False)
POPULATION = 64
POLICY = Policy((4, 8, 2), output="argmax")


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


@pytest.mark.slow
@pytest.mark.parametrize("block", [12 * 4 * POLICY.num_parameters, 1 << 20])
def test_policies_that_are_drawn_in_blocks_do_as_if_all_were_there(block, monkeypatch) -> None:
    task = make("cartpole", "lanes", episode_length=40, num_threads=2)
    config = PerturbationConfig(noise="gaussian", scale=0.5)
    centre = POLICY.init(jax.random.key(0), "lecun_normal", 1.0)
    seeds = [perturbed(config, jax.random.key(k), centre[None], 10) for k in (1, 2)]
    undrawn = [jax.tree.map(np.asarray, population) for population in seeds]
    recipe = Recipe(tuple(undrawn), np.asarray(centre)[None].repeat(3, axis=0))
    key, evaluate = jax.random.key(3), task.evaluator(POLICY)
    thetas = [host_noise.draw(population, 1) for population in undrawn]
    whole = evaluate(key, np.concatenate([*thetas, recipe.rest]))
    monkeypatch.setattr(on_host, "BLOCK", block)
    parts = on_host.evaluate_in_blocks(evaluate, task, POLICY, key, recipe)
    jax.tree.map(np.testing.assert_array_equal, parts, whole)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["psvf", "epvf"])
def test_policies_that_nobody_reads_are_drawn_by_their_rollouts(method, monkeypatch) -> None:
    task = make("pendulum", "lanes", episode_length=20, num_threads=2)
    delta = {"num_seeds": 2, "iterations": 3, "policy.hidden_sizes": [4]}
    if method == "epvf":
        delta |= {"buffer.store": "seeds", "eval.interval": 2}
    else:
        delta |= {"psvf.hidden_sizes": [8], "psvf.horizon": 8, "psvf.minibatches": 2}
    config = config_of(method, **delta)
    with monkeypatch.context() as here:
        for name in ("draw", "draw_rows", "room"):
            here.delattr(host_noise, name)
        found = untimed(records_of(config, task))
    monkeypatch.setattr(LanesTask, "takes_recipes", False)
    np.testing.assert_equal(found, untimed(records_of(config, task)))
