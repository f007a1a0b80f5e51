"""Comparing methods: equal budgets, going on, and what the page says."""

import csv
import json
import sys

import pytest

from epvf.cli import arguments
from epvf.cli import compare as compare_command
from epvf.cli.main import main
from epvf.config.presets import preset
from epvf.errors import UserError
from epvf.experiments import compare_report, runner
from epvf.experiments.compare import planned
from epvf.experiments.compare_report import reached, write
from epvf.experiments.paper import Arm
from epvf.runs.folder import Run, read_info

QUICK = ("compare", "cartpole", "--preset", "debug", "--env-steps", "3e3", "--seeds", "2")
METHODS = ("epvf", "ridge", "openes")


def test_every_method_gets_the_same_budget_and_the_same_seeds():
    plan = planned("cartpole", METHODS, 2, 10_000, "debug")
    assert [arm.name for arm in plan.arms] == [f"{m}-s{s}" for s in (0, 1) for m in METHODS]
    for arm in plan.arms:
        config = arm.config
        assert (config.env_steps, config.num_seeds, config.num_envs) == (10_000, 1, 32)
        assert arm.name == f"{config.method.name}-s{config.seed}"
        # even if no episode were longer than a step
        assert config.iterations * config.num_envs >= 10_000
        assert config.schedule_iterations == 5


def test_schedules_are_stretched_over_budgets_that_the_preset_does_not_have():
    (arm,) = planned("ant", ["epvf"], 1, 102_400_000, delta={"task.backend": "native"}).arms
    assert arm.config.schedule_iterations == 100
    (arm,) = planned("ant", ["epvf"], 1, 10_000_000, delta={"task.backend": "native"}).arms
    assert arm.config.schedule_iterations == preset("ant", "tuned", "epvf").iterations
    # but where the preset says how long they are
    (arm,) = planned("ant", ["psvf"], 1, 102_400_000, delta={"task.backend": "native"}).arms
    assert arm.config.schedule_iterations == preset("ant").schedule_iterations


def test_short_budgets_are_evaluated_often_enough_to_be_drawn():
    native = {"task.backend": "native"}
    for method, budget, interval in (
        ("psvf", 40e6, 100),  # as the preset has it: every 0.8M of 40M env steps
        ("psvf", 5e6, 50),  # 611 iterations of 256 x 32 env steps
        ("psvf", 1e5, 1),
        ("openes", 5e6, 1),
    ):
        (arm,) = planned("hopper", [method], 1, budget, delta=native).arms
        assert arm.config.eval.interval == interval
    # 49 iterations of 64 x 32 env steps, where the preset has an interval of 10
    (arm,) = planned("cartpole", ["ppo"], 1, 1e5).arms
    assert arm.config.eval.interval == 4


def test_settings_are_compared_as_methods_are():
    quiet, wide = "--perturbation.scale 0.1", "--method psvf --policy.hidden-sizes 16 16"
    words = f"cartpole --preset debug --methods ridge --arm|quiet={quiet}|--arm|wide={wide}"
    first, *rest = words.split("|")
    argv = compare_command._gathered([*first.split(), *rest])
    asked = arguments.read(compare_command.Options, "epvf compare", argv)
    settings = compare_command._settings(asked)
    plan = planned("cartpole", asked.methods, 2, 10_000, asked.preset, settings=settings)
    names = ("ridge", "quiet", "wide")
    assert [arm.name for arm in plan.arms] == [f"{name}-s{s}" for s in (0, 1) for name in names]
    ridge, small, deep = (arm.config for arm in plan.arms[:3])
    assert small.method.perturbation.scale == 0.1
    assert ridge.method.perturbation.scale == 0.5
    assert (deep.method.name, deep.policy.hidden_sizes) == ("psvf", (16, 16))
    assert {arm.config.env_steps for arm in plan.arms} == {10_000}


