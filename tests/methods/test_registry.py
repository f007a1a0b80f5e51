"""All methods through one loop: they climb, resume, and survive broken returns."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epvf.cli.main import main
from epvf.config.presets import PRESETS, preset
from epvf.config.schema import Config, flatten, leaves
from epvf.errors import UserError
from epvf.methods.controls import REPLAYED
from epvf.methods.evolution import MAX_DENSE, STRATEGIES, EvolutionConfig
from epvf.methods.registry import METHODS, default_settings
from epvf.policies.noise import noise_deviation
from epvf.tasks import make
from epvf.training.loop import HOPELESS, iterate
from epvf.training.prepare import prepare
from epvf.training.state import TrainingDiverged
from epvf.types import Evaluation
from epvf.value.linear_fit import ridge_line
from epvf.value.targets import TargetConfig, transform
from probes import (
    BASE,
    FormulaTask,
    assert_same_run,
    config_of,
    first_state,
    interrupted_copy,
    recorded,
    records_of,
    reports_of,
    resumed,
    search_of,
    untimed,
)

OPTIMUM = np.array([0.3, -0.2, 0.1, 0.4], np.float32)
SEARCHES = [name for name in METHODS.names() if METHODS[name].build is not None]
WHOLE = [name for name in SEARCHES if name != "psvf"]  # read whole episodes
CONTROLS = ("matched-openes", "ridge", "ridge-replay")
UNCLIMBING = ("epvf", "randomsearch")  # the one in its own tests, the other no climber
QUICK = ("matched-openes", "openes", "ridge-replay", "randomsearch")
CLIMBING = {
    "policy_update.learning_rate": 5e-2,
    "policy_update.final_learning_rate": 1e-3,
    "evolution.std": 0.1,
    "evolution.learning_rate": 5e-2,
    "evolution.final_learning_rate": 1e-3,
    "iterations": 120,
}
DEBUG = ("train", "cartpole", "--preset", "debug")


def some(methods):
    """All of them, but only one of a kind among the quick tests."""
    slow = pytest.mark.slow
    return [name if name in QUICK else pytest.param(name, marks=slow) for name in methods]


def _quadratic(traceable=True):
    return FormulaTask(lambda t: -((t - OPTIMUM[None, :]) ** 2).sum(-1), traceable)


def _start(config):
    return search_of(config, _quadratic().spec), first_state(config, _quadratic())


# --- every method


@pytest.mark.parametrize("name", METHODS.names())
def test_a_method_searches_or_trains_itself_and_its_settings_bear_its_name(name):
    method = METHODS[name]
    assert (method.build is None) != (method.train is None)
    assert dataclasses.fields(method.settings)[0].name == "name"
    assert default_settings(name).name == name
    assert method.summary and "\n" not in method.summary
    reads_whole = method.segment(default_settings(name)) is None
    assert reads_whole == (name in WHOLE)
    # a field that nobody has would be a slip of the pen
    configs = [Config(method=default_settings(other)) for other in METHODS.names()]
    known = {leaf.name for config in configs for leaf in leaves(config)}
    assert method.unread <= known | {leaf.partition(".")[0] for leaf in known}


def test_there_is_a_strategy_of_evosax_for_every_name():
    assert set(STRATEGIES) < set(METHODS.names())
    assert all(METHODS[name].needs == "baselines" for name in STRATEGIES)


CLIMBERS = [name for name in WHOLE if name not in UNCLIMBING]


@pytest.mark.parametrize(
    ("method", "traceable"),
    [
        *(pytest.param(name, True, marks=pytest.mark.slow) for name in CLIMBERS),
        *((name, False) for name in CLIMBERS if name in QUICK),  # one loop for all
    ],
)
def test_a_quadratic_return_is_climbed_to_its_optimum(method, traceable):
    config = config_of(method, BASE | CLIMBING)
    *_, last = reports_of(config, _quadratic(traceable))
    assert last.records[-1]["eval/episode_return"] > -0.01
    centre = search_of(config, _quadratic().spec).centre
    state = jax.tree.map(lambda x: x[0], last.state.learner)
    np.testing.assert_allclose(centre(state), OPTIMUM, atol=0.1)


def test_random_search_keeps_the_best_policy_that_it_drew():
    config = config_of("randomsearch", iterations=20)
    records, best = [], -np.inf
    for report in iterate(prepare(config, _quadratic(False))):
        records += report.records
        best = max(best, records[-1]["rollout/episode_return_max"])
    learner, _ = _start(config)
    centre = learner.centre(jax.tree.map(lambda x: x[0], report.state.learner))
    assert -float(((centre - OPTIMUM) ** 2).sum()) == pytest.approx(best, rel=1e-4)
    assert best > records[0]["rollout/episode_return_max"]


def _first_told(method):
    """What a method records of its first iteration, and the policy that it starts from."""
    (record,) = records_of(config_of(method), _quadratic(False))
    search = search_of(config_of(method), _quadratic().spec)
    return record, search.centre(search.init_state(jax.random.key(3)))


@pytest.fixture(scope="module")
def told_by_epvf():
    return _first_told("epvf")


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name in WHOLE if name != "epvf"])
def test_all_methods_tell_the_same_things_and_start_from_one_policy(method, told_by_epvf):
    record, theta = _first_told(method)
    assert record.keys() == told_by_epvf[0].keys()
    np.testing.assert_array_equal(theta, told_by_epvf[1])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["openes", "cmaes", "ridge-replay"])
def test_seeds_side_by_side_are_the_seeds_one_by_one(method):
    options = {"iterations": 5}
    together = untimed(records_of(config_of(method, num_seeds=2, seed=5, **options), _quadratic()))
    alone = untimed(records_of(config_of(method, seed=6, **options), _quadratic()))
    second = [record for record in together if record.pop("seed") == 6]
    for a, b in zip(second, alone, strict=True):
        for name in b:
            assert a[name] == pytest.approx(b[name], rel=1e-3, abs=1e-4, nan_ok=True), name


@pytest.mark.slow
@pytest.mark.parametrize("method", some(WHOLE))
def test_returns_that_are_not_finite_are_counted_and_break_nothing(method):
    config = config_of(method, iterations=6)

    def spoiled(thetas):
        returns = np.asarray(_quadratic().formula(thetas)).copy()
        returns[:3] = np.nan, np.inf, -np.inf
        return returns

    records = records_of(config, FormulaTask(spoiled, False))
    assert [r["rollout/nonfinite"] for r in records] == 6 * [3]
    nothing = FormulaTask(lambda t: np.full(len(t), np.nan), False)
    search, reports = search_of(config, nothing.spec), []
    with pytest.raises(TrainingDiverged, match="not one of 64 policies had a finite rollout"):
        for report in iterate(prepare(config, nothing)):
            assert report.records[-1]["rollout/nonfinite"] == 64
            state = jax.tree.map(lambda x: x[0], report.state.learner)
            assert np.isfinite(search.centre(state)).all() and bool(state.progress.healthy)
            reports.append(report)
    assert len(reports) == HOPELESS


# --- the evolution strategies


@pytest.mark.slow
@pytest.mark.parametrize("method", STRATEGIES)
def test_a_broken_return_counts_as_the_worst_finite_one(method):
    search, state = _start(config_of(method))
    thetas = search.propose(state, jnp.asarray(0))
    returns = np.asarray(_quadratic().formula(thetas)).copy()
    lengths = jnp.ones(64, jnp.int32)
    returns[5] = returns.min()
    expected, _ = search.learn(state, jnp.asarray(0), thetas, Evaluation(returns, lengths))
    returns[5] = np.nan
    after, _ = search.learn(state, jnp.asarray(0), thetas, Evaluation(returns, lengths))
    np.testing.assert_array_equal(after.strategy.mean, expected.strategy.mean)
    np.testing.assert_array_equal(after.progress.nonfinite_theta, thetas[5])


def _both_of_evosax(method, **state):
    """The population that a strategy asks for, and the one that evosax's own would, `[64, 4]`."""
    search, start = _start(config_of(method))
    algorithm, params, _ = search.strategy
    strategy = start.strategy.replace(**state)
    key = jax.random.key(3)
    with jax.numpy_rank_promotion("allow"):
        own = super(type(algorithm), algorithm)._ask(key, strategy, params)[0]
        return algorithm._ask(key, strategy, params)[0], own


