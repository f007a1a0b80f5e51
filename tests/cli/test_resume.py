"""`epvf resume`: what is left of a run, or more of it."""

import json
import shutil
from pathlib import Path

import pytest

from epvf.cli import resume
from epvf.cli.main import main
from epvf.config.schema import load
from epvf.runs import provenance


def _iterations(run):
    lines = (Path(run) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["steps/update"] for line in lines]


@pytest.fixture
def run(finished, workplace):
    """A finished run of one's own."""
    shutil.copytree(finished, "run")
    return "run"


def test_bad_input(run, refused):
    refused(["resume"], "missing: RUN; see epvf resume --help")
    refused(["resume", "nowhere"], "nowhere is no run: it has no run.json")
    refused(["resume", run, "--iterations", "many"], "iterations must be of type int, not 'many'")
    refused(["resume", run, "--iterations", "5"], "iterations is 5, but the run has 5 already")
    refused(["resume", run, "--iterations", "9", "--env-steps", "9"], "either --iterations or")
    assert load(Path(run, "config.json")).iterations == 5


def test_a_finished_run_is_left_alone(run, capsys):
    assert main(["resume", run]) == 0
    out = capsys.readouterr().out
    assert out == (
        "run run is finished; nothing to do. To extend it: epvf resume run --iterations N\n"
    )
    assert main(["resume", run, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"run": "run", "status": "finished"}
    assert _iterations(run) == [1, 2, 3, 4, 5]


@pytest.mark.slow
def test_a_finished_run_is_extended_and_its_schedules_are_told(run, capsys):
    assert main(["resume", run, "--iterations", "7", "--json"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert (result["status"], result["iterations"]) == ("finished", 7)
    assert err.startswith(
        "schedules keep their length of 5 iterations; after it they stay at their final values\n"
    )
    assert _iterations(run) == [1, 2, 3, 4, 5, 6, 7]
    config = load(Path(run, "config.json"))
    assert (config.iterations, config.schedule_iterations) == (7, 5)
    info = json.loads(Path(run, "run.json").read_text())
    assert info["resumed"][-1]["argv"] == ["epvf", "resume", run, "--iterations", "7", "--json"]


def test_a_run_is_extended_by_env_steps(run, capsys):
    steps = json.loads(Path(run, "metrics.jsonl").read_text().splitlines()[-1])["steps/env"]
    assert main(["resume", run, "--env-steps", str(steps + 1), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["status"], result["iterations"]) == ("finished", 6)
    assert result["env_steps"] > steps


def test_going_on_elsewhere_is_told(capsys):
    here, versions = provenance.processor(), provenance.versions()

    def told(cpu, began_with):
        resume._tell_machine({"devices": {"cpu": cpu}, "versions": began_with})
        return capsys.readouterr().err

    assert here["model"] is not None and here["flags"]
    assert told(here, versions) == ""
    model = f"'Z80', here it is {here['model']!r}"
    end = ": it goes on, but not to the bit as there\n"
    assert told({"model": "Z80", "flags": ""}, versions) == f"note: the run began on {model}{end}"
    assert "with other features" in told(here | {"flags": "none"}, versions)
    told_versions = told(here, versions | {"jax": "0.0.1", "brax": None})
    assert told_versions == (f"note: the run began with jax 0.0.1 (here {versions['jax']}){end}")
    resume._tell_machine({"devices": None, "versions": [1]})
    assert capsys.readouterr().err == ""
