"""`epvf tasks`: what can be solved."""

import json
import os

from epvf.cli.main import main


def test_tasks_are_listed_with_their_engines(capsys):
    assert main(["tasks"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["task", "from", "engines"]
    assert lines[0].split() == ["cartpole", "epvf", "jax,", "lanes"]
    assert (
        lines[1].startswith("ant ")
        and "native, mjx (mjx: installed), lanes (mjx: installed), warp (" in lines[1]
    )
    rows = [line.split(maxsplit=2) for line in lines]
    assert ["gymnasium:ID", "gymnasium", "such as gymnasium:Pendulum-v1"] in rows
    (gymnax,) = (row for row in rows if row[0] == "gymnax:ID")
    assert gymnax[2] in (
        "such as gymnax:Acrobot-v1 (gymnax: installed)",
        'such as gymnax:Acrobot-v1 (pip install "epvf[gymnax]")',
    )
    assert main(["tasks", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    ant = next(task for task in result["tasks"] if task["name"] == "ant")
    assert [engine["name"] for engine in ant["engines"]] == ["native", "mjx", "lanes", "warp"]
    assert result["broken"] == {}
    assert [library["prefix"] for library in result["libraries"]] == [
        *("gymnasium", "gymnax", "brax", "playground")
    ]


def test_a_task_of_another_package_that_cannot_be_loaded_is_named(epvf, monkeypatch):
    info = epvf.folder / "others-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[epvf.tasks]\nmoon = lunar:TASK\n")
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(epvf.folder), before]))
    done = epvf("tasks")
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    assert not any(line.startswith("moon") for line in lines)
    assert last.startswith("cannot be used: task 'moon' of package 'others': cannot import 'lunar'")