@pytest.mark.parametrize("method", some(["openes", "pgpe", "ars"]))
def test_mirrored_pairs_are_those_of_evosax(method):
    ours, theirs = _both_of_evosax(method)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_the_last_digit_of_a_covariance_turns_no_policy_of_cmaes():
    disturbance = 1e-6 * np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    covariances = [jnp.eye(4) + x + x.T for x in (0.0 * disturbance, disturbance)]
    (ours, theirs), (after, turned) = (_both_of_evosax("cmaes", C=c) for c in covariances)
    size = np.abs(np.asarray(ours)).max()
    np.testing.assert_allclose(ours, after, atol=1e-5 * size)
    assert np.abs(np.asarray(theirs) - np.asarray(turned)).max() > 0.1 * size
    wide = jnp.diag(jnp.asarray([4.0, 1.0, 1.0, 0.25]))
    ours, _ = _both_of_evosax("cmaes", C=wide)
    deviations = np.asarray(ours).std(axis=0) / EvolutionConfig().std
    np.testing.assert_allclose(deviations, [2.0, 1.0, 1.0, 0.5], rtol=0.35)


@pytest.mark.slow
def test_noise_falls_to_its_final_deviation_at_the_last_iteration():
    config = config_of(
        "openes", iterations=5, evolution__std=0.4, evolution__final_std=0.1, num_envs=4000
    )
    search, state = _start(config)
    deviations = []
    for iteration in range(5):
        thetas = search.propose(state, jnp.asarray(iteration))
        deviations.append(float((thetas - search.centre(state)[None, :]).std()))
        nothing = Evaluation(jnp.zeros(4000), jnp.ones(4000, jnp.int32))
        state, _ = search.learn(state, jnp.asarray(iteration), thetas, nothing)
    assert deviations[0] == pytest.approx(0.4, rel=0.05)
    assert deviations[-1] == pytest.approx(0.1, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["openes", "pgpe", "cmaes"])
