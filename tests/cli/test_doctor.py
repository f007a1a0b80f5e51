"""`epvf doctor`: what is here and what could be."""

import json

from epvf.cli.doctor import alike
from epvf.cli.extras import EXTRAS
from epvf.cli.main import main
from epvf.tasks.adapters.cluster import Machine


def test_versions_engines_and_what_could_be_installed(capsys):
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "jax" in text and "native" in text and "compilation cache" in text
    assert main(["doctor", "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)
    assert findings["engines"]["native"].startswith("yes")
    assert findings["extras"].keys() == set(EXTRAS)


def test_machines_of_a_cluster_that_round_otherwise_are_named():
    here = Machine("a", "EPYC", 8, "0.2", "3.12.1")
    assert alike([here, here._replace(name="b", cpus=4)]) == "yes"
    unlike = [here, here._replace(cpu="Xeon"), here, here._replace(python="3.11.9")]
    assert alike(unlike) == (
        "no: CPU EPYC (3), Xeon (1); Python 3.12.1 (3), 3.11.9 (1); "
        "results depend on who computed them, in last digits"
    )


def test_bad_input(refused):
    refused(["doctor", "--x"], "unknown option --x")
    refused(["doctor", "x"], "unexpected argument 'x'; see epvf doctor --help")
