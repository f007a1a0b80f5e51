"""Sweeps: trials that train, are given up, go on, and what comes out of them."""

import csv
import json
import signal
import time
from typing import Any

import pytest

from epvf.cli.main import main
from epvf.config.presets import preset
from epvf.config.schema import load
from epvf.experiments import sweep as sweeping
from epvf.experiments.study import FAILURE, Sweep
from epvf.experiments.sweep import num_trials
from epvf.runs.folder import read_info
from epvf.runs.metrics import read_metrics

pytest.importorskip("optuna", reason="the extra sweep is not installed")

QUICK = ("sweep", "cartpole", "--preset", "debug", "--env-steps", "3e3")


@pytest.mark.slow
def test_trials_are_trained_once_and_the_best_of_them_can_be_trained_again(workplace, capsys):
    search = ("--search", "policy-update.learning-rate=0.3|1e-3", "--sampler", "grid")
    command = [*QUICK, *search, "--seeds", "2", "--pruner", "none", "--out", "s", "--json"]
    assert main(command) == 0
    result = json.loads(capsys.readouterr().out)
    folder = workplace / "s"
    assert (result["trials"], result["complete"], result["status"]) == (2, 2, "finished")
    rows = list(csv.DictReader((folder / "trials.csv").read_text().splitlines()))
    best = max(rows, key=lambda row: float(row["return"]))
    assert int(best["trial"]) == result["best"]["trial"]
    assert float(best["return"]) == result["best"]["return"]
    for row in rows:
        run = folder / "runs" / f"trial-{int(row['trial']):04}"
        records = read_metrics(run / "metrics.jsonl")
        ends = [[r for r in records if r["seed"] == seed][-1] for seed in (0, 1)]
        assert min(end["steps/env"] for end in ends) >= 3000
        mean = sum(end["eval/episode_return"] for end in ends) / 2
        assert float(row["return"]) == pytest.approx(mean)
    config = load(folder / "best.yaml")
    wanted = float(best["policy_update.learning_rate"])
    assert config.method.policy_update.learning_rate == wanted and config.num_seeds == 1
    assert "| trial | return |" in (folder / "report.md").read_text()
    assert (folder / "figure.png").stat().st_size > 10_000
    # nothing is left to do: the same command trains nothing
    before = [run.stat().st_mtime_ns for run in sorted((folder / "runs").glob("*/metrics.jsonl"))]
    assert main(command) == 0
    after = [run.stat().st_mtime_ns for run in sorted((folder / "runs").glob("*/metrics.jsonl"))]
    assert json.loads(capsys.readouterr().out) == result and after == before


@pytest.mark.slow
def test_a_driver_that_is_killed_loses_nothing_and_repeats_nothing(epvf):
    command = [*QUICK, "--search", "perturbation.scale=0.3|0.5", "--trials", "4", "--out", "s"]
    journal = epvf.folder / "s" / "study.journal"
    for count in (1, 3):
        runs = epvf.folder / "s" / "runs" / f"trial-{count:04}" / "metrics.jsonl"
        process = epvf.start(*command)
        while not (runs.exists() and runs.stat().st_size):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kept = {p.name: read_info(p).get("status") for p in (epvf.folder / "s" / "runs").iterdir()}
        assert list(kept.values()).count("finished") >= count
    ended = epvf(*command, "--json")
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout)
    assert result["trials"] == result["complete"] + result["given_up"] == 4
    assert journal.exists()
    for run in (epvf.folder / "s" / "runs").iterdir():
        updates = [record["steps/update"] for record in read_metrics(run / "metrics.jsonl")]
        assert updates == list(range(1, len(updates) + 1))
        assert len(read_info(run)["resumed"]) <= (run.name in ("trial-0001", "trial-0003"))


@pytest.mark.slow
def test_a_trial_behind_the_others_is_given_up_and_one_that_diverges_has_failed(
    workplace, monkeypatch, capsys
):
    command = [*QUICK, "--search", "perturbation.scale=0.5|0.6", "--trials", "3", "--out", "s"]

    def behind(curve):
        if curve._trial.number == 1 and curve._rung == 27:
            raise AssertionError("asked at its end")
        return curve._trial.number == 1 and curve._rung > 0

    def record(run, setup, display, given_up):
        if run.path.name.endswith("2"):
            from epvf.errors import RunFailed
            from epvf.training.state import TrainingDiverged

            raise RunFailed("diverged") from TrainingDiverged("diverged")
        return original(run, setup, display, given_up=given_up)

    original = sweeping.record
    monkeypatch.setattr(sweeping._Curve, "behind", behind)
    monkeypatch.setattr(sweeping, "record", record)
    assert main([*command, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["complete"], result["given_up"], result["failed"]) == (1, 1, 1)
    run = workplace / "s" / "runs" / "trial-0001"
    assert read_info(run)["status"] == "interrupted"
    assert read_metrics(run / "metrics.jsonl")[-1]["steps/env"] < 3000
    rows = list(csv.DictReader((workplace / "s" / "trials.csv").read_text().splitlines()))
    assert [row["state"] for row in rows] == ["complete", "pruned", "pruned"]
    assert rows[2]["failure"] == "diverged" and FAILURE == "failure"


def test_a_grid_has_no_more_trials_than_points():
    axes = [sweeping.space.Choices("a", ("1", "2", "3"), (1, 2, 3))]
    assert [num_trials(asked, "grid", axes) for asked in (None, 2, 9)] == [3, 2, 3]
    assert [num_trials(asked, "tpe", axes) for asked in (None, 2)] == [40, 2]


def test_the_budget_is_the_same_whatever_is_searched():
    config = sweeping.base_config("cartpole", "debug", None, {}, {}, 10_000, 1)
    axes = sweeping.space.parsed(["num_envs=4:64"], None, config)
    sweep = _of(config, axes)
    for num_envs in (4, 64):
        trial = sweeping.config_of(sweep, {"num_envs": num_envs})
        # even if no episode were longer than a step
        assert trial.iterations * num_envs >= 10_000 == trial.env_steps


def _of(config, axes):
    return Sweep("s", config, "debug", tuple(axes), 4, "x", "tpe", "none", "s.journal")


def test_what_a_file_says_is_of_every_trial_and_of_the_right_task():
    written: dict[str, Any] = {"task": {"name": "ant"}}
    with pytest.raises(sweeping.UserError, match="for task 'ant', not 'cartpole'"):
        sweeping.base_config("cartpole", "debug", None, written, {}, 1000, 1)
    written = {"perturbation": {"scale": 0.25}}
    config = sweeping.base_config("cartpole", "debug", "epvf", written, {"num_envs": 16}, 1000, 1)
    assert (config.method.perturbation.scale, config.num_envs) == (0.25, 16)
    assert config == preset("cartpole", "debug", "epvf").replace(
        {"perturbation.scale": 0.25, "num_envs": 16, "env_steps": 1000}
    )
