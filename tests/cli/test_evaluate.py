"""`epvf eval`: a policy's return over many episodes."""

import json

import numpy as np
import pytest

from epvf.cli.main import main
from epvf.policies.formats.safetensors import save_policy
from epvf.policies.mlp import Policy


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "there is no policy file nowhere"),
        (["."], ". is no run"),
        ([__file__], "cannot read policy"),
        (["x", "--command", "fast"], "command must be a number, not 'fast'"),
        (["x", "--episodes", "many"], "episodes must be of type int, not 'many'"),
        (["x", "--policy", "worst"], "unknown value for policy: 'worst'; valid: best, last"),
    ],
)
def test_bad_input(words, message, refused):
    refused(["eval", *words], message)


@pytest.mark.parametrize("sizes", [(3, 2), (4, 3)])
def test_a_policy_that_does_not_fit_its_task_is_refused(sizes, workplace, refused):
    policy = Policy(sizes, output="argmax")
    save_policy("p.safetensors", policy, np.zeros(policy.num_parameters), "cartpole", 1.0)
    for backend in ("auto", "jax"):
        refused(["eval", "p.safetensors", "--backend", backend], "does not fit task 'cartpole'")


def test_a_command_of_a_task_that_takes_none_is_refused(finished, refused):
    refused(["eval", str(finished), "--command", "1"], "task 'cartpole' takes no command")


def test_a_seed_that_is_none_is_refused(finished, refused):
    message = "seed is -1; it must be at least 0 and at most 2147483647\n"
    refused(["eval", str(finished), "--seed", "-1"], message)


def test_gymnasiums_own_environment_is_played(finished, capsys):
    assert main(["eval", str(finished), "--episodes", "7", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["engine"], result["episodes"]) == ("Gymnasium CartPole-v1", 7)
    low, mean, high = (result[f"episode_return{end}"] for end in ("_min", "", "_max"))
    assert 8 <= low <= mean <= high <= 500 and mean == result["episode_length"]


def test_an_engine_agrees_with_gymnasium(finished, capsys):
    policy = str(finished / "policies" / "last.safetensors")
    results = []
    for backend in ("auto", "jax"):
        assert main(["eval", policy, "--episodes", "64", "--backend", backend, "--json"]) == 0
        results.append(json.loads(capsys.readouterr().out))
    assert results[1]["engine"] == "jax"
    error = 4 * max(r["episode_return_std"] for r in results) / 8 + 0.5
    assert abs(results[0]["episode_return"] - results[1]["episode_return"]) < error
