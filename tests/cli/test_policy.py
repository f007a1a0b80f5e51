"""`epvf policy`: policies for other programs, and those of other libraries."""

import json
from pathlib import Path

import numpy as np
import pytest

from epvf.cli.main import main
from epvf.policies.formats.registry import load_policy
from epvf.policies.formats.safetensors import save_policy
from epvf.policies.mlp import Policy

FOREIGN = Path(__file__).resolve().parents[1] / "fixtures" / "foreign"


@pytest.fixture
def policy(workplace):
    kind = Policy((34, 8, 8))
    theta = np.random.default_rng(0).normal(size=kind.num_parameters).astype(np.float32)
    save_policy("walk.safetensors", kind, theta, "ant", 1.5, {"seed": 3})
    return Path("walk.safetensors")


@pytest.mark.parametrize(("form", "files"), [("npz", 1), ("json", 1), ("c", 2)])
def test_a_policy_is_exported_with_what_it_reads_and_does(form, files, policy, capsys):
    assert main(["policy", "export", str(policy), "--format", form, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert len(result["files"]) == files
    file = Path(result["files"][-1])
    text = str(load_policy(file).metadata) if form == "npz" else file.read_text()
    for told in ("torso height (m)", "hip_4, ankle_4", "0.01", "raw observations", "1 1 1 1"):
        assert told in text


def test_the_file_says_the_format_where_nobody_else_does(policy, capsys):
    assert main(["policy", "export", str(policy), "--out", "x.json"]) == 0
    assert "34-8-8 tanh clip, ant: x.json" in capsys.readouterr().out
    assert load_policy("x.json").metadata["seed"] == "3"


def test_a_policy_of_another_library_is_imported_and_played(workplace, capsys):
    file = FOREIGN / "sb3_dqn.zip"
    words = ["policy", "import", str(file), "--task", "cartpole", "--out", "p.safetensors"]
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["architecture"] == "4-8-6-2 relu argmax"
    assert main(["eval", "p.safetensors", "--episodes", "3"]) == 0
    assert "episodes of cartpole" in capsys.readouterr().out
    assert main(["policy", "info", "p.safetensors"]) == 0
    assert "origin: stable-baselines3 dqn" in capsys.readouterr().out


def test_a_foreign_file_is_played_as_it_is_where_the_task_is_told(workplace, refused, capsys):
    file = str(FOREIGN / "sb3_ppo_discrete.zip")
    assert main(["eval", file, "--task", "cartpole", "--episodes", "2"]) == 0
    assert "over 2 episodes of cartpole" in capsys.readouterr().out
    refused(["eval", file], "does not tell its task; give --task")


@pytest.mark.slow
def test_training_starts_from_it(workplace):
    file = FOREIGN / "sb3_dqn.zip"
    sizes = ["--policy.hidden-sizes", "8", "6", "--policy.activation", "relu"]
    words = ["train", "cartpole", "--preset", "debug", "--iterations", "1", "--init", str(file)]
    assert main([*words, *sizes, "--out", "run"]) == 0
    first = load_policy("run/policies/init.safetensors")
    np.testing.assert_array_equal(first.theta, load_policy(file).theta)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "epvf policy needs a command: export, import, info"),
        (["exprt"], "did you mean 'export'?"),
        (["export", "walk.safetensors"], "which format? --format"),
        (["export", "walk.safetensors", "--format", "xml"], "unknown policy format to write 'xml'"),
        (["export", "walk.safetensors", "--out", "no/x.npz"], "there is no folder no"),
        (["export", "walk.safetensors", "--out", "walk.safetensors"], "unknown policy format"),
        (["export", "none.safetensors", "--format", "c"], "there is no policy file"),
        (["export", "walk.safetensors", "--out", "a-b.c"], "makes no name in C"),
        (["import", "walk.safetensors"], "unknown format of another library's policy"),
        (["import", str(FOREIGN / "rsl_rl.pt")], "does not tell its activation"),
        (["import", str(FOREIGN / "sb3_dqn.zip"), "--task", "ant"], "does not fit task 'ant'"),
        (["import", str(FOREIGN / "sb3_dqn.zip"), "--task", "an"], "unknown task 'an'"),
        (["import", str(FOREIGN / "sb3_dqn.zip"), "--out", "walk.safetensors"], "exists already"),
        (["info", "."], "is no run"),
    ],
)
def test_bad_input(words, message, policy, refused):
    refused(["policy", *words], message)


def test_help_names_the_commands(capsys):
    assert main(["policy", "--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name}" in out for name in ("export", "import", "info"))
