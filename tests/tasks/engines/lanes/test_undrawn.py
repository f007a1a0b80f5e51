"""Populations that never exist: lanes draw a policy when they take it up."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epvf.policies import host_noise
from epvf.policies.mlp import Policy
from epvf.policies.noise import PerturbationConfig
from epvf.policies.population import Recipe, Rescaled, Undrawn, perturbed
from epvf.policies.scaling import Scaler
from epvf.tasks import cartpole
from epvf.tasks.engines import lanes
from epvf.tasks.engines.lanes import LanesTask

POLICY = Policy((4, 16, 2), output="argmax")
KEY = jax.random.key(4)
CENTRE = POLICY.init(jax.random.key(0), "lecun_uniform", 1.0)
SCALER = Scaler(jnp.array([0.1, -0.2, 0.0, 0.5]), jnp.array([0.5, 1.5, 1.0, 3.0]))
CONFIGS = {
    "uniform": PerturbationConfig(scale=0.7),
    "floor": PerturbationConfig(scale=0.7, floor=0.2),
    "gaussian": PerturbationConfig(noise="gaussian", scale=0.5),
    "clipped pairs": PerturbationConfig(noise="gaussian", scale=0.5, clip=0.4, antithetic=True),
}


def _task(threads: int = 1) -> LanesTask:
    task = cartpole.make(60)
    return lanes.make(task.environment, task.spec, threads)


def _population(name: str, change: str, seed: int, num: int = 40) -> Undrawn:
    inner = perturbed(CONFIGS[name], jax.random.key(seed), CENTRE[None], num)
    scaler = SCALER if change == "standardised" else None
    size = jnp.float32(0.5 + seed)
    population = inner if change == "as it is" else Rescaled(inner, size, scaler, POLICY)
    return jax.tree.map(np.asarray, population)


def _same(ours: object, theirs: object) -> None:
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("change", ["as it is", "resized", "standardised"])
@pytest.mark.parametrize("name", list(CONFIGS))
def test_every_kind_of_noise_makes_the_bits_of_policies_drawn_first(name: str, change: str) -> None:
    recipe = Recipe(
        tuple(_population(name, change, seed) for seed in (1, 2)), np.asarray(CENTRE)[None] * 3.0
    )
    thetas = np.concatenate([*(host_noise.draw(each, 1) for each in recipe.seeds), recipe.rest])
    ours, theirs = (_task(2).evaluator(POLICY)(KEY, given) for given in (recipe, thetas))
    _same(ours, theirs)
    assert len(np.unique(ours.lengths)) > 5
    explore = _task(2).explorer(POLICY, 30)
    envs = explore.reset(KEY, len(thetas))
    segments = [explore(KEY, given, envs) for given in (recipe, thetas)]
    _same(*segments)
    assert segments[0].terminated.any()


def test_a_population_of_one_seed_needs_no_recipe() -> None:
    population = _population("gaussian", "as it is", 1)
    ours, theirs = (
        _task().evaluator(POLICY)(KEY, given)
        for given in (population, host_noise.draw(population, 1))
    )
    _same(ours, theirs)


def test_several_centres_have_their_own_policies() -> None:
    centres = jnp.stack([CENTRE, -CENTRE, 2.0 * CENTRE])
    population = perturbed(CONFIGS["floor"], jax.random.key(1), centres, 30)
    ours, theirs = (
        _task().evaluator(POLICY)(KEY, given)
        for given in (population, host_noise.draw(population, 1))
    )
    _same(ours, theirs)


def test_a_centre_that_is_not_finite_is_not_run() -> None:
    centre = CENTRE.at[3].set(jnp.nan)
    sick = perturbed(CONFIGS["gaussian"], jax.random.key(2), centre[None], 20)
    recipe = Recipe((_population("gaussian", "as it is", 1), sick), np.asarray(CENTRE)[None])
    evaluation = _task().evaluator(POLICY)(KEY, recipe)
    assert np.isnan(evaluation.returns[40:60]).all() and not evaluation.lengths[40:60].any()
    assert np.isfinite(evaluation.returns[:40]).all() and np.isfinite(evaluation.returns[60])


def test_no_room_is_taken_for_the_policies() -> None:
    num = 65_536
    recipe = Recipe((_population("uniform", "as it is", 1, num),), np.zeros((0, len(CENTRE))))
    whole = 4 * num * len(CENTRE)
    task = _task()
    task.warm_up(POLICY, 1)
    evaluate, explore = task.evaluator(POLICY), task.explorer(POLICY, 1)
    envs = jax.tree.map(np.asarray, explore.reset(KEY, num))
    for run in (lambda: evaluate(KEY, recipe), lambda: explore(KEY, recipe, envs)):
        tracemalloc.start()
        run()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < whole / 3