def test_a_run_goes_on_to_the_bit_as_if_it_had_never_stopped(method, tmp_path):
    whole, run = tmp_path / "whole", tmp_path / "run"
    delta = {
        "task.backend": "native",
        "policy.hidden_sizes": [],
        "eval.episodes": 2,
        "checkpoint.every_iterations": 1,
        "num_envs": 8,
        "num_seeds": 2,
        "iterations": 5,
    }
    recorded(whole, preset("ant", "debug", method).replace(delta))
    interrupted_copy(whole, run)
    assert resumed(run).iterations == 5
    assert len(assert_same_run(run, whole)) == 10


@pytest.mark.slow
def test_a_run_of_an_evolution_strategy_is_a_run(tmp_path, capsys):
    run = str(tmp_path / "run")
    assert main([*DEBUG, "--method", "openes", "--out", run]) == 0
    assert main(["eval", run, "--episodes", "2"]) == 0
    assert main(["plot", run]) == 0
    assert (tmp_path / "run" / "plots" / "return.png").stat().st_size > 10_000


# --- the controls


def _returns(thetas):
    return jnp.sin(3.0 * thetas).sum(-1) + thetas[:, 0] ** 2


def _slope_of_v(search, fitted, state):
    """∇V at θ, `[P]`, of a V fitted around the centre of a state."""
    frame = search.frame(state)
    objective = lambda c: search.value.expected(fitted.value, c, frame)[0]  # noqa: E731
    return jax.grad(objective)(state.centres)[0]


@pytest.mark.slow
@pytest.mark.parametrize(("task", "name"), [*(("ant", n) for n in PRESETS), ("cartpole", "tuned")])
def test_matched_openes_is_evolution_strategies_on_epvfs_population(task, name):
    sizes = {"num_envs": 32, "policy.hidden_sizes": [], "policy.output": "clip"}
    config = preset(task, name, "matched-openes").replace(sizes)
    search, state = _start(config)
    for iteration in range(3):
        thetas = search.propose(state, jnp.asarray(iteration))
        evaluation = Evaluation(_returns(thetas), jnp.ones(32, jnp.int32))
        after, _ = search.learn(state, jnp.asarray(iteration), thetas, evaluation)
        centre = state.centres[0]
        deviation = noise_deviation(config.method.perturbation, centre)
        moving = deviation > 0.0
        ranks = np.argsort(np.argsort(evaluation.returns)) / 31 - 0.5
        noise = (thetas - centre[None, :]) / jnp.where(moving, deviation, 1.0)[None, :]
        expected = ranks @ np.asarray(noise) / 32 / np.where(moving, deviation, 1.0)
        found = _slope_of_v(search, after, state)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
        state = after


@pytest.mark.slow
def test_matched_openes_is_the_limit_of_a_linear_v_that_forgets_everything():
    delta = {
        "value.hidden_sizes": [],
        "value.inputs": "standardised",
        "value.zero_init": True,
        "target.transform": "centred_ranks",
        "value_update.steps": 1,
        "value_update.optimizer": "sgd",
        "value_update.learning_rate": 1e-4,
        "value_update.weight_decay": 1e4,
        "policy_update.steps": 1,
    }
    matched, limit = _start(config_of("matched-openes")), _start(config_of("epvf", **delta))
    for iteration in range(3):
        states = []
        for search, state in (matched, limit):
            thetas = search.propose(state, jnp.asarray(iteration))
            evaluation = Evaluation(_returns(thetas), jnp.ones(64, jnp.int32))
            states.append(search.learn(state, jnp.asarray(iteration), thetas, evaluation)[0])
        np.testing.assert_allclose(states[0].centres, states[1].centres, atol=1e-5)
        matched, limit = (matched[0], states[0]), (limit[0], states[1])


