"""The command line: what a person or a script sees of it."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import SOURCE
from epvf import __version__
from epvf.cli.main import COMMANDS, main
from epvf.config.presets import preset
from epvf.config.schema import load, replace
from epvf.files import strict_json
from epvf.policies.formats.safetensors import load_policy, save_policy
from epvf.policies.mlp import Policy
from epvf.runs.display import LiveDisplay, PlainDisplay, make_display
from epvf.training.loop import Report, TrainState
from probes import KEYS

DEBUG = ("train", "cartpole", "--preset", "debug")


def _records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def _untimed(run):
    return [{k: v for k, v in r.items() if not k.startswith("time/")} for r in _records(run)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run, to be looked at but not changed."""
    run = tmp_path_factory.mktemp("finished") / "run"
    assert main([*DEBUG, "--out", str(run)]) == 0
    return run


# --- usage


@pytest.mark.parametrize(
    "arguments", [["--help"], ["-h"], *([name, "--help"] for name in COMMANDS)]
)
def test_help_is_there_at_every_level(arguments, capsys):
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert "usage: epvf" in out and err == ""


def test_help_of_train_shows_every_field_and_the_presets_values(capsys):
    main(["train", "ant", "--preset", "paper", "--help"])
    out = capsys.readouterr().out
    assert "--perturbation.scale" in out and "--checkpoint.every-minutes" in out
    assert "(default: 488)" in out and "1e-07" in out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"epvf {__version__}\n"


def test_help_is_quick_because_it_loads_nothing_heavy():
    script = (
        "import sys; from epvf.cli.main import main; main(['--help']); main(['eval', '--help']);"
        "sys.exit(str({'jax', 'mujoco', 'gymnasium', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
    )
    assert done.stderr == "set()\n"


