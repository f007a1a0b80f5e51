"""Sweeps: what is asked for, what is kept, and that one failure does not end the others."""

import csv
import json
import subprocess
from typing import Any

import numpy as np
import pytest

from epvf.bench import scaling as sweep
from epvf.bench.scaling import Row, Sweep
from epvf.cli.main import main
from epvf.errors import UserError

SIZES = Sweep("num_envs", (8, 16, 32))


def _row(num_envs: int) -> Row:
    return {
        "task": "cartpole",
        "backend": "jax",
        "device": "a processor",
        "num_envs": num_envs,
        "env_steps": 100 * num_envs,
        "repeats": 3,
        "steps_per_second": 1e6 * num_envs,
        "bare_steps_per_second": 2e6 * num_envs,
        "ratio": 0.5,
        "rollout_compile_seconds": 1.25,
        "peak_memory_bytes": None,
        "peak_device_bytes": 3_000_000,
        "theta_bytes": 40 * num_envs,
        "roofline": {"bound_steps_per_second": 4e6 * num_envs, "bound_by": "bytes"},
        "rollout_ms": 100.0,
        "value_ms": 2.0,
        "policy_ms": 0.5,
        "learner_bytes": 0,
        "preset": "tuned",
        "iteration_ms": 3.0,
    }


def _measure(num_envs: int) -> Row:
    """All but the largest fit."""
    return _row(num_envs) if num_envs < 32 else {"num_envs": num_envs, "error": "too large"}


@pytest.fixture
def rows():
    """What a sweep gave whose largest size did not fit."""
    return sweep.run(SIZES, _measure, lambda line: None)


def test_values_are_measured_once_each_in_ascending_order() -> None:
    assert sweep.parse("num-envs=32, 8,16,8") == SIZES


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("512,1024", "write it as num_envs=512,1024,4096"),
        ("num_env=512", "did you mean 'num_envs'"),
        ("num_envs=", "must list whole numbers"),
        ("num_envs=1,2.5", "must list whole numbers"),
        ("num_envs=0,4", "num_envs is 0"),
    ],
)
def test_a_bad_sweep_is_one_line(text: str, message: str, workplace, capsys) -> None:
    assert main(["bench", "cartpole", "--sweep", text, "--out", "out"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err
    assert list(workplace.iterdir()) == []


def test_a_folder_without_a_sweep_is_refused(workplace, capsys) -> None:
    assert main(["bench", "cartpole", "--out", "out"]) == 2
    assert "--out goes with --sweep" in capsys.readouterr().err


def test_a_size_that_fails_is_told_and_the_others_stay(rows) -> None:
    assert [row.get("error") for row in rows] == [None, None, "too large"]
    lines = sweep.table(SIZES, rows).splitlines()
    assert lines[0].split()[:2] == ["num_envs", "steps/s"]
    assert "device MB" in lines[0] and "host MB" not in lines[0]
    assert lines[1].split()[:2] == ["8", "8,000,000"]
    assert lines[3].split() == ["32", "too", "large"]


def test_each_outcome_is_told_when_it_is_there() -> None:
    told: list[str] = []
    sweep.run(SIZES, _measure, told.append)
    assert told[0] == "num_envs 8: 8,000,000 env steps/s" and told[2] == "num_envs 32: too large"


def test_a_sweep_of_failures_fails_with_the_first() -> None:
    with pytest.raises(UserError, match="nothing of 8"):
        sweep.run(SIZES, lambda n: {"num_envs": n, "error": f"nothing of {n}"}, lambda line: None)


def test_everything_is_kept_in_files(rows, tmp_path) -> None:
    files = sweep.write(tmp_path / "out", SIZES, rows)
    assert [file.name for file in files] == [
        "results.json", "results.csv", "scaling.png", "scaling.pdf"
    ]  # fmt: skip
    assert all(file.stat().st_size > 0 for file in files)
    assert json.loads(files[0].read_text()) == {"sweep": "num_envs", "results": rows}
    with files[1].open() as file:
        table = list(csv.DictReader(file))
    assert [row["num_envs"] for row in table] == ["8", "16", "32"]
    assert float(table[1]["roofline.bound_steps_per_second"]) == 64e6
    assert table[0]["error"] == "" and table[2]["error"] == "too large"


def test_the_figure_shows_what_is_known(rows) -> None:
    speed, cost, memory = sweep.draw(SIZES, rows).axes
    assert [line.get_label() for line in speed.lines] == [
        "closed loop", "bare stepping", "roofline"
    ]  # fmt: skip
    assert np.asarray(speed.lines[0].get_xdata()).tolist() == [8, 16]
    assert len(cost.lines) == 3
    assert [line.get_label() for line in memory.lines] == ["populations Θ", "device, peak"]


def _finished(monkeypatch, code: int, out: str = "", err: str = "") -> None:
    def finish(command: Any, **_: Any) -> Any:
        return subprocess.CompletedProcess(command, code, out, err)

    monkeypatch.setattr(subprocess, "run", finish)


def test_what_a_process_says_is_kept(monkeypatch) -> None:
    measure = sweep.measure_apart(["cartpole"], "num_envs")
    _finished(monkeypatch, 0, out='a remark\n{"num_envs": 8}\n')
    assert measure(8) == {"num_envs": 8}
    _finished(monkeypatch, 1, err="a remark\nepvf: error: does not fit\n")
    assert measure(8) == {"num_envs": 8, "error": "does not fit"}
    _finished(monkeypatch, 1, err="Traceback:\n  raise\nOverflowError: too large\n---\nremark\n")
    assert measure(8)["error"] == "OverflowError: too large"
    _finished(monkeypatch, -9)
    assert "signal 9" in measure(8)["error"] and "memory" in measure(8)["error"]
    _finished(monkeypatch, 130)
    with pytest.raises(KeyboardInterrupt):
        measure(8)


@pytest.mark.slow
def test_a_sweep_from_the_command_line(workplace, capsys) -> None:
    # a billion policies of this size are terabytes
    sizes = "num_envs=8,1000000000"
    options = ["--sweep", sizes, "--repeats", "1", "--out", "out", "--json"]
    assert main(["bench", "ant", "--backend", "native", "--preset", "debug", *options]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    first, second = result["results"]
    assert first["num_envs"] == 8 and first["steps_per_second"] > 0 and first["value_ms"] > 0
    assert second["error"].startswith("num_envs 1000000000 needs at least")
    assert len(err.splitlines()) == 2
    assert {path.name for path in (workplace / "out").iterdir()} == {
        "results.json", "results.csv", "scaling.png", "scaling.pdf"
    }  # fmt: skip
