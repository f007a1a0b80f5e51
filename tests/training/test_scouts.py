"""Scouts: some policies of a population tell which states they meet."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epvf.errors import UserError
from epvf.methods import epvf
from epvf.policies.mlp import Policy
from epvf.tasks import make
from epvf.tasks.base import explorer_of
from epvf.training import compiled, on_host
from epvf.training.loop import init_state, iterate
from epvf.training.prepare import MOST_SCOUTED, prepare, scout_steps
from epvf.training.steps import visited_by
from probes import FormulaTask, assert_same_run, config_of, recorded, records_of, resumed

STEPS = 30
KERNEL = {
    "perturbation.scale": 0.5,
    "representation.name": "kernel",
    "representation.probing_init": "visited",
    "representation.num_probing_states": 8,
    "representation.num_landmarks": 16,
    "value.hidden_sizes": [],
    "value_update.fit": "ridge",
    "value_update.ridge": 1e-3,
    "policy.output": "argmax",
    "iterations": 3,
}


def _task(backend, **options):
    return make("cartpole", backend, episode_length=STEPS, **options)


@pytest.mark.parametrize("backend", ["jax", "lanes"])
def test_scouts_see_what_their_policies_meet_from_the_start_on(backend):
    task, policy = _task(backend), Policy((4, 2), output="argmax")
    thetas = np.random.default_rng(0).standard_normal((3, policy.num_parameters), np.float32)
    scout = explorer_of(task, policy, STEPS)
    seen = np.asarray(visited_by(scout, jax.random.key(5), thetas)).reshape(3, STEPS, 4)
    assert np.isfinite(seen).all()
    assert np.abs(seen[:, 0]).max() <= 0.05  # where CartPole starts
    assert np.abs(np.diff(seen[:, :3], axis=1)).max(axis=(1, 2)).min() > 0.0


@pytest.mark.parametrize("backend", ["jax", "lanes"])
def test_what_scouts_step_is_counted(backend):
    records = records_of(config_of(**KERNEL), _task(backend))
    population = [64 * record["rollout/episode_length"] for record in records]
    steps = np.diff([0] + [record["steps/env"] for record in records])
    np.testing.assert_allclose(steps, np.array(population) + STEPS, atol=0.1)


@pytest.mark.parametrize("backend", ["jax", "lanes"])
def test_the_iteration_that_scouts_make_the_last_one_measures_the_centre(backend):
    task = make("cartpole", backend, episode_length=5)  # in which no pole falls
    taken = 64 * 5 + 5
    config = config_of(**KERNEL | {"iterations": 99, "env_steps": 2 * taken - 2})
    records = records_of(config.replace({"eval.interval": 99}), task)
    assert [record["steps/env"] for record in records] == [taken, 2 * taken]
    assert np.isfinite(records[-1]["eval/episode_return"])


@pytest.mark.parametrize(("num", "scouts"), [(1, 1), (64, 1), (128, 2), (1024, 16), (4096, 16)])
def test_few_policies_are_scouts(num, scouts):
    config = config_of(**KERNEL | {"num_envs": num})
    assert prepare(config, _task("jax")).search.num_scouts == scouts


@pytest.mark.slow
@pytest.mark.parametrize("store", ["weights", "seeds"])
def test_scouts_are_the_first_policies_of_each_seed_whoever_draws_them(store, monkeypatch):
    noise = {"perturbation.noise": "scaled_uniform", "buffer.store": store, "num_seeds": 2}
    task = _task("lanes", num_threads=2)
    monkeypatch.setattr(epvf, "SCOUTED", 20)
    setup = prepare(config_of(**(KERNEL | noise)), task)
    scouted = _scouts_of(setup, monkeypatch)
    assert len(scouted) == setup.config.iterations and scouted[0].shape[0] == 2 * 3
    first = init_state(setup).learner
    for seed in range(2):
        own = setup.search.population(
            jax.tree.map(lambda x, i=seed: x[i], first), jnp.zeros((), int)
        )
        # without optimisations XLA fuses no product into a sum, as the host does
        np.testing.assert_allclose(scouted[0][3 * seed :][:3], own[jnp.arange(3)], rtol=1e-6)
    monkeypatch.setattr("epvf.policies.host_noise.reproducible", lambda: False)
    np.testing.assert_allclose(_scouts_of(setup, monkeypatch)[0], scouted[0], rtol=1e-6)


def _scouts_of(setup, monkeypatch):
    """The policies that ran as scouts in each iteration of a run."""
    scouted = []

    def noted(scout, key, policies):
        scouted.append(np.array(policies))
        return visited_by(scout, key, policies)

    monkeypatch.setattr(on_host, "visited_by", noted)
    list(iterate(setup))
    return scouted


def test_scouts_of_the_compiled_loop_are_the_first_policies_too(monkeypatch):
    scouted, rolled = [], []
    task = _task("jax")
    evaluator = type(task).evaluator

    def noted(scout, key, policies):
        jax.debug.callback(lambda thetas: scouted.append(np.array(thetas)), policies)
        return visited_by(scout, key, policies)

    def watched(task, policy):
        evaluate = evaluator(task, policy)

        def evaluate_watched(key, thetas):
            jax.debug.callback(lambda thetas: rolled.append(np.array(thetas)), thetas)
            return evaluate(key, thetas)

        return evaluate_watched

    monkeypatch.setattr(compiled, "visited_by", noted)
    monkeypatch.setattr(type(task), "evaluator", watched)
    list(iterate(prepare(config_of(**KERNEL | {"num_envs": 128}), task)))
    jax.effects_barrier()
    populations = [thetas for thetas in rolled if len(thetas) == 128]
    assert len(scouted) == len(populations) == 3
    for some, whole in zip(scouted, populations, strict=True):
        np.testing.assert_array_equal(some, whole[:2])


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "lanes"])
def test_a_resumed_run_with_scouts_is_an_uninterrupted_one(backend, tmp_path):
    config = config_of(
        **KERNEL | {"task.name": "cartpole", "task.backend": backend, "task.episode_length": STEPS}
    )
    recorded(tmp_path / "whole", config.replace({"iterations": 4}))
    recorded(tmp_path / "parts", config.replace({"iterations": 2, "schedule_iterations": 4}))
    resumed(tmp_path / "parts", {"iterations": 4})
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


def test_methods_that_do_not_ask_have_no_scouts():
    assert prepare(config_of(), FormulaTask(lambda thetas: thetas.sum(-1))).scout is None
    config = config_of(**KERNEL | {"representation.probing_init": "normal"})
    assert prepare(config, _task("jax")).scout is None
    assert prepare(config_of(**KERNEL), _task("jax")).scout is not None


def test_a_task_whose_environments_cannot_wait_is_told_so():
    with pytest.raises(UserError, match="probing_init 'visited'"):
        prepare(config_of(**KERNEL | {"policy.output": "clip"}), FormulaTask(lambda t: t.sum(-1)))


def test_long_episodes_are_scouted_in_part():
    spec = _task("jax").spec
    assert scout_steps(spec) == STEPS
    assert scout_steps(dataclasses.replace(spec, episode_length=10**6)) == MOST_SCOUTED
