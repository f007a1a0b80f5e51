"""`epvf train`: its options are those that the run reads, and what it leaves behind."""

import json
from pathlib import Path

import numpy as np
import pytest

from epvf.cli.main import main
from epvf.cli.train import understood
from epvf.config.presets import preset
from epvf.config.schema import load, readable, replace
from epvf.config.variants import vary
from epvf.errors import UserError
from epvf.policies.formats.registry import load_policy
from epvf.policies.formats.safetensors import save_policy
from epvf.runs.folder import OWN
from probes import KEYS, needs_brax

DEBUG = ("train", "cartpole", "--preset", "debug")


def _config(words):
    return understood(words.split())[1]


def _records(run):
    return [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]


def _untimed(run):
    return [{k: v for k, v in r.items() if not k.startswith("time/")} for r in _records(run)]


# --- options


BAD = [
    ("", "which task? epvf train TASK; see epvf tasks"),
    ("cartpol", "unknown task 'cartpol' (did you mean 'cartpole'?)"),
    ("cartpole ant", "unexpected argument 'ant'; see epvf train --help"),
    ("cartpole --preset fast", "unknown preset 'fast'; valid: paper, tuned, debug"),
    ("cartpole --foo 3", "unknown option --foo (did you mean --zoo?); see epvf train --help"),
    ("ant --perturbation.scal 3", "did you mean --perturbation.scale?"),
    ("cartpole --noise gaussian", "unknown option --noise (did you mean --perturbation.noise?)"),
    ("ant --task.name cartpole", "unknown option --task.name"),
    ("ant --seed", "option --seed needs a value"),
    ("ant --num-envs x", "num_envs must be of type int, not 'x'"),
    ("ant --num-envs 2.5", "num_envs must be of type int, not 2.5"),
    ("ant --num-envs -4", "num_envs is -4"),
    ("ant --seed -1", "seed is -1; it must be finite and at least 0"),
    ("ant --seed none", "seed must be of type int, not None"),
    ("ant --perturbation.scale nan", "perturbation.scale is nan"),
    ("ant --perturbation.noise pink", "valid: scaled_uniform, gaussian"),
    ("ant --policy.hidden-sizes 64 x", "policy.hidden_sizes must be of type"),
    ("ant --policy.output argmax", "does not fit the continuous actions"),
    ("cartpole --policy.output clip", "does not fit the discrete actions"),
    ("ant --psvf.discount 1.5", "psvf.discount is 1.5; it must be"),
    ("cartpole --buffer.size -1", "buffer.size is -1"),
    ("cartpole --value-update.batch-size 9999999", "larger than buffer.size"),
    ("cartpole --value.condition state", "valid: policy, policy+state"),
    ("cartpole --value.layer-norm yes", "unexpected argument 'yes'"),
    ("ant --backend cuda", "unknown backend of task 'ant'"),
    ("cartpole --backend native", "valid: auto, jax"),
    ("ant --backend native --task.backend mjx", "say the same"),
    ("ant --config none.yaml", "cannot read config none.yaml: No such file"),
    ("ant --variant no-clip", "unknown variant 'no-clip' (did you mean"),
    ("cartpole --variant clip-perturbations", "weight_clip, but that is none"),
    ("ant --variant no-weight-clip", "--variant changes what method 'epvf' reads, not 'psvf'"),
    ("ant --method psf", "unknown method 'psf' (did you mean 'psvf'?)"),
    ("ant --init nowhere", "there is no policy file nowhere"),
    # no option chooses the method
    (
        "ant --value.hidden-sizes 32 32",
        "method 'psvf' does not read --value.hidden-sizes; 'epvf' does: --method epvf",
    ),
    (
        "ant --method ppo --psvf.noise 9",
        "method 'ppo' does not read --psvf.noise; 'psvf' does: --method psvf",
    ),
    ("cartpole --evolution.std=1", "'openes', 'pgpe', 'ars', 'cmaes', 'sepcmaes' do: --method"),
    ("cartpole --method ppo --num-seeds 2", "method 'ppo' does not read --num-seeds; 'epvf'"),
    ("cartpole --method sac --sac.no-normalize-observation", "unknown option"),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=[words for words, _ in BAD])
def test_bad_input_is_one_clear_line_and_leaves_nothing_behind(words, message, refused):
    refused(["train", *words.split()], message)


