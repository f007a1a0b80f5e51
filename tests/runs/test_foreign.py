"""Folders that come from anybody: links, pipes, code, control characters, dead processes."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from epvf.cli.main import main
from epvf.config.presets import preset
from epvf.config.schema import Config
from epvf.errors import UserError
from epvf.files import write_atomically
from epvf.policies.formats.registry import load_policy
from epvf.policies.formats.safetensors import save_policy
from epvf.policies.mlp import Policy
from epvf.runs.folder import OWN, Run, current_info, read_config, read_info
from epvf.runs.listing import latest, listed
from epvf.runs.metrics import read_metrics, truncate
from epvf.runtime import processes


@pytest.fixture
def run(workplace):
    """A run that has just been made."""
    made = Run.create(Path("run"), preset("cartpole", "debug"), ["epvf", "train"])
    made.metrics_file.write_text('{"steps/update": 1, "steps/env": 5}\n')
    made.ended("interrupted")
    made.close()
    return made.path


@pytest.fixture
def precious(workplace):
    path = workplace / "precious"
    path.mkdir()
    (path / "file").write_text("all that I have\n")
    yield path
    assert [p.name for p in path.iterdir()] == ["file"]
    assert (path / "file").read_text() == "all that I have\n"


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("target", ["precious", "precious/file", "precious/new"])
def test_no_link_in_a_run_is_followed(name, target, run, precious, capsys):
    path = run / name
    if name == "run.json" and target != "precious/file":
        pytest.skip("then it is no run")
    if path.exists():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    path.symlink_to(Path("..") / target)
    for words in (["resume", "run"], ["eval", "run"], ["plot", "run"], ["diagnose", "run"]):
        assert main(words) == 2
        assert f"run/{name} is a link, which is never followed" in capsys.readouterr().err
    with pytest.raises(UserError, match="link"):
        Run.open(run)


def test_a_link_deep_inside_is_none_either(run, precious):
    inner = run / "checkpoints" / "000000000001" / "state"
    inner.mkdir(parents=True)
    (inner / "d").symlink_to(precious)
    with pytest.raises(UserError, match="checkpoints/000000000001/state/d is a link"):
        read_info(run)


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "tb", ".lock"])
def test_a_pipe_is_not_waited_for(name, run):
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    with pytest.raises(UserError, match=f"run/{name} is neither a file nor a folder"):
        read_info(run)


def test_a_run_that_is_a_link_itself_is_one(run, workplace):
    Path("other").symlink_to(run, target_is_directory=True)
    assert read_config(Path("other")) == preset("cartpole", "debug")


def test_a_temporary_file_is_always_a_new_one(tmp_path, precious, monkeypatch):
    monkeypatch.setattr("secrets.token_hex", lambda count: "0")
    (tmp_path / ".file.0.tmp").symlink_to(precious / "file")
    with pytest.raises(FileExistsError):
        write_atomically(tmp_path / "file", b"new")
    (tmp_path / "other").symlink_to(precious / "file")
    write_atomically(tmp_path / "other", b"new")
    assert not (tmp_path / "other").is_symlink()


def test_code_that_came_with_a_run_is_not_run(run, capsys):
    config = json.loads((run / "config.json").read_text())
    for name, told in (
        ("run/make.py:make", "code in the run's own folder, which is not run"),
        ("os:abort", "module 'os' is Python's own"),
    ):
        config["task"]["name"] = name
        (run / "config.json").write_text(json.dumps(config))
        (run / "make.py").write_text("raise SystemExit('ran')\n")
        assert main(["resume", "run"]) == 2
        assert told in capsys.readouterr().err


def test_no_control_character_reaches_the_terminal(workplace, capsys):
    ugly = "\x1b]0;title\x07\x1b[2J\u202e"
    assert main(["eval", f"{ugly}.safetensors"]) == 2
    assert main([ugly]) == 2
    assert main(["train", "cartpole", f"--{ugly}", "1"]) == 2
    policy = Policy((4, 2), "tanh", "argmax")
    save_policy("p.safetensors", policy, np.zeros(10), "cartpole", 1.0, {"note": ugly})
    assert main(["eval", "p.safetensors", "--episodes", "1"]) == 0
    out, err = capsys.readouterr()
    assert (out + err).replace("\n", "").isprintable()


# --- policies


def test_equal_policies_are_equal_files(tmp_path):
    policy, theta = Policy((4, 3, 2), "elu", "clip"), np.arange(23, dtype=np.float32)
    extra = {f"name{i}": i for i in range(20)}
    for name, told in (("a", extra), ("b", dict(reversed(extra.items())))):
        save_policy(tmp_path / name, policy, theta, "cartpole", 1.5, told)
    content = (tmp_path / "a").read_bytes()
    assert content == (tmp_path / "b").read_bytes()
    assert (8 + int.from_bytes(content[:8], "little")) % 8 == 0
    np.testing.assert_array_equal(load_policy(tmp_path / "a").theta, theta)


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        ({"seed": "x"}, "seed is 'x', but must be a number"),
        ({"episode_length": "-1"}, "episode_length is '-1'"),
        ({"episode_length": "1" * 400}, "episode_length is '1111"),
        ({"update": "٣"}, "update is"),
        ({"note": "x" * 2000}, "'note' is 2000 characters long"),
    ],
)
def test_metadata_is_checked(extra, told, tmp_path):
    save_policy(tmp_path / "p", Policy((4, 2)), np.zeros(10), "cartpole", 1.0, extra)
    with pytest.raises(UserError, match=told):
        load_policy(tmp_path / "p")


def test_weights_are_numbers(tmp_path):
    theta = np.zeros(10)
    theta[3] = np.nan
    save_policy(tmp_path / "p", Policy((4, 2)), theta, "cartpole", 1.0)
    with pytest.raises(UserError, match="layer0 holds a number that is not finite"):
        load_policy(tmp_path / "p")


# --- metrics


@pytest.mark.parametrize(
    "line",
    [
        *("", "{", "[1]", "null", '{"x": 1}', '{"steps/update": 1.5}', '{"steps/update": true}'),
        *('{"steps/update": 0}', '{"steps/update": 1}', '{"steps/update": 3, "x": "y"}'),
        *(
            '{"steps/update": 3, "x": NaN}',
            '{"steps/update": 3, "x": 1e999}',
            '{"steps/update": 3, ',
        ),
        *('{"steps/update": 3, "x": []}', '{"steps/update": 3, "steps/env": -1}', "[" * 100_000),
        '{"steps/update": 3, "x": ' + "9" * 5000 + "}",
    ],
)
def test_a_broken_line_is_refused_by_its_number_and_nothing_is_lost(line, tmp_path):
    path = tmp_path / "metrics.jsonl"
    content = f'{{"steps/update": 1}}\n{{"steps/update": 2}}\n{line}\n{{"steps/update": 4}}\n'
    path.write_text(content)
    for read in (read_metrics, lambda file: truncate(file, 1)):
        with pytest.raises(UserError, match=r"line 3 of .*metrics.jsonl is broken"):
            read(path)
    assert path.read_text() == content
    path.write_text(content.rpartition('{"steps/update": 4}')[0])
    assert [record["steps/update"] for record in read_metrics(path)] == [1, 2]


# --- the status


def test_a_run_whose_process_is_gone_is_not_running(run):
    info = json.loads((run / "run.json").read_text()) | {"status": "running"}
    (run / "run.json").write_text(json.dumps(info))
    assert current_info(run)["status"] == "interrupted"
    again = json.loads((run / "run.json").read_text())
    assert (again["status"], again["message"]) == ("interrupted", "its process was gone")


def test_a_run_that_a_process_has_is_running(run):
    info = json.loads((run / "run.json").read_text()) | {"status": "running"}
    (run / "run.json").write_text(json.dumps(info))
    with (run / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert current_info(run)["status"] == "running"


def test_where_locks_do_nothing_processes_are_told_apart_by_number(run, monkeypatch):
    monkeypatch.setattr("fcntl.flock", lambda handle, operation: None)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    since = processes._since(child.pid)
    there = processes.identity() | {"pid": child.pid, "since": since}
    info = json.loads((run / "run.json").read_text()) | {"status": "running", "process": there}
    (run / "run.json").write_text(json.dumps(info))
    with child:
        assert current_info(run)["status"] == "running"
        with pytest.raises(UserError, match="in use by another process"):
            Run.open(run)
        child.kill()
    assert current_info(run)["status"] == "interrupted"
    Run.open(run).close()


def test_a_refused_resumption_leaves_everything_as_it_was(run, capsys):
    (run / "metrics.jsonl").write_text('{\n{"steps/update": 1}\n')
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert main(["resume", "run"]) == 2
    assert "line 1 of" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_session_that_says_nothing_is_noted_when_the_run_is_closed(workplace):
    with pytest.raises(ZeroDivisionError):
        made = Run.create(Path("run"), Config(), [])
        try:
            raise ZeroDivisionError("oh")
        finally:
            made.close()
    info = read_info(Path("run"))
    assert (info["status"], info["message"]) == ("failed", "oh")


# --- folders half made


def test_a_kill_while_a_folder_is_made_leaves_what_train_takes_and_resume_explains(
    workplace, monkeypatch, capsys
):
    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    monkeypatch.setattr("epvf.runs.folder._session", killed)
    with pytest.raises(Killed):
        Run.create(Path("run"), Config(), [])
    monkeypatch.undo()
    (workplace / "run" / ".run.json.0123.tmp").touch()
    monkeypatch.chdir(workplace)
    assert sorted(os.listdir("run")) == [
        *(".lock", ".run.json.0123.tmp", "checkpoints", "config.json", "policies")
    ]
    assert main(["resume", "run"]) == 2
    assert "it was ended while it was made; start it again" in capsys.readouterr().err
    Run.create(Path("run"), Config(), []).close()
    assert read_config(Path("run")) == Config()


def test_what_only_looks_half_made_is_left_alone(workplace):
    Path("mine").mkdir()
    Path("mine/config.json").write_text("{}")
    with pytest.raises(UserError, match="exists already"):
        Run.create(Path("mine"), Config(), [])


def test_a_run_without_its_run_json_is_not_made_anew(run):
    (run / "run.json").unlink()
    for make in (Run.create, Run.remake):
        with pytest.raises(UserError, match=r"exists already|has no run\.json, but metrics"):
            make(run, Config(), [])
    assert (run / "metrics.jsonl").exists()


# --- lists


def test_runs_are_listed_the_newest_first_and_the_latest_is_known(workplace, capsys):
    with pytest.raises(UserError, match="there is no run in runs/"):
        latest()
    for number in (1, 2):
        made = Run.create(Path("runs/cartpole") / str(number), Config(), [])
        made.metrics_file.write_text(
            '{"steps/update": 7, "steps/env": 70, "eval/episode_return": 9.5}\n'
        )
        made.ended("finished" if number == 1 else "failed")
        made.close()
        os.utime(made.info_file, (number, number))
    Path("runs/broken").mkdir()
    Path("runs/broken/run.json").write_text("{")
    found = listed(Path("runs"))
    assert [run.path.name for run in found if run.problem is None] in (["1", "2"], ["2", "1"])
    assert found[-1].problem is not None
    one = next(run for run in found if run.path.name == "1")
    assert (one.status, one.task, one.iterations, one.of, one.env_steps, one.best) == (
        *("finished", "cartpole", 7, 488, 70, 9.5),
    )
    assert latest() == Path("runs/cartpole/2")
    assert main(["runs"]) == 0
    out = capsys.readouterr().out
    assert "runs/cartpole/1" in out and "7/488" in out and "cannot be read" in out
    assert main(["runs", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["runs"]) == 3
    assert main(["eval", "latest"]) == 2
    assert "runs/cartpole/2/policies/best.safetensors" in capsys.readouterr().err
