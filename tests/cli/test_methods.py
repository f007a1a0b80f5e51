"""`epvf methods`: what can learn, and what cannot be loaded."""

import json
import os

import pytest

from epvf.cli.main import main
from epvf.methods.registry import METHODS


def test_methods_are_listed_with_what_they_need(capsys):
    assert main(["methods"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["method", "from", "needs", "what", "it", "is"]
    assert [line.split()[0] for line in lines] == list(METHODS.names())
    assert main(["methods", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    found = {method["name"]: method for method in result["methods"]}
    assert found["epvf"]["needs"] is None and found["epvf"]["installed"]
    assert found["ppo"]["needs"] == "baselines" and not found["ppo"]["resumable"]
    assert {method["origin"] for method in found.values()} == {"epvf"}
    assert result["broken"] == {}


def test_a_missing_extra_is_told(capsys, monkeypatch):
    monkeypatch.setattr("epvf.cli.extras.has", lambda module: module != "evosax")
    assert main(["methods"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert 'pip install "epvf[baselines]"' in lines["openes"]
    assert "pip install" not in lines["psvf"]


@pytest.fixture
def broken(epvf, monkeypatch):
    """The command line where another package offers one method that works and one that does not."""
    info = epvf.folder / "others-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    points = "[epvf.methods]\nclimber = climbing:METHOD\nfaller = falling:METHOD\n"
    (info / "entry_points.txt").write_text(points)
    (epvf.folder / "climbing.py").write_text(
        "from dataclasses import dataclass, field\n"
        "from epvf.methods.controls import RIDGE\n"
        "@dataclass(frozen=True)\n"
        "class Settings:\n"
        "    name: str = 'climber'\n"
        "    slope: float = 2.0\n"
        "METHOD = RIDGE._replace(settings=Settings, summary='uphill', needs='crampons',\n"
        "                        check=lambda config: None)\n"
    )
    (epvf.folder / "falling.py").write_text("raise RuntimeError('no\\nground')")
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(epvf.folder), before]))
    return epvf


def test_methods_of_other_packages_and_what_is_wrong_with_them(broken):
    done = broken("methods")
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    assert lines[-1].split() == ["climber", "others", "crampons", "uphill"]
    assert last == (
        "cannot be used: method 'faller' of package 'others': cannot import 'falling': "
        "RuntimeError: no"
    )


def test_a_broken_method_takes_no_option_down(broken):
    done = broken("train", "cartpole", "--climber.slope", "3")
    assert done.stderr == (
        "epvf: error: method 'epvf' does not read --climber.slope; 'climber' does: "
        "--method climber\n"
    )
    done = broken("train", "cartpole", "--method", "faller")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "method 'faller' of package 'others': cannot import 'falling'" in done.stderr
