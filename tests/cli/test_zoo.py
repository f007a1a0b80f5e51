"""`epvf zoo`: policies of runs and files are kept, ranked, learned from, improved."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from epvf.analysis.trained_value import load_value
from epvf.cli.main import main
from epvf.cli.zoo import SUBCOMMANDS
from epvf.policies.formats.registry import load_policy
from epvf.policies.formats.safetensors import save_policy
from epvf.policies.mlp import Policy
from epvf.runs.metrics import read_metrics
from epvf.zoo.store import Origin, Rows, Zoo

FOREIGN = Path(__file__).resolve().parents[1] / "fixtures" / "foreign"


def _json(words, capsys):
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A run of V(θ) whose policies went into a zoo."""
    folder = tmp_path_factory.mktemp("kept")
    words = ["train", "cartpole", "--preset", "debug", "--out", str(folder / "run")]
    assert main([*words, "--zoo", str(folder / "zoo")]) == 0
    return folder


@pytest.mark.slow
def test_a_run_keeps_every_policy_with_its_return(kept):
    zoo, run = Zoo.open(kept / "zoo"), kept / "run"
    drawn = [entry for entry in zoo.entries() if entry.noise is not None]
    rows = zoo.rows(drawn)
    records = read_metrics(run / "metrics.jsonl")
    means = rows.returns.reshape(len(records), -1).mean(axis=1)
    np.testing.assert_allclose(means, [r["rollout/episode_return"] for r in records], rtol=1e-5)
    # the newest two populations are what V has in its buffer, weights and returns
    buffer = load_value(run).buffer()
    newest = np.argsort(buffer.thetas[:, 0]), np.argsort(rows.thetas[-64:, 0])
    np.testing.assert_allclose(
        buffer.thetas[newest[0]], rows.thetas[-64:][newest[1]], rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(buffer.returns[newest[0]], rows.returns[-64:][newest[1]])
    centres = zoo.rows([entry for entry in zoo.entries() if entry.noise is None])
    measured = [r["eval/episode_return"] for r in records if r["eval/episode_return"] is not None]
    np.testing.assert_allclose(centres.returns, measured, rtol=1e-5)
    (origin,) = {entry.origin._replace(update=0) for entry in zoo.entries()}
    assert (origin.task, origin.method, origin.seed) == ("cartpole", "epvf", 0)
    assert origin.source == str(run) and origin.episode_length == 500


@pytest.mark.slow
def test_a_run_that_goes_on_adds_what_is_new(kept, workplace):
    shutil.copytree(kept / "run", "run")
    shutil.copytree(kept / "zoo", "zoo")
    index, zoo = Path("zoo/index.jsonl"), Zoo.open(Path("zoo"))
    index.write_text(index.read_text().replace(f'"{kept / "run"}"', '"run"'))
    before = len(zoo.entries())
    # four of these iterations are done again, but do not come twice
    words = ["resume", "run", "--zoo", "zoo", "--no-report"]
    assert main([*words, "--checkpoint", "1", "--iterations", "7"]) == 0
    new, records = zoo.entries()[before:], read_metrics(Path("run/metrics.jsonl"))
    rows = zoo.rows([entry for entry in new if entry.noise is not None])
    means = rows.returns.reshape(-1, 32).mean(axis=1)
    told = [record["rollout/episode_return"] for record in records]
    np.testing.assert_allclose(means, told[-2:], rtol=1e-5)
    assert len(records) == 7 and {entry.origin.source for entry in zoo.entries()} == {"run"}


@pytest.mark.slow
def test_keeping_changes_nothing_of_a_run(kept, finished):
    ours, theirs = (read_metrics(run / "metrics.jsonl") for run in (kept / "run", finished))
    plain = [
        [{k: v for k, v in r.items() if "time/" not in k} for r in rs] for rs in (ours, theirs)
    ]
    assert plain[0] == plain[1]


@pytest.mark.slow
def test_runs_and_files_are_added_listed_and_ranked(finished, workplace, capsys):
    result = _json(["zoo", "add", "zoo", str(finished)], capsys)
    assert result["policies"] == 2 + 64
    words = ["zoo", "add", "zoo", str(FOREIGN / "sb3_dqn.zip"), "--task", "cartpole"]
    assert _json([*words, "--episodes", "3"], capsys)["policies"] == 1
    listed = _json(["zoo", "list", "zoo"], capsys)
    assert listed["policies"] == 67 and len(listed["entries"]) == 4
    assert listed["entries"][-1]["mean_return"] >= 8.0
    ours = ["--architecture", "4-8-2 tanh argmax"]
    ranked = _json(
        ["zoo", "rank", "zoo", "--value", str(finished), "--verify", "8", "--episodes", "2", *ours],
        capsys,
    )
    assert ranked["policies"] == 66 and ranked["verified"]["value"]["policies"] == 8
    assert set(ranked["stored_returns"]) == {"value", "neighbour", "ridge"}
    predicted = [one["predicted"] for one in ranked["ranking"]]
    assert predicted == sorted(predicted, reverse=True) and len(predicted) >= 10
    assert ranked["median_distance"] < 1.5
    assert main(["zoo", "rank", "zoo", "--value", str(finished), *ours]) == 0
    told = capsys.readouterr().out
    assert "rank correlation of value with returns in the zoo" in told and "not seen" not in told
    _made(Path("far"), [1.0, 9.0], hidden=8, scale=100.0)
    assert main(["zoo", "rank", "far", "--value", str(finished)]) == 0
    assert "V has not seen such policies: half of them lie more than" in capsys.readouterr().out


def _made(folder: Path, returns: list[float], hidden: int = 0, scale: float = 1.0) -> Zoo:
    """A zoo of policies of CartPole, whose first weights are their numbers, times a scale."""
    sizes = (4, hidden, 2) if hidden else (4, 2)
    zoo, policy = Zoo.create(folder), Policy(sizes, output="argmax")
    thetas = np.zeros((len(returns), policy.num_parameters), np.float32)
    thetas[:, 0] = scale * (1.0 + np.arange(len(returns)))
    nothing = np.full(len(returns), np.nan, np.float32)
    ones = np.ones(len(returns), np.int32)
    origin = Origin("cartpole", "native", episode_length=200, source="a", method="epvf", update=0)
    zoo.add(policy, Rows(thetas, np.array(returns, np.float32), nothing, ones), origin)
    return zoo


def test_a_zoo_a_shard_and_a_policy_are_shown(workplace, capsys):
    (entry,) = _made(Path("zoo"), [1.0, np.nan, 8.0, 3.0]).entries()
    (kind,) = _json(["zoo", "show", "zoo"], capsys)["kinds"]
    assert (kind["policies"], kind["shards"], kind["best_return"]) == (4, 1, 8.0)
    (shard,) = _json(["zoo", "show", "zoo", entry.shard[:6]], capsys)["shards"]
    assert shard["returns"] == {
        "known": 3, "mean": 4.0, "min": 1.0, "low": 2.0, "median": 3.0, "high": 5.5, "max": 8.0
    }  # fmt: skip
    assert (shard["lengths"], shard["episode_length"], shard["seed"]) == (None, 200, -1)
    assert main(["zoo", "show", "zoo", entry.shard[:6]]) == 0
    told = capsys.readouterr().out
    assert "quartiles 2, 3, 5.5 (3 known)" in told and "lengths         not known" in told
    for row, number in (("best", 2), ("3", 3)):
        words = ["zoo", "show", "zoo", entry.shard, "--row", row, "--out", f"{row}.safetensors"]
        assert _json(words, capsys)["row"] == number
        saved = load_policy(Path(f"{row}.safetensors"))
        assert saved.theta[0] == number + 1 and saved.task == "cartpole"
        assert saved.metadata["zoo_row"] == f"{number}" and saved.metadata["update"] == "0"
        assert "seed" not in saved.metadata


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nope"], "has no shard 'nope'"),
        (["ab"], "has no shard 'ab'"),
        (["--out", "p.safetensors"], "which policy?"),
        (["SHARD", "--row", "4", "--out", "p.safetensors"], "has rows 0 to 3"),
        (["SHARD", "--row", "-1", "--out", "p.safetensors"], "row is '-1'"),
        (["SHARD", "--out", "no/p.safetensors"], "there is no folder no"),
        (["SHARD", "--out", "zoo"], "zoo exists already"),
    ],
)
def test_what_cannot_be_shown(words, message, workplace, refused):
    (entry,) = _made(Path("zoo"), [1.0, 2.0, 3.0, 4.0]).entries()
    words = [entry.shard if word == "SHARD" else word for word in words]
    refused(["zoo", "show", "zoo", *words], message)


