"""What is told of V agrees with returns whose gradient is known."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from epvf.analysis.diagnosis import Probe, Settings
from epvf.analysis.neighbourhood import neighbourhood
from epvf.cli.main import main
from epvf.config.presets import preset
from epvf.config.schema import to_dict
from epvf.training.prepare import prepare
from probes import FormulaTask, config_of, reports_of

SLOPE = np.array([0.5, -1.0, 2.0, 0.25], np.float32)
EARLIER = Path(__file__).parents[1] / "fixtures" / "v0.1.0"
SMALL = ("--population", "8", "--reference", "2", "--steps", "0.1", "--distances", "1")


def _probe(task, method="ridge", population=256, **delta):
    """A V that was fitted to one population of 512, and what it is looked at with."""
    config = config_of(method, **({"num_envs": 512} | delta))
    *_, last = reports_of(config, task)
    state = jax.tree.map(lambda x: x[0], last.state.learner)
    around = neighbourhood(prepare(config, task))(state)
    settings = Settings(population, reference=4, steps=(0.5, 1.0))
    evaluate = task.evaluator(around.learner.policy)
    return Probe(around, evaluate, settings, lambda message: None)


@pytest.mark.slow
@pytest.mark.parametrize("traceable", [True, False])
def test_of_a_linear_return_everything_is_known(traceable):
    probe = _probe(FormulaTask(lambda t: t @ SLOPE, traceable), **{"value_update.ridge": 1e-3})
    found = probe.compare_directions()
    assert min(found["cosines"][name] for name in ("value", "ridge")) > 0.99
    assert found["cosines"]["matched-es"] > 0.95
    assert found["reference_halves_cosine"] > 0.98 and found["reference_reliability"] > 0.99
    assert found["cosine_by_chance"] == pytest.approx(0.5)
    gains = probe.gains()
    # a step of length 1 is sqrt(P) deviations of 0.1 along the slope
    for row in gains["value"]:
        expected = row["step"] * 2.0 * 0.1 * np.linalg.norm(SLOPE)
        assert row["perturbed"]["mean"] == pytest.approx(expected, rel=0.02)
        assert row["unperturbed"]["mean"] == pytest.approx(expected, rel=0.02)
    for row in probe.ranking():
        assert row["spearman"] > 0.99 and 0.0 < row["error"] < 0.2


@pytest.mark.slow
def test_weights_without_noise_are_left_out():
    delta = {"perturbation.noise": "scaled_uniform", "policy.init": "lecun_normal"}
    probe = _probe(FormulaTask(lambda t: t @ SLOPE, False), **delta)
    # the only bias starts at zero, and noise follows the weight
    assert float(probe.around.theta[3]) == 0.0 and float(probe.moving.sum()) == 3.0
    for direction in probe.directions.values():
        assert float(direction[3]) == 0.0 and np.isfinite(direction).all()


@pytest.mark.slow
def test_returns_that_are_not_finite_are_left_out():
    def spoiled(thetas):
        returns = np.asarray(thetas @ SLOPE).copy()
        returns[:2] = np.nan, np.inf
        return returns

    probe = _probe(FormulaTask(spoiled, False))
    assert probe.compare_directions()["cosines"]["value"] > 0.95
    rows = [row for name, x in probe.gains().items() if name != "at_theta" for row in x]
    assert all(np.isfinite(row["perturbed"]["mean"]) for row in rows)


@pytest.mark.slow
def test_the_reference_is_the_mean_over_all_its_populations():
    probe = _probe(FormulaTask(lambda t: t @ SLOPE, False), population=64)
    thetas = np.concatenate([np.asarray(x) for x in probe._antithetic()])
    offsets = (thetas - np.asarray(probe.around.theta)) / 0.1
    np.testing.assert_allclose(offsets[:64].mean(axis=0), 0.0, atol=1e-5)
    ranks = np.argsort(np.argsort(thetas @ SLOPE)) / (len(thetas) - 1) - 0.5
    expected = ranks @ offsets / len(thetas)
    found = np.asarray(probe.reference[0] + probe.reference[1]) / 4
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("diagnosis") / "run"
    options = ("--preset", "debug", "--num-seeds", "2", "--iterations", "2")
    assert main(["train", "cartpole", *options, "--out", str(path)]) == 0
    return path


@pytest.mark.slow
def test_a_run_is_diagnosed_in_a_table_a_plot_and_json(run, tmp_path, capsys):
    command = ["diagnose", str(run), *SMALL, "--out", str(tmp_path / "out")]
    capsys.readouterr()
    assert main([*command, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((tmp_path / "out" / "diagnosis.json").read_text())
    assert (result["update"], result["population"], result["reference"]) == (2, 8, 16)
    assert result["cosines"].keys() == {"value", "matched-es", "ridge", "random"}
    assert all(-1.0 <= cosine <= 1.0 for cosine in result["cosines"].values())
    assert (tmp_path / "out" / "diagnosis.png").stat().st_size > 10_000
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert "matched-es" in out and "rank correlation" in out
    assert "reference gradient, population 2/2" in err


def test_bad_input_is_one_line(run, tmp_path, capsys):
    empty, other, agent = (tmp_path / name for name in ("empty", "other", "agent"))
    for copy in (empty, agent):
        shutil.copytree(run, copy)
    shutil.copytree(EARLIER / "openes", other)
    shutil.rmtree(empty / "checkpoints")
    (empty / "checkpoints").mkdir()
    (agent / "config.json").write_text(json.dumps(to_dict(preset("cartpole", "debug", "ppo"))))
    capsys.readouterr()
    cases = [
        ([], "missing: RUN"),
        (["nowhere"], "nowhere is no run"),
        ([str(run), "--population", "0"], "population is 0, but must be even and at least 4"),
        ([str(run), "--seed", "-1"], "seed is -1; it must be at least 0"),
        ([str(run), "--population", "7"], "population is 7, but must be even"),
        ([str(run), "--reference", "1"], "reference is 1, but must be at least 2"),
        ([str(run), "--steps", "0"], "must be finite and greater than 0"),
        ([str(empty)], "has no checkpoint yet"),
        ([str(other)], "method 'openes' has no value function"),
        ([str(agent)], "method 'ppo' has no value function"),
    ]
    for arguments, message in cases:
        assert main(["diagnose", *arguments]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and message in err
    assert not any((path / "diagnosis").exists() for path in (run, empty, other))


@pytest.mark.slow
def test_looking_does_not_disturb_a_run_that_is_being_saved(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    unfinished = copy / "checkpoints" / "000000000003.orbax-checkpoint-tmp"
    unfinished.mkdir()
    before = sorted(path.name for path in (copy / "checkpoints").iterdir())
    assert main(["diagnose", str(copy), *SMALL, "--out", str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (copy / "checkpoints").iterdir()) == before
