"""Search by V(s, θ): it solves what has a known answer, masks failures, adapts, goes on exactly."""

import dataclasses
import json
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epvf.analysis.diagnosis import Probe, Settings
from epvf.analysis.neighbourhood import neighbourhood
from epvf.cli.main import main
from epvf.config.presets import default_method, preset
from epvf.config.schema import readers
from epvf.tasks import make
from epvf.tasks.base import TaskSpec
from epvf.tasks.engines.environment import Environment
from epvf.tasks.engines.rollout import JaxTask
from epvf.training.prepare import prepare
from epvf.types import Explore, Segment
from epvf.value.targets import spearman
from probes import (
    assert_same_run,
    config_of,
    first_state,
    recorded,
    records_of,
    reports_of,
    resumed,
    search_of,
)

WANTED = 0.6

# every step pays by how near the action is to `WANTED` times the (constant) observation
AIMING = Environment(
    reset=lambda key: jax.random.uniform(key, (1,), minval=-1.0, maxval=1.0),
    step=lambda state, action: (
        state,
        jnp.exp(-4.0 * (action[0] - WANTED * state[0]) ** 2),
        jnp.zeros((), bool),
    ),
    observe=lambda state: state,
)

BASE = {
    "policy.hidden_sizes": [],
    "perturbation.noise": "gaussian",
    "perturbation.scale": 0.1,
    "policy_update.learning_rate": 1e-2,
    "psvf.horizon": 5,
    "psvf.noise": 0.2,
    "psvf.epochs": 2,
    "psvf.fraction": 1.0,
    "psvf.minibatches": 4,
    "psvf.hidden_sizes": [16],
    "num_envs": 64,
    "iterations": 150,
    "eval.interval": 149,
    "eval.episodes": 32,
}


def _task(environment=AIMING, episode_length=10):
    return JaxTask(TaskSpec("fake", "jax", 1, 1, False, episode_length, False, True), environment)


def _config(**delta):
    return config_of("psvf", BASE, **delta)


def _start(config, task):
    return search_of(config, task.spec), first_state(config, task)


def _segment(learner, state, task):
    thetas = learner.propose(state, 0)
    explore = jax.jit(task.explorer(learner.policy, learner.horizon))
    return thetas, explore(jax.random.key(1), thetas, state.envs)