def test_options_reach_the_configuration_over_preset_and_file(workplace):
    Path("some.yaml").write_text("seed: 3\nperturbation: {scale: 0.25, floor: 0.5}")
    config = _config(
        "cartpole --preset debug --config some.yaml --num_envs 8 --policy.hidden-sizes 4 3 "
        "--perturbation.floor=0.125 --env-steps 25e6 --value.layer-norm --perturbation.clip 2 "
        "--checkpoint.every-minutes none --value-update.batch_size 8 --value.hidden-sizes none "
        "--backend jax"
    )
    assert (config.seed, config.num_envs, config.env_steps) == (3, 8, 25_000_000)
    assert config.policy.hidden_sizes == (4, 3)
    assert config.method.value.layer_norm and config.method.value.hidden_sizes == ()
    noise = config.method.perturbation
    assert (noise.scale, noise.floor, noise.clip) == (0.25, 0.125, 2.0)
    assert config.checkpoint.every_minutes is None
    assert config.task.backend == "jax"


def test_env_steps_without_iterations_decide_alone(workplace):
    assert _config("ant --env-steps 1e9").iterations * preset("ant").num_envs * 32 >= 10**9
    assert _config("ant --env-steps 1e9 --iterations 7").iterations == 7
    # also where they are as many as the preset has
    known = preset("ant").iterations
    assert _config(f"ant --env-steps 1e9 --iterations {known}").iterations == known
    Path("some.yaml").write_text("env_steps: 5")
    assert _config("ant --config some.yaml --env-steps none").env_steps is None
    assert _config("ant --env-steps 1e9 --iterations 7").schedule_iterations == (
        preset("ant").schedule_iterations
    )


def test_task_may_stand_anywhere():
    for words in (
        "--seed 3 --value.layer-norm --preset debug cartpole",
        "--preset=debug --seed 3 cartpole --value.layer-norm",
    ):
        wanted = replace(preset("cartpole", "debug"), {"seed": 3, "value.layer_norm": True})
        assert _config(words) == wanted


@pytest.mark.parametrize("method", ["epvf", "psvf", "openes", "ppo"])
def test_options_that_say_what_is_so_already_change_nothing(method):
    config = preset("ant", "tuned", method)
    words = ["ant", "--method", method]
    for name, leaf in readable(config).items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(leaf.value, bool):
            group, _, last = flag.rpartition(".")
            words.append(flag if leaf.value else f"{group}.no-{last}")
        elif name != "task.name":
            values = leaf.value if isinstance(leaf.value, tuple) else (leaf.value,)
            words += [flag, *(str(value).lower() for value in values or ("none",))]
    assert len(words) > 30
    assert understood(words)[1] == config


def test_a_file_names_the_method_and_an_option_may_not_contradict_it(workplace):
    Path("openes.yaml").write_text("{method: openes, evolution: {std: 0.5}}")
    config = _config("ant --config openes.yaml --evolution.learning-rate 0.25")
    assert config == replace(
        preset("ant", "tuned", "openes"), {"evolution.std": 0.5, "evolution.learning_rate": 0.25}
    )
    with pytest.raises(UserError, match=r"openes\.yaml is for method 'openes', not 'psvf'"):
        _config("ant --config openes.yaml --method psvf")


def test_a_file_for_another_task_or_with_unread_fields_is_refused(workplace, refused):
    Path("ant.yaml").write_text("task: {name: ant}")
    refused([*DEBUG, "--config", "ant.yaml"], "ant.yaml is for task 'ant', not 'cartpole'")
    Path("unread.yaml").write_text("psvf: {noise: 3.0}")
    refused([*DEBUG, "--config", "unread.yaml"], "method 'epvf' does not read psvf; 'psvf' does")
    Path("wrong.yaml").write_text("num_env: 3")
    refused([*DEBUG, "--config", "wrong.yaml"], "unknown field of the config 'num_env' (did you")


def test_variant_comes_before_file_and_options(workplace):
    Path("file.yaml").write_text("policy_update: {weight_decay: 3.0}")
    config = _config("ant --preset paper --variant weight-decay --config file.yaml --num-envs 512")
    varied = vary(preset("ant", "paper"), "weight-decay")
    assert config == replace(varied, {"policy_update.weight_decay": 3.0, "num_envs": 512})


