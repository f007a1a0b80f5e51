"""`epvf doctor`: what is here and what could be."""

import json

from epvf.cli.main import main


def test_versions_engines_and_what_could_be_installed(capsys):
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "jax" in text and "native" in text and "compilation cache" in text
    assert main(["doctor", "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)
    assert findings["engines"]["native"].startswith("yes")
    assert findings["extras"].keys() == {
        "mjx",
        "warp",
        "baselines",
        "sweep",
        "slurm",
        "ray",
        "video",
    }


def test_bad_input(refused):
    refused(["doctor", "--x"], "unknown option --x")
    refused(["doctor", "x"], "unexpected argument 'x'; see epvf doctor --help")
