"""The examples do what they say, as files and as tasks and methods of the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import SOURCE, Epvf

EXAMPLES = SOURCE.parent / "examples"


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_an_example_runs(name: str) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / name],
        cwd=SOURCE.parent,
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "of at most" in done.stdout
    assert done.stderr == ""


def test_benchmarks_speak_of_what_there_is() -> None:
    folder = SOURCE.parent / "benchmarks"
    names = sorted(path.stem for path in folder.glob("*.py"))
    assert "lanes" in names
    done = subprocess.run(
        [sys.executable, "-c", f"import {', '.join(names)}"],
        env={"PYTHONPATH": f"{SOURCE}{os.pathsep}{folder}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_task_of_ones_own_is_recorded_and_found_again(epvf: Epvf, tmp_path: Path) -> None:
    name = f"{EXAMPLES / 'own_task.py'}:make"
    options = ("--preset", "debug", "--method", "epvf", "--iterations", "2", "--out", "run")
    done = epvf("train", name, *options)
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["task"] | {"name": name, "backend": "numpy"} == config["task"]
    assert epvf("resume", "run", "--iterations", "3").returncode == 0
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["steps/update"] for line in lines] == [1, 2, 3]
    assert f"episodes of {name}" in epvf("eval", "run", "--episodes", "3").stdout
    assert epvf("plot", "run").returncode == 0