def test_help_shows_what_this_run_reads_and_nothing_else(capsys):
    assert main(["train", "ant", "--preset", "paper", "--help"]) == 0
    out = capsys.readouterr().out
    assert "--perturbation.scale" in out and "--checkpoint.every-minutes" in out
    assert "(default: 488)" in out and "1e-07" in out and "--psvf." not in out
    assert main(["train", "--help", "--method", "ppo"]) == 0
    out = capsys.readouterr().out
    assert "--ppo.clip" in out and "--perturbation" not in out and "--num-seeds" not in out


# --- runs


def test_folders_that_are_taken_or_cannot_be_made_are_refused(workplace, refused):
    taken = workplace / "taken"
    taken.mkdir()
    (taken / "mine.txt").write_text("mine")
    for out in (taken, taken / "mine.txt", taken / "mine.txt" / "run"):
        refused([*DEBUG, "--out", str(out)], str(out))


def test_a_run_tells_its_progress_and_result(epvf):
    done = epvf(*DEBUG, "--out", "run")
    assert done.returncode == 0
    assert "over 100 episodes of cartpole, Gymnasium CartPole-v1" in done.stdout
    assert done.stdout.endswith("run: run\n")
    lines = done.stderr.splitlines()
    for word in ("task cartpole", "method epvf", "policies 32 of ", "until 5 it", "folder run"):
        assert word in lines[0]
    assert lines[1].startswith("a checkpoint takes up to ") and lines[1].endswith(" are free")
    assert lines[2].startswith("compiling rollouts") and lines[3].startswith("compiled rollouts")
    last = next(line for line in lines if line.startswith("iteration 5/5  env steps "))
    assert lines[4].startswith("iteration ")
    for word in ("steps/s", "perturbed return", "unperturbed return", "value loss", "left", "best"):
        assert word in last
    following = lines[lines.index(last) + 1 :]
    names = [line.split(":")[0] for line in following]
    assert names == ["watch", "page", "measure", "curves", "go on"]
    assert "epvf play run" in following[0] and (epvf.folder / "run" / "report.html").exists()


def test_all_that_a_run_leaves_is_looked_through_for_links(finished):
    assert {path.name for path in finished.iterdir()} <= set(OWN)


def test_a_run_leaves_what_the_design_says(finished):
    names = {path.name for path in finished.iterdir()}
    assert names >= {"config.json", "run.json", "metrics.jsonl", "tb", "checkpoints", "policies"}
    info = json.loads((finished / "run.json").read_text())
    assert info["argv"][:3] == ["epvf", "train", "cartpole"] and info["status"] == "finished"
    assert info["versions"]["jax"] and info["devices"]["jax"] and "git" in info
    assert (finished / "checkpoints" / "000000000005").is_dir()
    assert {p.name for p in (finished / "policies").iterdir()} == {
        "best.safetensors",
        "last.safetensors",
    }
    assert sum(path.stat().st_size for path in (finished / "tb").iterdir()) > 1000


def test_metrics_are_strict_json_with_the_agreed_names(finished):
    records = _records(finished)
    assert [r["steps/update"] for r in records] == [1, 2, 3, 4, 5]
    assert all(record.keys() == KEYS for record in records)
    assert records[0]["policy/predicted_gain"] is None
    assert "NaN" not in (finished / "metrics.jsonl").read_text()


def test_the_saved_configuration_reproduces_the_run(finished, workplace):
    config = str(finished / "config.json")
    assert main(["train", "cartpole", "--config", config, "--out", "again"]) == 0
    assert _untimed("again") == _untimed(finished)
    assert load(Path("again/config.json")) == load(finished / "config.json")


def test_a_run_starts_from_a_policy_file(finished, workplace, capsys):
    theta = load_policy(finished / "policies" / "last.safetensors")
    start = replace(load(finished / "config.json"), {"iterations": 1, "seed": 5})
    other = np.linspace(-1, 1, len(theta.theta), dtype=np.float32)
    save_policy("start.safetensors", theta.policy, other, "cartpole", 1.0)
    words = [*DEBUG, "--seed", "5", "--iterations", "1", "--perturbation.scale", "0", "--json"]
    assert main([*words, "--init", "start.safetensors"]) == 0
    run = Path(json.loads(capsys.readouterr().out)["run"])
    assert run.parts[:2] == ("runs", "cartpole") and run.name.endswith("-debug-s5")
    assert load(run / "config.json").num_envs == start.num_envs
    # the only policy that was evaluated is the one that it started from
    for which in ("init", "best"):
        assert (load_policy(run / "policies" / f"{which}.safetensors").theta == other).all()