def _assert_equal(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize(("advantage", "trust"), [("importance", 0.2), ("linear", 0.3)])
def test_it_finds_the_policy_that_pays_most(advantage, trust):
    config = _config(psvf__advantage=advantage, psvf__trust=trust)
    reports = reports_of(config, _task())
    first, last = reports[0].records[0], reports[-1].records[-1]
    assert first["eval/episode_return"] < 8.0
    assert last["eval/episode_return"] > 9.8  # of 10
    kernel, bias = np.asarray(reports[-1].state.learner.theta[0])
    assert abs(kernel - WANTED) < 0.1 and abs(bias) < 0.1
    assert last["steps/env"] == 150 * 64 * 5
    # the policies with noise pay less than without
    assert last["eval/perturbed_return"] < last["eval/episode_return"]


@pytest.mark.slow
def test_it_finds_it_whatever_the_units_of_observations():
    far = dataclasses.replace(AIMING, observe=lambda state: 200.0 + 50.0 * state)
    reached = {}
    for coordinates in ("standardised", "raw"):
        reports = reports_of(_config(psvf__coordinates=coordinates), _task(far))
        reached[coordinates] = reports[-1].records[-1]["eval/episode_return"]
    assert reached["standardised"] > 9.8 > 9.0 > reached["raw"]


@pytest.mark.slow
def test_the_first_population_only_measures_the_observations():
    far = _task(dataclasses.replace(AIMING, observe=lambda state: 200.0 + 50.0 * state))
    learner, state = _start(_config(num_envs=512, psvf__minibatches=4), far)
    thetas, segment = _segment(learner, state, far)
    after, _ = learner.learn(state, 0, thetas, segment)
    observations = np.asarray(segment.observations)
    kernel, bias = np.asarray(after.theta)
    deviation, mean = observations.std(), observations.mean()
    assert kernel == pytest.approx(float(state.theta[0]) / deviation, rel=0.05)
    assert bias == pytest.approx(-kernel * mean, rel=0.05)
    again, _ = learner.learn(after, 1, *_segment(learner, after, far))
    assert np.abs(np.asarray(again.theta - after.theta)).max() > 0.0


@pytest.mark.slow
def test_episodes_that_nothing_ends_early_end_at_different_times():
    task = JaxTask(dataclasses.replace(_task(episode_length=45).spec, terminates=False), AIMING)
    learner, state = _start(_config(num_envs=80), task)
    explore = jax.jit(task.explorer(learner.policy, learner.horizon))
    ended = []
    for iteration in range(10):
        thetas = learner.propose(state, iteration)
        segment = explore(jax.random.key(1), thetas, state.envs)
        state, _ = learner.learn(state, iteration, thetas, segment)
        ended.append(int(segment.truncated.sum()))
    # the first population has all at the same time of their episodes; then two end at each of 40
    # steps, and in the 5 that the first took begins none
    assert ended == [0] + 8 * [10] + [0]


@pytest.mark.slow
def test_episodes_that_can_end_early_are_left_alone():
    learner, state = _start(_config(num_envs=8), _task())
    after, _ = learner.learn(state, 0, *_segment(learner, state, _task()))
    np.testing.assert_array_equal(after.envs.steps, np.full(8, 5))


@pytest.mark.slow
def test_the_noise_is_brought_to_what_the_outputs_should_deviate_by():
    config = _config(psvf__noise=0.4, psvf__final_noise=0.1, iterations=60)
    records = records_of(config, _task())
    deviations = [r["perturbation/output_deviation"] for r in records]
    schedule = np.linspace(0.4, 0.1, 60)
    ratio = np.array(deviations[20:]) / schedule[20:]  # of 64 policies each, so with luck in it
    assert abs(ratio.mean() - 1.0) < 0.1 and (ratio > 0.6).all() and (ratio < 1.6).all()


@pytest.mark.slow
def test_the_rate_follows_the_divergence():
    config = _config(policy_update__learning_rate=1e-4, psvf__divergence=0.02, iterations=1)
    (first,) = reports_of(config, _task())
    assert first.records[0]["policy/divergence"] < 1e-3
    assert float(first.state.learner.rate[0]) == pytest.approx(1.2)


def test_outputs_that_no_action_can_follow_have_their_price():
    outputs = jnp.array([[0.5, -1.0], [3.0, -1.5]])
    continuous, _ = _start(_config(num_envs=8, psvf__bound_cost=0.1), _task())
    np.testing.assert_allclose(continuous._price(outputs), [0.0, 0.1 * (4.0 + 0.25)], rtol=1e-6)
    discrete = dataclasses.replace(
        continuous.search, policy=dataclasses.replace(continuous.policy, output="argmax")
    )
    np.testing.assert_array_equal(discrete._price(outputs), [0.0, 0.0])


@pytest.mark.slow
def test_they_come_back_where_nothing_is_to_be_gained():
    # all actions pay alike
    indifferent = dataclasses.replace(
        AIMING, step=lambda state, action: (state, jnp.ones(()), jnp.zeros((), bool))
    )
    config = _config(
        psvf__bound_cost=0.1, psvf__divergence=None, policy__init_scale=5.0, iterations=120
    )
    reports = reports_of(config, _task(indifferent))
    _, start = _start(config, _task(indifferent))
    before, after = abs(float(start.theta[0])), abs(float(reports[-1].state.learner.theta[0, 0]))
    assert before > 2.0 and after < 0.75 * before


@pytest.mark.slow
def test_a_stride_is_learned_from_as_one_step_from_where_it_began():
    task = _task()
    config = _config(num_envs=8, psvf__horizon=6, psvf__gae_lambda=1.0)
    learner, state = _start(config, task)
    _, segment = _segment(learner, state, task)
    finite = jnp.ones(8, bool)
    step_by_step, *_ = learner.step_batch(state, segment, finite)
    learner, _ = _start(config.replace({"psvf.stride": 3}), task)
    strides, *_ = learner.step_batch(state, segment, finite)
    for name in ("observations", "centre", "targets"):
        # with all the future in the targets, what is left out is not what they are made of
        found, every = (
            np.asarray(getattr(met, name)).reshape(8, -1, *getattr(met, name).shape[1:])
            for met in (strides, step_by_step)
        )
        np.testing.assert_allclose(found, every[:, ::3], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("iteration", "discount"),
    [(0, 0.9), (2, 1.0 - 0.1 * 0.1**0.5), (4, 0.99), (9, 0.99)],  # of a schedule of 5
)
def test_it_looks_further_ahead_with_time(iteration, discount):
    task = _task()
    config = _config(num_envs=8, psvf__discount=0.9, psvf__final_discount=0.99, iterations=5)
    learner, state = _start(config, task)
    _, segment = _segment(learner, state, task)
    finite = jnp.ones(8, bool)
    state = state._replace(iterations=jnp.asarray(iteration))
    batch, *_ = learner.step_batch(state, segment, finite)
    constant = {"psvf.discount": discount, "psvf.final_discount": None}
    learner, _ = _start(config.replace(constant), task)
    expected, *_ = learner.step_batch(state, segment, finite)
    np.testing.assert_allclose(batch.targets, expected.targets, rtol=1e-5)
    np.testing.assert_allclose(batch.advantages, expected.advantages, rtol=1e-3, atol=1e-4)
    rescaled = (_start(c, task)[0] for c in (config, config.replace(constant)))
    sizes = [float(one._rescale(state, segment, finite).reward_scale) for one in rescaled]
    assert sizes[0] == pytest.approx(sizes[1])


def test_a_pass_takes_every_step_once_and_a_minibatch_as_many_of_each_policy():
    task = _task()
    learner, _ = _start(_config(psvf__horizon=8, psvf__minibatches=4, psvf__epochs=3), task)
    rows = np.asarray(learner.rows(jax.random.key(0)))
    assert rows.shape == (12, 64 * 8 // 4)
    passes = rows.reshape(3, -1)
    np.testing.assert_array_equal(np.sort(passes, axis=1), np.tile(np.arange(64 * 8), (3, 1)))
    assert (passes[0] != passes[1]).any() and (passes[1] != passes[2]).any()
    for minibatch in rows:
        policies, steps = np.divmod(minibatch, 8)
        assert (np.bincount(policies, minlength=64) == 2).all()
        assert set(steps) == set(range(8))


@pytest.mark.slow
def test_a_policy_that_fails_teaches_nothing_and_breaks_nothing():
    task = _task()
    learner, state = _start(_config(num_envs=8, psvf__minibatches=1), task)
    thetas, segment = _segment(learner, state, task)
    spoilt = segment._replace(rewards=segment.rewards.at[2, 3].set(jnp.nan))
    # whatever it was, saw and earned
    otherwise = spoilt._replace(
        rewards=spoilt.rewards.at[2, :3].set(50.0),
        observations=spoilt.observations.at[2].set(99.0),
        outputs=spoilt.outputs.at[2].set(jnp.nan),
    )
    after, metrics = learner.learn(state, 0, thetas, spoilt)
    again, _ = learner.learn(state, 0, thetas.at[2].set(7.0), otherwise)
    assert int(metrics["rollout/nonfinite"]) == 1 and bool(after.progress.healthy)
    np.testing.assert_array_equal(after.progress.nonfinite_theta, thetas[2])
    for name in ("theta", "value", "scaler", "reward_scale", "noise", "rate"):
        _assert_equal(getattr(after, name), getattr(again, name))
    assert np.isfinite(after.theta).all() and (after.theta != state.theta).any()


@pytest.mark.slow
def test_where_all_fail_nothing_is_learned_and_the_run_goes_on():
    task = _task()
    learner, state = _start(_config(num_envs=8, psvf__minibatches=1), task)
    thetas, segment = _segment(learner, state, task)
    after, metrics = learner.learn(
        state, 0, thetas, segment._replace(rewards=jnp.full_like(segment.rewards, jnp.nan))
    )
    assert bool(after.progress.healthy) and int(metrics["rollout/nonfinite"]) == 8
    for name in ("theta", "value", "scaler", "reward_scale"):
        _assert_equal(getattr(after, name), getattr(state, name))


@pytest.mark.slow
def test_until_an_episode_has_ended_the_running_one_is_reported():
    task = _task(episode_length=10)
    learner, state = _start(_config(num_envs=8), task)
    thetas, segment = _segment(learner, state, task)  # 5 of 10 steps
    _, metrics = learner.learn(state, 0, thetas, segment)
    np.testing.assert_allclose(
        metrics["rollout/episode_return"], segment.rewards.sum(axis=1).mean(), rtol=1e-5
    )
    assert float(metrics["rollout/episode_length"]) == 5.0


@dataclass(frozen=True)
class HostTask:
    """The same environments behind numpy: what a task on the host gives and gets."""

    task: JaxTask

    @property
    def spec(self):
        return TaskSpec("fake", "host", 1, 1, False, 10, False, False)

    def evaluator(self, policy):
        evaluate = self.task.evaluator(policy)
        return lambda key, thetas: jax.tree.map(np.asarray, evaluate(key, jnp.asarray(thetas)))

    def explorer(self, policy, horizon):
        return HostExplorer(self.task.explorer(policy, horizon))


@dataclass(frozen=True)
class HostExplorer:
    explore: Explore

    def reset(self, key, num):
        return self.explore.reset(key, num)

    def __call__(self, key, thetas, envs) -> Segment:
        assert isinstance(thetas, np.ndarray)
        return jax.tree.map(np.asarray, self.explore(key, thetas, envs))


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [lambda task: task, HostTask])
def test_seeds_side_by_side_learn_each_for_itself(wrap):
    config = _config(num_seeds=2, iterations=60, eval__interval=59)
    reports = reports_of(config, wrap(_task()))
    last = reports[-1].records[-2:]
    assert [r["seed"] for r in last] == [0, 1]
    assert all(r["eval/episode_return"] > 9.5 for r in last)
    thetas = np.asarray(reports[-1].state.learner.theta)
    assert (thetas[0] != thetas[1]).all()
    assert [r["steps/env"] for r in last] == [60 * 64 * 5] * 2


@pytest.mark.slow
def test_cartpole_is_learned_by_a_seed_whose_first_policies_take_one_action():
    # With first outputs of the usual size this population keeps to one action: 10 for ever.
    delta = {"seed": 9, "iterations": 12, "eval.interval": 12}
    config = preset("cartpole", method="psvf").replace(delta)
    assert records_of(config, make("cartpole"))[-1]["rollout/episode_return"] > 20.0


def test_the_tuned_ant_is_trained_by_it_and_the_paper_s_is_not():
    assert default_method("ant", "tuned") == preset("ant").method.name == "psvf"
    assert preset("ant", "paper").method.name == preset("cartpole").method.name == "epvf"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--psvf.discount", "1"], "psvf.discount is 1"),
        (["--psvf.discount", "0.999"], "psvf.final_discount 0.995 is below psvf.discount 0.999"),
        (["--psvf.gae-lambda", "1.5"], "psvf.gae_lambda is 1.5; it must be at least 0 and at most"),
        (["--psvf.minibatches", "99999999"], "psvf.minibatches 99999999 are more than the 8192"),
        (["--psvf.horizon", "1e9"], "num_envs times psvf.horizon is too large"),
        (["--psvf.stride", "5"], "psvf.horizon 32 is not a multiple of psvf.stride 5"),
        (["--psvf.stride", "0"], "psvf.stride is 0"),
        (["--psvf.noise", "0.05"], "psvf.final_noise 0.1 is above psvf.noise 0.05"),
        (["--policy.num-centres", "2"], "'psvf' does not read --policy.num-centres; 'epvf' does"),
        (["--policy-update.optimizer", "normalised"], "policy_update.optimizer adam or sgd"),
        (["--psvf.advantage", "exact"], "valid: importance, linear"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(options, message, workplace, capsys):
    assert main(["train", "ant", "--backend", "native", *options]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert list(workplace.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("value.hidden_sizes", "epvf"),
        ("buffer.size", "epvf"),
        ("target.transform", "epvf"),
        ("psvf.noise", "psvf"),
        ("policy_update.learning_rate", "epvf"),
    ],
)
def test_who_asks_for_something_that_it_does_not_read_is_told_who_does(name, method):
    assert readers(name)[0] == method
    assert ("psvf" in readers(name)) == name.startswith(("psvf", "policy_update"))


@pytest.mark.slow
def test_its_gradient_is_that_of_the_returns_and_its_ranking_that_of_what_policies_are_paid():
    config = _config(num_envs=256, iterations=12, psvf__epochs=1)
    task = _task()
    *_, last = reports_of(config, task)
    state = jax.tree.map(lambda x: x[0], last.state.learner)
    around = neighbourhood(prepare(config, task))(state)
    probe = Probe(
        around, task.evaluator(around.learner.policy), Settings(256, 8), lambda message: None
    )
    move = jax.random.normal(jax.random.key(0), (2,))
    np.testing.assert_allclose(around.moves(around.moved(move)[None])[0], move, rtol=1e-3)
    cosines = probe.compare_directions()["cosines"]
    assert cosines["value"] > 0.9 and cosines["value-long"] > 0.95
    centre = around.theta[None]
    near = centre + 0.3 * (probe._population(around.theta, "near") - centre)
    predicted = around.predicted(jax.random.key(0), near, probe.roll_out("near", near))
    states = jnp.linspace(-1.0, 1.0, 201)[None]
    misses = (near[:, :1] - WANTED) * states + near[:, 1:]
    paid = jnp.exp(-4.0 * misses**2).mean(axis=1)
    assert float(spearman(predicted, paid, jnp.ones(256, bool))) > 0.7


@pytest.mark.slow
def test_its_runs_are_diagnosed_and_measured_like_others(workplace, capsys):
    debug = ["train", "ant", "--method", "psvf", "--preset", "debug", "--backend", "native"]
    assert main([*debug, "--iterations", "2", "--out", "run", "--json"]) == 0
    capsys.readouterr()
    few = ["--population", "8", "--reference", "2", "--steps", "0.1", "--distances", "1"]
    assert main(["diagnose", "run", *few, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["method"] == "psvf" and found["targets"] == "centred_ranks"
    assert set(found["cosines"]) == {"value", "value-long", "matched-es", "ridge", "random"}
    steps = found["estimated_from_env_steps"]
    # 32 policies for 8 steps; for as many populations as make an episode of 50 steps
    assert (steps["value"], steps["value-long"]) == (32 * 8, 7 * 32 * 8)
    assert 0 < steps["matched-es"] <= 8 * 50
    small = ["--backend", "native", "--num-envs", "16", "--repeats", "1", "--json"]
    assert main(["bench", "ant", "--config", "run/config.json", *small]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["method"], result["num_envs"], result["horizon"]) == ("psvf", 16, 8)
    parts = [result[f"{name}_ms"] for name in ("propose", "rollout", "value", "policy")]
    assert min(parts[:3]) > 0
    assert result["iteration_ms"] == pytest.approx(sum(parts))
    assert result["learner_fraction"] == pytest.approx(sum(parts[2:]) / sum(parts))


@pytest.mark.slow
@pytest.mark.parametrize(("task", "backend"), [("ant", "native"), ("cartpole", "jax")])
def test_a_run_is_a_run_like_any_other_and_resumes_to_the_bit(task, backend, workplace, capsys):
    delta = {"task.backend": backend, "iterations": 6, "checkpoint.every_iterations": 3}
    config = preset(task, "debug", "psvf").replace(delta)
    whole, part = workplace / "whole", workplace / "part"
    assert recorded(whole, config).iterations == 6
    # a run that stops after three iterations, under the same schedules
    assert recorded(part, config.replace({"env_steps": 700})).iterations == 3
    assert resumed(part, {"env_steps": None}).iterations == 6
    assert len(assert_same_run(part, whole)) == 6
    assert main(["eval", "part", "--episodes", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["episodes"] == 2