@pytest.mark.slow
def test_a_comparison_runs_goes_on_and_leaves_one_page(workplace, capsys):
    methods = ("epvf", "openes")
    command = [*QUICK, "--methods", *methods, "--out", "arena", "--json"]
    assert main(command) == 0
    result = json.loads(capsys.readouterr().out)
    folder = workplace / "arena"
    assert result["status"] == "finished" and tuple(result["methods"]) == methods
    for method in result["methods"].values():
        assert method["seeds"] == 2 and min(method["env_steps"]) >= 3000
    text = (folder / "report.md").read_text()
    assert "epvf compare cartpole" in text and all(f"| {name} |" in text for name in methods)
    for name in ("figure.png", "figure.pdf"):
        assert (folder / name).stat().st_size > 10_000
    rows = list(csv.DictReader((folder / "results.csv").read_text().splitlines()))
    assert {row["setting"] for row in rows} == set(methods)

    # finished runs stay, one that was stopped goes on, the page is the same
    kept, stopped = (folder / "runs" / name for name in ("epvf-s0", "openes-s1"))
    before = (kept / "metrics.jsonl").stat().st_mtime_ns
    info = read_info(stopped) | {"status": "interrupted"}
    (stopped / "run.json").write_text(json.dumps(info))
    assert main(command) == 0
    assert (kept / "metrics.jsonl").stat().st_mtime_ns == before
    assert read_info(stopped)["status"] == "finished"
    assert json.loads(capsys.readouterr().out) == result

    # it grows by a seed, and does not shrink
    assert main([*command, "--seeds", "3"]) == 0
    assert json.loads(capsys.readouterr().out)["methods"]["openes"]["seeds"] == 3
    assert (kept / "metrics.jsonl").stat().st_mtime_ns == before
    assert main(command) == 2
    assert "2 in all, such as 'epvf-s2'; ask for them too" in capsys.readouterr().err


def _write_run(path, seed, slope):
    """Ten iterations of 100 env steps and 2 s, with returns `slope * iteration + seed`."""
    path.mkdir(parents=True)
    records = [
        {
            "steps/update": t,
            "steps/env": 100 * t,
            "time/wall": 2.0 * t,
            "rollout/episode_return": slope * t + seed,
            "eval/episode_return": slope * t + seed - 1.0 if t % 2 else None,
        }
        for t in range(1, 11)
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))


def test_the_page_holds_what_the_runs_hold(tmp_path):
    config = preset("cartpole", "debug").replace({"task.episode_length": 40})
    arms = [Arm(f"{m}-s{s}", config.replace({"seed": s})) for m in ("a", "b") for s in (0, 1)]
    plan = runner.Plan("compare cartpole", "1000 env steps", "debug", 2, arms)
    for arm in arms:
        slope = 4.0 if arm.name.startswith("a") else 1.0
        _write_run(runner.run_folder(tmp_path, arm), arm.config.seed, slope)
    summary = write(tmp_path, plan, "epvf compare")
    assert summary["max_return"] == 40.0
    a, b = summary["methods"]["a"], summary["methods"]["b"]
    assert a["final"]["perturbed"]["mean"] == a["final"]["perturbed"]["iqm"] == 40.5
    assert a["final"]["unperturbed"]["mean"] == pytest.approx(35.5)
    # 4 t + seed >= 20 at t = 5 for both seeds, unperturbed 4 t + seed - 1 >= 20 first at t = 7, 5
    assert a["reached"]["perturbed"]["50%"] == {
        "return": 20.0, "seeds": 2, "env_steps": 500.0, "seconds": 10.0
    }  # fmt: skip
    assert a["reached"]["unperturbed"]["50%"]["env_steps"] == 600.0
    assert b["reached"]["perturbed"]["25%"]["seeds"] == 2
    assert b["reached"]["perturbed"]["50%"]["seeds"] == 0
    text = (tmp_path / "report.md").read_text()
    # both are named otherwise than their method
    assert "| name | method | differs in |" in text and "| a | epvf |" in text
    assert "500 / 10 s (2 of 2)" in text and "– (0 of 2)" in text
    assert "40.50 (40.00 to 41.00)" in compare_report.table(summary)