@pytest.mark.parametrize(("method", "rows"), [("ridge", 64), ("ridge-replay", 64 * REPLAYED)])
def test_ridge_fits_v_to_this_population_or_to_several(method, rows):
    search, state = _start(config_of(method, iterations=9, value_update__ridge=0.5))
    assert search.buffer_size == rows
    for iteration in range(3):
        before = state
        thetas = search.propose(state, jnp.asarray(iteration))
        evaluation = Evaluation(_returns(thetas), jnp.ones(64, jnp.int32))
        state, metrics = search.learn(state, jnp.asarray(iteration), thetas, evaluation)
    stored = state.buffer
    assert int(stored.valid.sum()) == min(rows, 3 * 64)
    offsets = (stored.thetas - before.centres) / 0.1
    ranks = transform(TargetConfig("centred_ranks"), stored.returns, stored.valid)
    slope, intercept = ridge_line(offsets, ranks, stored.valid, 0.5)
    np.testing.assert_allclose(state.value["mlp"][0]["kernel"][:, 0], slope, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(state.value["mlp"][0]["bias"], intercept[None], atol=1e-6)
    error = (offsets @ slope + intercept - ranks)[np.asarray(stored.valid)]
    assert float(metrics["loss/value"]) == pytest.approx(float((error**2).mean()), rel=1e-3)


@pytest.mark.parametrize("method", CONTROLS)
def test_controls_keep_population_clip_and_schedule_of_the_preset(method):
    paper, control = (preset("ant", "paper", name) for name in ("epvf", method))
    before, after = flatten(paper), flatten(control)
    kept = {name for name in before if name.startswith(("perturbation.", "policy.", "eval."))}
    kept |= {f"policy_update.{n}" for n in ("learning_rate", "final_learning_rate", "weight_clip")}
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    task = make("ant", "native")
    epvf, search = (search_of(config, task.spec) for config in (paper, control))
    assert (search.perturbation, search.num_envs) == (epvf.perturbation, epvf.num_envs)
    assert (search.policy, search.iterations) == (epvf.policy, epvf.iterations)
    for name in ("learning_rate", "final_learning_rate", "weight_clip"):
        assert getattr(search.policy_update, name) == getattr(epvf.policy_update, name)


def test_the_early_trial_of_openes_is_one_command():
    # the command of docs/compare.md
    delta = {
        "perturbation.scale": 0.3,
        "perturbation.floor": 0.0,
        "policy_update.learning_rate": 4e-3,
        "policy_update.final_learning_rate": None,
    }
    config = preset("ant", method="matched-openes").replace(delta)
    search = search_of(config, make("ant", "native").spec)
    assert (search.num_envs, search.buffer_size) == (1024, 1024)
    assert config.policy.hidden_sizes == (64, 64)
    assert (config.policy.init, config.policy.output) == ("lecun_normal", "clip")
    update = search.policy_update
    assert (update.learning_rate, update.final_learning_rate) == (4e-3, None)
    assert (update.optimizer, update.weight_clip, update.steps) == ("adam", 0.1, 1)
    noise = search.perturbation
    assert (noise.noise, noise.scale, noise.floor) == ("scaled_uniform", 0.3, 0.0)


# --- what is wrong


def test_a_missing_extra_is_one_line_and_nothing_is_written(workplace, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "evosax.algorithms", None)
    assert main([*DEBUG, "--method", "openes"]) == 2
    message = "method 'openes' needs evosax: pip install 'epvf[baselines]'"
    assert capsys.readouterr().err == f"epvf: error: {message}\n"
    assert list(workplace.iterdir()) == []


@pytest.mark.parametrize(
    ("method", "delta", "words"),
    [
        ("openes", {"num_envs": 63}, ["'openes' draws mirrored pairs", "not 63"]),
        ("sepcmaes", {"num_envs": 3}, ["'sepcmaes' needs num_envs of at least 4"]),
        (
            "cmaes",
            {"policy.hidden_sizes": [64, 64]},
            ["dense covariance", "sepcmaes", str(MAX_DENSE)],
        ),
        ("gradient", {}, ["unknown method 'gradient'", "epvf, psvf, matched-openes"]),
        ("ars", {"evolution.elite_ratio": 1.5}, ["elite_ratio is 1.5", "at most 1"]),
        ("ars", {"evolution.final_std": 1.0}, ["evolution.final_std", "decays"]),
        ("ars", {"evolution.elite_ratio": 0}, ["elite_ratio is 0", "greater than 0"]),
        ("pgpe", {"evolution.std": 0}, ["evolution.std is 0"]),
    ],
)
def test_what_does_not_fit_is_refused_in_words(method, delta, words):
    with pytest.raises(UserError) as caught:
        search_of(config_of(method, **delta), _quadratic().spec)
    assert [word for word in words if word not in str(caught.value)] == []


def test_help_shows_the_hyperparameters_of_the_task(capsys):
    assert main(["train", "ant", "--method", "ars", "--help"]) == 0
    out = capsys.readouterr().out
    assert "--evolution.std" in out and "(default: 0.025)" in out and "matched-openes" in out