BAD = [
    ([], "no command given; valid: train"),
    (["trian"], "unknown command 'trian' (did you mean 'train'?); valid: train, resume"),
    (["train"], "which task? epvf train TASK; valid: cartpole, ant"),
    (["train", "cartpol"], "unknown task 'cartpol' (did you mean 'cartpole'?)"),
    (["train", "cartpole", "ant"], "unexpected argument 'ant'; see epvf train --help"),
    (
        ["train", "cartpole", "--preset", "fast"],
        "unknown preset 'fast'; valid: paper, tuned, debug",
    ),
    (["train", "cartpole", "--foo", "3"], "unknown option --foo; see epvf train --help"),
    (["train", "ant", "--perturbation.scal", "3"], "did you mean --perturbation.scale?"),
    (["train", "ant", "--task.name", "cartpole"], "unknown option --task.name"),
    (["train", "ant", "--seed"], "option --seed needs a value"),
    (["train", "ant", "--num-envs", "x"], "num_envs must be of type int, not 'x'"),
    (["train", "ant", "--num-envs", "2.5"], "num_envs must be of type int, not 2.5"),
    (["train", "ant", "--num-envs", "-4"], "num_envs is -4"),
    (["train", "ant", "--buffer.size", "-1"], "buffer.size is -1"),
    (["train", "ant", "--seed", "-1"], "seed is -1; it must be finite and at least 0"),
    (["train", "ant", "--seed", "none"], "seed must be of type int, not None"),
    (["train", "ant", "--perturbation.scale", "nan"], "perturbation.scale is nan"),
    (["train", "ant", "--perturbation.noise", "pink"], "valid: scaled_uniform, gaussian"),
    (["train", "ant", "--policy.hidden-sizes", "64", "x"], "policy.hidden_sizes must be of type"),
    (["train", "ant", "--value-update.batch-size", "9999999"], "larger than buffer.size"),
    (
        ["train", "ant", "--backend", "native", "--value.condition", "policy+state"],
        "always starts in the same; use value.condition 'policy'",
    ),
    (["train", "ant", "--value.condition", "state"], "valid: policy, policy+state"),
    (["train", "ant", "--policy.output", "argmax"], "does not fit the continuous actions"),
    (["train", "cartpole", "--policy.output", "clip"], "does not fit the discrete actions"),
    (["train", "ant", "--backend", "cuda"], "unknown value for task.backend: 'cuda'"),
    (["train", "cartpole", "--backend", "native"], "valid: auto, jax"),
    (["train", "ant", "--backend", "native", "--task.backend", "mjx"], "say the same"),
    (["train", "ant", "--config", "none.yaml"], "cannot read config none.yaml: No such file"),
    (["resume"], "missing: RUN; see epvf resume --help"),
    (["resume", "nowhere"], "nowhere is no run: it has no run.json"),
    (["eval", "nowhere"], "there is no policy file nowhere"),
    (["eval", "."], ". is no run"),
    (["eval", __file__], "cannot read policy"),
    (["eval", "x", "--episodes", "many"], "option --episodes: not a whole number: 'many'"),
    (["eval", "x", "--policy", "worst"], "unknown value 'worst' for --policy; valid: best, last"),
    (["bench"], "missing: TASK"),
    (["bench", "chess"], "unknown task 'chess'"),
    (["bench", "cartpole", "--num-envs", "0"], "num_envs is 0"),
    (["bench", "cartpole", "--repeats", "0"], "repeats is 0"),
    (["bench", "ant", "--representation", "fourier"], "representation.name: 'fourier'; valid: raw"),
    (["bench", "ant", "--preset", "fast"], "unknown preset 'fast'"),
    (["bench", "ant", "--method", "pgpe"], "V(θ) and V(s, θ), which method 'pgpe' does not have"),
    (["bench", "ant", "--method", "psf"], "unknown method 'psf'"),
    (["train", "ant", "--variant", "no-clip"], "unknown variant 'no-clip' (did you mean"),
    (["train", "cartpole", "--variant", "clip-perturbations"], "weight_clip, but that is none"),
    (["experiment"], "missing: NAME"),
    (["experiment", "fig3"], "unknown experiment 'fig3' (did you mean 'fig1'?); valid: fig1, fig2"),
    (["experiment", "fig1", "--scale", "huge"], "unknown scale 'huge'; valid: full, small"),
    (["experiment", "fig1", "--seeds", "x"], "option --seeds: not a whole number: 'x'; see epvf"),
    (["experiment", "fig1", "--seeds", "0"], "seeds is 0, but must be at least 1"),
    (["experiment", "fig1", "--backend", "native"], "valid: auto, jax"),
    (["experiment", "fig1", "--preset", "mine"], "unknown preset 'mine'"),
    (["plot"], "which runs? epvf plot RUN"),
    (["plot", "nowhere"], "nowhere is no run"),
    (["plot", "nowhere", "--smooth", "0"], "smooth is 0, but must be at least 1"),
    (["doctor", "--x"], "unknown option --x"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_is_one_clear_line_and_leaves_nothing_behind(
    arguments, message, workplace, capsys
):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("epvf: error: ") and err.count("\n") == 1 and err.endswith("\n")
    assert message in err
    assert list(workplace.iterdir()) == []


def test_a_process_says_the_same(epvf):
    done = epvf("train", "cartpole", "--num-envs", "-4")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "epvf: error: num_envs is -4; it must be finite and greater than 0\n"


def test_folders_that_are_taken_or_cannot_be_made_are_refused(workplace, capsys):
    taken = workplace / "taken"
    taken.mkdir()
    (taken / "mine.txt").write_text("mine")
    for out in (taken, taken / "mine.txt", taken / "mine.txt" / "run"):
        assert main([*DEBUG, "--out", str(out)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert [path.name for path in workplace.rglob("*")] == ["taken", "mine.txt"]


def test_a_file_for_another_task_is_refused(workplace, capsys):
    Path("ant.yaml").write_text("task: {name: ant}")
    assert main([*DEBUG, "--config", "ant.yaml"]) == 2
    assert "ant.yaml is for task 'ant', not 'cartpole'" in capsys.readouterr().err


@pytest.mark.parametrize("sizes", [(3, 2), (4, 3)])
def test_a_policy_that_does_not_fit_its_task_is_refused(sizes, workplace, capsys):
    policy = Policy(sizes, output="argmax")
    save_policy("p.safetensors", policy, np.zeros(policy.num_parameters), "cartpole", 1.0)
    for backend in ("auto", "jax"):
        assert main(["eval", "p.safetensors", "--backend", backend]) == 2
        assert "does not fit task 'cartpole'" in capsys.readouterr().err


# --- train


def test_a_run_tells_its_progress_and_result(epvf):
    done = epvf(*DEBUG, "--out", "run")
    assert done.returncode == 0
    assert "over 100 episodes of cartpole, Gymnasium CartPole-v1" in done.stdout
    assert done.stdout.endswith("run: run\n")
    lines = done.stderr.splitlines()
    assert lines[0].startswith("compiling rollouts") and lines[1].startswith("compiled rollouts")
    assert lines[2].startswith("iteration ") and lines[-1].startswith("iteration 5/5  env steps ")
    for word in ("steps/s", "perturbed return", "unperturbed return", "value loss", "left"):
        assert word in lines[-1]


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
    assert _untimed(Path("again")) == _untimed(finished)
    assert load(Path("again/config.json")) == load(finished / "config.json")


def test_options_reach_the_configuration_over_preset_and_file(workplace, capsys):
    Path("some.yaml").write_text("seed: 3\nperturbation: {scale: 0.25, floor: 0.5}")
    arguments = "--num_envs 8 --policy.hidden-sizes 4 3 --perturbation.floor=0.125 --env-steps 1e3"
    arguments += " --value.layer-norm --perturbation.clip 2 --checkpoint.every-minutes none"
    arguments += " --value-update.batch_size 8 --eval.episodes 2 --json"
    assert main([*DEBUG, "--config", "some.yaml", *arguments.split()]) == 0
    result = json.loads(capsys.readouterr().out)
    run = Path(result["run"])
    assert run.parts[:2] == ("runs", "cartpole") and run.name.endswith("-debug-s3")
    config = load(run / "config.json")
    assert (config.seed, config.num_envs, config.env_steps) == (3, 8, 1000)
    assert config.policy.hidden_sizes == (4, 3) and config.value.layer_norm
    noise = config.perturbation
    assert (noise.scale, noise.floor, noise.clip) == (0.25, 0.125, 2.0)
    assert config.checkpoint.every_minutes is None
    assert config.task.backend == "jax"
    assert result["status"] == "finished" and result["evaluation"]["episodes"] == 100


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
    broken = ["--value-update.optimizer", "sgd", "--value-update.learning-rate", "1e30"]
    assert main([*DEBUG, *broken, "--out", "run"]) == 1
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("epvf: error: an update of V or of the policy was not finite")
    assert last.endswith("; there is no checkpoint yet")
    assert json.loads(Path("run/run.json").read_text())["status"] == "failed"


# --- what is done with a run


def test_eval_plays_gymnasiums_own_environment(finished, capsys):
    assert main(["eval", str(finished), "--episodes", "7", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["engine"], result["episodes"]) == ("Gymnasium CartPole-v1", 7)
    low, mean, high = (result[f"episode_return{end}"] for end in ("_min", "", "_max"))
    assert 8 <= low <= mean <= high <= 500 and mean == result["episode_length"]


def test_eval_refuses_a_seed_that_is_none(finished, capsys):
    assert main(["eval", str(finished), "--seed", "-1"]) == 2
    assert capsys.readouterr().err == (
        "epvf: error: seed is -1; it must be at least 0 and at most 2147483647\n"
    )


def test_eval_on_an_engine_agrees_with_gymnasium(finished, capsys):
    policy = str(finished / "policies" / "last.safetensors")
    results = []
    for backend in ("auto", "jax"):
        assert main(["eval", policy, "--episodes", "64", "--backend", backend, "--json"]) == 0
        results.append(json.loads(capsys.readouterr().out))
    assert results[1]["engine"] == "jax"
    error = 4 * max(r["episode_return_std"] for r in results) / 8 + 0.5
    assert abs(results[0]["episode_return"] - results[1]["episode_return"]) < error


def test_plot_draws_one_run_or_several(finished, workplace, capsys):
    assert main(["plot", str(finished), "--out", "one.svg", "--x", "iterations"]) == 0
    assert main(["plot", str(finished), str(finished)]) == 0
    assert capsys.readouterr().out == "plot: one.svg\nplot: return.png\n"
    assert Path("one.svg").stat().st_size > 1000 and Path("return.png").stat().st_size > 1000


def test_plot_refuses_a_format_that_it_cannot_write(finished, workplace, capsys):
    assert main(["plot", str(finished), "--out", "one.xyz"]) == 2
    assert "cannot write one.xyz" in capsys.readouterr().err


def test_doctor_tells_versions_engines_and_what_could_be_installed(capsys):
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "jax" in text and "native" in text and "compilation cache" in text
    assert main(["doctor", "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)
    assert findings["engines"]["native"].startswith("yes")
    assert findings["extras"].keys() == {"mjx", "warp", "baselines", "video"}


def test_bench_refuses_a_file_for_another_task(capsys, tmp_path):
    file = tmp_path / "ant.yaml"
    file.write_text("{task: {name: ant}}")
    assert main(["bench", "cartpole", "--config", str(file)]) == 2
    assert "is for task 'ant', not 'cartpole'" in capsys.readouterr().err


@pytest.mark.slow
def test_bench_of_a_population_that_is_not_stored(capsys, tmp_path):
    file = tmp_path / "large.yaml"
    file.write_text("{policy: {hidden_sizes: [64]}, buffer: {store: seeds}}")
    common = ["bench", "cartpole", "--num-envs", "128", "--repeats", "1", "--json"]
    assert main([*common, "--config", str(file)]) == 0
    lazy = json.loads(capsys.readouterr().out)
    # a centre and a key in place of 128 policies
    assert lazy["theta_bytes"] == 4 * (4 * 64 + 64 + 64 * 2 + 2) + 8
    assert lazy["env_steps"] > 128


@pytest.mark.slow
def test_bench_compares_the_closed_loop_with_bare_stepping(capsys):
    assert main(["bench", "cartpole", "--num-envs", "16", "--repeats", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["num_envs"] == 16
    assert result["ratio"] == pytest.approx(
        result["steps_per_second"] / result["bare_steps_per_second"]
    )


# --- display


HUNDRED = replace(preset("cartpole"), {"iterations": 100})


def _report(iteration, evaluation=float("nan"), seeds=(0,)):
    records = [
        {
            "steps/update": iteration,
            "steps/env": 1000 * iteration,
            "time/sps": 2.5e6,
            "rollout/episode_return": 10.0 + seed,
            "eval/episode_return": evaluation,
            "loss/value": 0.125,
            "value/spearman": 0.5,
        }
        for seed in seeds
    ]
    env_steps = np.full(len(seeds), 1000 * iteration)
    nothing: Any = None
    return Report(TrainState(nothing, iteration, env_steps, 1.0), records)


def test_plain_lines_are_few_and_include_the_first_and_the_last():
    stream = io.StringIO()
    display = PlainDisplay(stream)
    with display.showing(HUNDRED, None):
        display.update(_report(1, evaluation=42.0))
        for iteration in range(2, 100):
            display.update(_report(iteration))
    first, last = stream.getvalue().splitlines()
    assert first.startswith("iteration 1/100  env steps 1k  steps/s 2.5M  perturbed return 10.00")
    # Iterations that do not measure θ show what was last measured.
    assert "iteration 99/100" in last and "unperturbed return 42.00" in last


def test_several_seeds_are_shown_by_their_mean():
    stream = io.StringIO()
    display = PlainDisplay(stream)
    with display.showing(HUNDRED, None):
        display.update(_report(1, seeds=(0, 1)))
    assert "perturbed return 10.50" in stream.getvalue()


@pytest.mark.parametrize("env_steps", [1500, 2500])
def test_the_total_is_told_of_what_ends_the_run_first(env_steps):
    stream = io.StringIO()
    display = PlainDisplay(stream)
    with display.showing(replace(HUNDRED, {"env_steps": env_steps}), None):
        display.update(_report(2))
    # 2 of 100 iterations, and 2000 of 1500 or of 2500 env steps
    total = {1500: "1.5k", 2500: "2.5k"}[env_steps]
    assert stream.getvalue().startswith(f"iteration 2  env steps 2k/{total}  steps/s")


def test_a_terminal_gets_the_live_display_and_anything_else_plain_lines():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    assert isinstance(make_display(io.StringIO()), PlainDisplay)
    terminal = Terminal()
    display = make_display(terminal)
    assert isinstance(display, LiveDisplay)
    with display.showing(HUNDRED, None):
        display.announce("compiling")
        display.update(_report(50, evaluation=42.0))
    assert "compiling" in terminal.getvalue() and "50/100" in terminal.getvalue()


def test_json_never_holds_what_is_no_json():
    text = strict_json({"a": float("nan"), "b": [float("inf"), 1.5], "c": {"d": -float("inf")}})
    assert json.loads(text) == {"a": None, "b": [None, 1.5], "c": {"d": None}}
