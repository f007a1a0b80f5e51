"""Runs of 0.1.0 are still read, looked at, and gone on with; `fixtures/v0.1.0` holds them."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from epvf.analysis.drawing import plot_runs
from epvf.analysis.evaluation import evaluate
from epvf.config.schema import FORMAT as CONFIG_FORMAT
from epvf.config.schema import replace
from epvf.errors import UserError
from epvf.experiments import compare_report, report, runner
from epvf.experiments.paper import Arm
from epvf.files import read_json
from epvf.policies.formats.registry import load_policy
from epvf.runs.checkpoints import Checkpoints
from epvf.runs.folder import FORMAT, Run, policy_path, read_config, read_info
from epvf.runs.metrics import read_metrics
from epvf.training.loop import init_state
from epvf.training.prepare import prepare
from probes import resumed, untimed

EARLIER = Path(__file__).parents[1] / "fixtures" / "v0.1.0"
RUNS = sorted(path.parent.relative_to(EARLIER) for path in EARLIER.rglob("run.json"))
SINGLE = [run for run in RUNS if len(run.parts) == 1]


def _copy(name, folder):
    run = folder / "run"
    shutil.copytree(EARLIER / name, run)
    return run


def test_there_are_runs_of_every_kind():
    found = {read_config(EARLIER / run).method.name for run in RUNS}
    assert found == {"epvf", "psvf", "openes", "ppo"} and len(RUNS) == 13


@pytest.mark.parametrize("name", RUNS, ids=str)
def test_its_parts_are_read(name):
    run = EARLIER / name
    assert read_json(run / "run.json")["format"] == "epvf-run/1"
    told = read_json(run / "config.json")
    config = read_config(run)
    assert (config.method.name, config.num_envs) == (told["method"], told["num_envs"])
    assert config.policy.hidden_sizes == tuple(told["policy"]["hidden_sizes"])
    records = read_metrics(run / "metrics.jsonl")
    assert records and records[0]["steps/update"] == 1
    for which in ("best", "last"):
        saved = load_policy(policy_path(run, which))
        assert saved.policy.layer_sizes[1:-1] == config.policy.hidden_sizes
        assert np.isfinite(saved.theta).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS, ids=str)
def test_its_policies_are_evaluated(name):
    saved = load_policy(policy_path(EARLIER / name, "best"))
    found = evaluate(saved, episodes=3)
    assert found.returns.shape == (3,) and np.isfinite(found.returns).all()
    assert found.task == read_config(EARLIER / name).task.name


@pytest.mark.parametrize("name", SINGLE, ids=str)
def test_it_is_drawn(name, tmp_path):
    plot_runs((EARLIER / name,), tmp_path / "return.png")
    assert (tmp_path / "return.png").stat().st_size > 10_000


@pytest.mark.slow
def test_several_of_them_are_drawn_together(tmp_path):
    plot_runs(tuple(EARLIER / name for name in RUNS), tmp_path / "return.png")
    assert (tmp_path / "return.png").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "done", "more"), [("epvf-interrupted", 1, 4), ("psvf-interrupted", 91, 3)]
)
def test_an_interrupted_run_goes_on(name, done, more, tmp_path):
    run = _copy(name, tmp_path)
    before = read_metrics(run / "metrics.jsonl")
    asked = read_config(run)
    outcome = resumed(run, {"iterations": done + more})
    assert (outcome.status, outcome.iterations) == ("finished", done + more)
    records = read_metrics(run / "metrics.jsonl")
    assert records[:done] == before and len(before) == done
    assert [r["steps/update"] for r in records] == list(range(1, done + more + 1))
    # what was told then still is, and perhaps more
    assert all(r.keys() >= records[0].keys() for r in records)
    env_steps = np.array([r["steps/env"] for r in records])
    assert (np.diff(env_steps) > 0).all() and outcome.env_steps == env_steps[-1]
    assert all(r["loss/value"] is not None for r in records[done:])
    # and the folder is of the newest format
    info = read_info(run)
    assert (info["format"], info["status"]) == (FORMAT, "finished")
    assert info["resumed"][-1]["argv"] == ["epvf", "resume"]
    assert info["argv"] == read_info(EARLIER / name)["argv"]
    assert read_json(run / "config.json")["format"] == CONFIG_FORMAT
    assert read_config(run) == replace(asked, {"iterations": done + more})
    assert load_policy(policy_path(run, "last")).metadata["update"] == str(done + more)
    assert _newest(run).iteration == done + more


@pytest.mark.slow
def test_what_goes_on_is_what_was_stored(tmp_path):
    # of the first update after it, all but the time is told by what the checkpoint holds
    run = _copy("psvf-interrupted", tmp_path)
    state = _newest(EARLIER / "psvf-interrupted")
    last = load_policy(policy_path(run, "last"))
    np.testing.assert_array_equal(state.learner.theta[0], last.theta)
    best = load_policy(policy_path(run, "best"))
    np.testing.assert_array_equal(state.learner.progress.best_theta[0], best.theta)
    measured = np.float32(best.metadata["episode_return"])
    assert state.learner.progress.best_return[0] == measured
    records = read_metrics(run / "metrics.jsonl")
    assert (state.iteration, state.env_steps.tolist()) == (91, [records[-1]["steps/env"]])
    assert bool(state.learner.progress.healthy.all())
    one, two = tmp_path / "one", tmp_path / "two"
    for path in (one, two):
        shutil.copytree(run, path)
        resumed(path, {"iterations": 93})
    # going on twice from there is going on once, to the bit
    ours, theirs = (untimed(read_metrics(path / "metrics.jsonl")) for path in (one, two))
    assert ours == theirs and len(ours) == 93


@pytest.mark.parametrize(
    "name", ["epvf", *(pytest.param(m, marks=pytest.mark.slow) for m in ("psvf", "openes"))]
)
def test_a_finished_run_is_extended(name, tmp_path):
    run = _copy(name, tmp_path)
    config = read_config(run)
    done = len(read_metrics(run / "metrics.jsonl"))
    outcome = resumed(run, {"iterations": done + 2, "env_steps": None})
    assert (outcome.status, outcome.iterations) == ("finished", done + 2)
    records = read_metrics(run / "metrics.jsonl")
    assert [r["steps/update"] for r in records] == list(range(1, done + 3))
    assert read_info(run)["format"] == FORMAT
    assert read_config(run).method == config.method


def test_looking_changes_nothing(tmp_path):
    run = _copy("epvf-interrupted", tmp_path)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    _newest(run)
    Run.open(run).close()
    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    after.pop(run / ".lock")
    assert after == before


@pytest.mark.parametrize("format", [None, "epvf-run/0", "epvf-run/3"])
def test_formats_that_nobody_knows_are_refused(format, tmp_path):
    run = _copy("epvf", tmp_path)
    (run / "run.json").write_text(json.dumps(read_json(run / "run.json") | {"format": format}))
    with pytest.raises(UserError, match="but a run has 'epvf-run/2'"):
        read_config(run)


# --- experiments and comparisons


def _plan(folder):
    told = read_json(folder / "experiment.json")
    arms = [
        Arm(name, read_config(folder / "runs" / name.replace(" ", "-"))) for name in told["arms"]
    ]
    plan = runner.Plan(told["name"], told["scale"], told["preset"], told["seeds"], arms)
    # it is that of the folder, whose runs are what is asked for
    runner.open_folder(folder, plan)
    return plan


@pytest.mark.slow
def test_the_page_of_a_comparison_is_written_again(tmp_path):
    folder = _copy("comparison", tmp_path)
    told, page = read_json(folder / "summary.json"), (folder / "report.md").read_text()
    table = (folder / "results.csv").read_text()
    summary = compare_report.write(folder, _plan(folder), told["command"])
    assert read_json(folder / "summary.json") == json.loads(json.dumps(summary))
    assert summary.keys() == told.keys()
    for name, method in told["methods"].items():
        for what in ("seeds", "env_steps", "reached"):
            assert summary["methods"][name][what] == method[what]
        for which, final in method["final"].items():
            for number in ("mean", "iqm"):
                assert summary["methods"][name]["final"][which][number] == final[number]
    assert (folder / "results.csv").read_text() == table
    found = (folder / "report.md").read_text()
    assert found.splitlines()[:5] == page.splitlines()[:5]
    assert (folder / "figure.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_table_of_an_experiment_is_written_again(tmp_path):
    folder = _copy("experiment", tmp_path)
    told, table = read_json(folder / "summary.json"), (folder / "results.csv").read_text()
    summary = report.write(folder, _plan(folder))
    assert summary["settings"].keys() == told["settings"].keys()
    for name, setting in told["settings"].items():
        assert summary["settings"][name]["seeds"] == setting["seeds"]
        for which in ("perturbed", "unperturbed"):
            assert summary["settings"][name][which]["mean"] == setting[which]["mean"]
    assert (folder / "results.csv").read_text() == table
    assert (folder / "figure.png").stat().st_size > 10_000


@pytest.mark.slow
def test_runs_may_differ_in_fields_that_their_method_does_not_read(tmp_path):
    folder = _copy("experiment", tmp_path)
    plan, file = _plan(folder), folder / "runs" / "4-envs" / "config.json"
    told = read_json(file)
    assert told["method"] == "epvf"
    for group, name in (("psvf", "epochs"), ("evolution", "std"), ("ppo", "epochs")):
        told[group][name] = 7
    file.write_text(json.dumps(told))
    runner.open_folder(folder, plan)
    told["value_update"]["steps"] += 1
    file.write_text(json.dumps(told))
    with pytest.raises(UserError, match=r"4-envs was made with .* its value_update\.steps is"):
        runner.open_folder(folder, plan)


def _newest(run):
    """The newest checkpoint of a run, as it is looked at."""
    setup = prepare(read_config(run))
    like = jax.eval_shape(lambda: init_state(setup).learner)
    checkpoints = Checkpoints(run / "checkpoints", keep=1, read_only=True)
    try:
        return checkpoints.restore(like)
    finally:
        checkpoints.close()