def test_a_level_is_reached_where_the_return_first_is_there():
    records = [
        {"steps/env": 10 * t, "time/wall": 1.0 * t, "x": value}
        for t, value in enumerate([None, 1.0, 5.0, 2.0])
    ]
    assert reached(records, "x", 2.0) == (20, 2.0)
    assert reached(records, "x", 6.0) is None


BAD = [
    (["compare"], "missing: TASK"),
    (["compare", "chess", "--env-steps", "10", "--methods", "epvf"], "unknown task 'chess'"),
    (["compare", "ant"], "how many env steps?"),
    (["compare", "ant", "--env-steps", "1e6"], "which methods?"),
    (["compare", "ant", "--env-steps", "0", "--methods", "epvf"], "env_steps is 0"),
    (
        ["compare", "ant", "--env-steps", "nan", "--methods", "epvf"],
        "env_steps must be of type int, not nan",
    ),
    (
        ["compare", "ant", "--env-steps", "inf", "--methods", "epvf"],
        "env_steps must be of type int, not inf",
    ),
    (
        ["compare", "ant", "--env-steps", "1.5", "--methods", "epvf"],
        "env_steps must be of type int, not 1.5",
    ),
    (["compare", "ant", "--env-steps", "x"], "env_steps must be of type int, not 'x'"),
    (
        ["compare", "cartpole", "--env-steps", "9", "--methods", "sac"],
        "method 'sac' cannot learn task 'cartpole': it has no discrete actions",
    ),
    ([*QUICK, "--methods", "epvf", "sac2"], "unknown method 'sac2'"),
    ([*QUICK, "--methods", "epvf", "epvf"], "method 'epvf' is named twice"),
    ([*QUICK, "--arm", "x"], "--arm x: give a name and options"),
    ([*QUICK, "--arm", "a b=--num-envs 4"], "an arm's name is of letters"),
    ([*QUICK, "--arm", "a=--num-env 4"], "arm a: unknown option --num-env"),
    ([*QUICK, "--arm", "a=--seed 4"], "arm a: leave seeds to the comparison"),
    ([*QUICK, "--arm", "a=--out x"], "arm a: give fields to change"),
    ([*QUICK, "--arm", "a=--num-envs 4", "--arm", "a="], "arm 'a' is named twice"),
    ([*QUICK, "--arm", "epvf=", "--methods", "epvf"], "method 'epvf' is named twice"),
    ([*QUICK, "--methods", "epvf", "--launcher", "x"], "unknown launcher 'x'"),
    ([*QUICK, "--methods", "epvf", "--seeds", "0"], "seeds is 0, but must be a whole number"),
    (
        ["compare", "ant", "--backend", "native", "--env-steps", "1e6", "--methods", "cmaes"],
        "use method 'sepcmaes'",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_is_one_line_and_nothing_is_written(arguments, message, workplace, capsys):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err
    assert list(workplace.iterdir()) == []


@pytest.mark.parametrize("number", [0, -1, 1.5, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["seeds", "env_steps"])
def test_numbers_that_are_not_whole_are_refused(name, number):
    sizes = {"seeds": 1, "env_steps": 1000, name: number}
    with pytest.raises(UserError, match=f"{name} is {number:g}, but must be a whole number"):
        planned("cartpole", ["epvf"], start="debug", **sizes)


def test_a_run_that_another_process_has_is_neither_joined_nor_made_anew(tmp_path):
    for method in ("epvf", "ppo"):
        config = preset("cartpole", "debug", method)
        path = tmp_path / method
        held = Run.create(path, config, [])
        (path / "metrics.jsonl").write_text("{}\n")
        with pytest.raises(UserError, match="is in use by another process"):
            runner.open_run(path, config, [])
        assert (path / "metrics.jsonl").exists()
        held.close()
        runner.open_run(path, config, []).close()
        # what Brax trains cannot go on
        assert (path / "metrics.jsonl").exists() == (method == "epvf")


def test_a_missing_extra_stops_a_comparison_before_it_begins(workplace, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "evosax.algorithms", None)
    assert main([*QUICK, "--methods", "epvf", "pgpe"]) == 2
    assert "method 'pgpe' needs evosax" in capsys.readouterr().err
    assert list(workplace.iterdir()) == []