def test_a_policy_that_does_not_fit_is_refused_with_both_shapes(finished, workplace, refused):
    policy = str(finished / "policies" / "best.safetensors")
    refused(
        [*DEBUG, "--init", policy, "--policy.hidden-sizes", "3", "2"],
        "best.safetensors is 4-8-2 tanh argmax, but this run's is 4-3-2-2 tanh argmax",
    )
    refused(
        [*DEBUG, "--init", policy, "--policy.activation", "relu"],
        "best.safetensors is 4-8-2 tanh argmax, but this run's is 4-8-2 relu argmax",
    )
    refused(
        ["train", "ant", "--init", policy], "is 4-8-2 tanh argmax, but this run's is 34-64-64-8"
    )


@needs_brax
def test_an_agent_does_not_start_from_a_policy(finished, refused):
    policy = str(finished / "policies" / "best.safetensors")
    refused(
        [*DEBUG, "--method", "ppo", "--init", policy],
        "method 'ppo' does not start from a given policy; leave out --init",
    )


@pytest.mark.parametrize("words", [[], ["--no-timing"]])
def test_a_dry_run_tells_what_a_run_takes_and_makes_nothing(workplace, capsys, words):
    command = ["train", "cartpole", "--preset", "debug", "--dry-run", "--json"]
    assert main([*command, *words]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["policy_parameters"] > 0 and told["memory_bytes"] > 0
    assert told["env_steps"] == told["iterations"] * told["env_steps_per_iteration"]
    assert ("seconds_long_episodes" in told) == (not words)
    if not words:
        assert 0.0 < told["seconds_short_episodes"] <= told["seconds_long_episodes"]
    assert list(workplace.iterdir()) == []


@pytest.mark.slow
def test_several_seeds_share_a_run(workplace, capsys):
    assert main([*DEBUG, "--seed", "7", "--num-seeds", "2", "--out", "run", "--json"]) == 0
    run = Path("run")
    assert [(r["steps/update"], r["seed"]) for r in _records(run)[:4]] == [
        (1, 7), (1, 8), (2, 7), (2, 8)
    ]  # fmt: skip
    saved = {p.stem: load_policy(p).theta.tolist() for p in (run / "policies").iterdir()}
    assert saved.keys() == {"best", "last"} | {
        f"seed{s}-{which}" for s in (7, 8) for which in ("best", "last")
    }
    winner = 7 if saved["best"] == saved["seed7-best"] else 8
    best = {
        s: max(r["eval/episode_return"] for r in _records(run) if r["seed"] == s) for s in (7, 8)
    }
    assert best[winner] == max(best.values())
    assert {path.name for path in (run / "tb").iterdir()} == {"seed7", "seed8"}


@pytest.mark.slow
def test_a_diverged_run_fails_in_words_and_names_what_is_left(workplace, capsys):
    broken = ["--value-update.optimizer", "adam", "--value-update.learning-rate", "1e38"]
    assert main([*DEBUG, *broken, "--out", "run"]) == 1
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("epvf: error: an update of V or of the policy was not finite")
    assert last.endswith("use target.transform centred_ranks; there is no checkpoint yet")
    assert json.loads(Path("run/run.json").read_text())["status"] == "failed"


@pytest.mark.slow
def test_a_task_of_ones_own_is_found_again(workplace, capsys):
    Path("robot.py").write_text(
        "from epvf.tasks import make as other\n"
        "def make(episode_length=None):\n"
        "    return other('cartpole', episode_length=episode_length or 30)\n"
    )
    words = ["train", "robot.py:make", "--preset", "debug", "--iterations", "1", "--out", "run"]
    assert main(words) == 0
    assert load(Path("run/config.json")).task.name == "robot.py:make"
    assert main(["resume", "run", "--iterations", "2"]) == 0
    assert main(["eval", "run", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["task"] == "robot.py:make" and result["episode_length"] <= 30


def test_a_task_of_ones_own_that_is_not_there_is_refused(workplace, refused):
    Path("robot.py").write_text("def make(): return 3\n")
    refused(["train", "nobot.py:make"], "there is no file nobot.py to take a task from")
    refused(["train", "robot.py:mak"], "robot.py has no 'mak'")
    refused(["train", "robot.py:make"], "'robot.py:make' returns int, but a task has")
    refused(["train", "no.such.package:make"], "cannot import 'no.such.package'")