@pytest.mark.slow
def test_v_is_learned_from_a_zoo_and_climbed(kept, workplace, capsys):
    zoo, run = str(kept / "zoo"), str(kept / "run")
    words = ["zoo", "fit", zoo, "--members", "2", "--hidden-sizes", "8", "--epochs", "3"]
    result = _json([*words, "--out", "v.safetensors"], capsys)
    assert result["policies"] > 100 and "spearman" in result["held_out"]["value"]
    ranked = _json(["zoo", "rank", zoo, "--value", "v.safetensors", "--top", "1"], capsys)
    assert ranked["ranking"][0]["spread"] > 0.0 and ranked["units"] == "return"
    for method in ("value", "es"):
        words = ["zoo", "improve", run, "--value", "v.safetensors", "--budget", "128"]
        result = _json([*words, "--method", method, "--out", f"{method}.safetensors"], capsys)
        assert result["episodes"] <= 128
        assert Path(f"{method}.safetensors").exists() == result["better"]


@pytest.mark.slow
def test_zoos_are_merged(kept, workplace, capsys):
    assert _json(["zoo", "merge", "all", str(kept / "zoo")], capsys)["shards"] >= 2
    assert _json(["zoo", "merge", "all", str(kept / "zoo")], capsys)["shards"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("method", ["openes", "psvf", "ppo"])
def test_other_methods_keep_what_they_know(method, workplace):
    words = ["train", "cartpole", "--preset", "debug", "--method", method, "--out", "run"]
    assert main([*words, "--zoo", "zoo"]) == 0
    rows = Zoo.open(Path("zoo")).rows()
    records = read_metrics(Path("run/metrics.jsonl"))
    measured = [r["eval/episode_return"] for r in records if r["eval/episode_return"] is not None]
    centres = rows.returns[rows.episodes > 1]
    np.testing.assert_allclose(centres[: len(measured)], measured, rtol=1e-5)
    assert ((rows.episodes == 1).sum() > 0) == (method == "openes")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "epvf zoo needs a command"),
        (["list", "nowhere"], "is no zoo"),
        (["add", "zoo"], "which policies?"),
        (["add", "zoo", "no.safetensors"], "there is no policy file"),
        (["add", "zoo", str(FOREIGN / "sb3_dqn.zip")], "does not tell its task; give --task"),
        (["add", "zoo", "p.safetensors", "--task", "ant"], "is a policy of task 'cartpole'"),
        (["rank", "there"], "whose V?"),
        (["rank", "there", "--value", "p.safetensors"], "but V has 'epvf-value/1'"),
        (["rank", "there", "--value", "nowhere"], "cannot read V"),
        (["rank", "there", "--value", "p.safetensors", "--task", "x"], "has no such policies"),
        (["fit", "there"], "V needs 20"),
        (["fit", "there", "--members", "0"], "members is 0"),
        (["fit", "there", "--out", "no/v"], "there is no folder no"),
        (["improve", "p.safetensors"], "give either --value RUN|FILE or --zoo ZOO"),
        (
            ["improve", "p.safetensors", "--zoo", "there", "--out", "p.safetensors"],
            "exists already",
        ),
        (["improve", "q.safetensors", "--zoo", "there"], "has no policies 4-3-2 tanh argmax"),
        (["merge", "zoo", "nowhere"], "is no zoo"),
    ],
)
def test_bad_input(words, message, workplace, refused, capsys):
    for name, sizes in (("p", (4, 2)), ("q", (4, 3, 2))):
        policy = Policy(sizes, output="argmax")
        zeros = np.zeros(policy.num_parameters)
        save_policy(f"{name}.safetensors", policy, zeros, "cartpole", 1.0)
    assert main(["zoo", "add", "there", "p.safetensors"]) == 0
    capsys.readouterr()
    refused(["zoo", *words], message)


def test_a_zoo_that_is_damaged_is_not_taken_over_in_parts(workplace, refused, capsys):
    _made(Path("good"), [1.0, 2.0])
    (entry,) = _made(Path("bad"), [3.0]).entries()
    (Path("bad/shards") / entry.shard).write_bytes(b"other")
    refused(["zoo", "merge", "all", "good", "bad"], "it has changed")


def test_help_is_there_for_every_command(capsys):
    for words in ([], *([name] for name in SUBCOMMANDS)):
        assert main(["zoo", *words, "--help"]) == 0
        assert "usage: " + " ".join(["epvf", "zoo", *words]) in capsys.readouterr().out
