"""The paper's figures: their runs, going on after an interruption, and their tables."""

import csv
import io
import json
import os
import shutil
import signal
import time
from functools import partial

import numpy as np
import pytest

from epvf.analysis.curves import Group
from epvf.config.presets import preset
from epvf.config.schema import Config, flatten, replace
from epvf.config.variants import VARIANTS, vary
from epvf.errors import UserError
from epvf.experiments import report, runner
from epvf.experiments.paper import EXPERIMENTS, Arm, planned
from epvf.files import read_json, write_json
from epvf.runs.display import PlainDisplay
from epvf.runs.folder import read_info
from epvf.tasks import make

PAPER = preset("ant", "paper")
DELTAS = {
    "multiple-policies": {"policy.num_centres": 4096},
    "buffer-100x": {"buffer.size": 409_600},
    "fixed-policy-lr": {
        "policy_update.learning_rate": 1e-5,
        "policy_update.final_learning_rate": None,
    },
    "noise-1.0": {"perturbation.scale": 1.0},
    "no-weight-clip": {"policy_update.weight_clip": None},
    "clip-perturbations": {"perturbation.clip": 0.1},
    "gaussian-noise": {"perturbation.noise": "gaussian", "perturbation.scale": 1.0},
    "weight-decay": {"policy_update.weight_clip": None, "policy_update.weight_decay": 10.0},
}
TINY = replace(preset("cartpole", "debug"), {"iterations": 2, "num_envs": 32})


def _plan(*names, config=TINY):
    return runner.Plan("fig1", "small", "debug", 1, [Arm(name, config) for name in names])


def _complete(folder, plan):
    runner.open_folder(folder, plan)
    show = lambda extra: PlainDisplay(io.StringIO(), extra)  # noqa: E731
    return runner.complete(folder, plan, show, ["test"])


# --- what is run


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_changes_what_the_paper_says_and_nothing_else(name):
    before, after = flatten(PAPER), flatten(vary(PAPER, name))
    assert {field: after[field] for field in after if after[field] != before[field]} == DELTAS[name]


def test_an_unknown_variant_and_one_that_does_not_fit_are_refused():
    with pytest.raises(UserError, match="unknown variant 'no-clip'"):
        vary(PAPER, "no-clip")
    with pytest.raises(UserError, match="weight_clip, but that is none"):
        vary(preset("cartpole", "paper"), "clip-perturbations")


@pytest.mark.parametrize("scale", ["full", "small"])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_can_be_planned(name, scale):
    arms, seeds = planned(name, scale)
    names = [arm.name for arm in arms]
    assert len(set(names)) == len(names) and seeds >= 3
    trained: dict[str, list[int]] = {}
    for arm, config in arms:
        setting = arm.removesuffix(f"-s{config.seed}")
        trained.setdefault(setting, []).extend(range(config.seed, config.seed + config.num_seeds))
    assert len(trained) >= (1 if name == "cartpole-one-env" else 3)
    assert set(map(tuple, trained.values())) == {tuple(range(seeds))}


def test_the_settings_of_the_scaling_figure_spend_equal_budgets_on_batches_of_all_envs():
    arms, _ = planned("fig2-scaling", "small")
    for _, config in arms:
        own = config.method
        assert config.num_envs == own.value_update.batch_size == own.buffer.size
        assert config.num_envs * config.iterations * 1000 == pytest.approx(2e6, rel=0.05)


def test_the_full_figures_have_the_papers_sizes():
    (arm, *_), _ = planned("fig2-ablations", "full")
    assert arm.config == PAPER
    assert [a.config.num_envs for a in planned("fig1", "full")[0]] == 2 * [1, 2, 4, 8, 16]


def test_one_environment_takes_fewer_env_steps_than_a_third_of_1e5_whatever_its_episodes():
    for arm in planned("cartpole-one-env", "full")[0]:
        longest = make("cartpole").spec.episode_length
        assert arm.config.num_envs == 1
        assert arm.config.env_steps is not None and arm.config.env_steps + longest <= 33_000
        assert arm.config.iterations * 9 > 33_000  # no pole falls sooner


def test_v_of_what_policies_do_is_compared_on_equal_populations_and_budgets():
    arms, seeds = planned("v-theta", "full")
    assert seeds == 5 and len(arms) == 5 * (2 + 3)
    by_size: dict[int, list[Config]] = {}
    for arm in arms:
        by_size.setdefault(arm.config.num_envs, []).append(arm.config)
    for num, configs in by_size.items():
        assert len({config.env_steps for config in configs}) == 1
        (noise,) = {config.method.perturbation for config in configs}
        assert noise == PAPER.method.perturbation
        assert {config.method.policy_update.weight_clip for config in configs} == {0.1}
        (kernel, *_) = [config for config in configs if config.method.name == "epvf"]
        assert kernel.method.buffer.size == kernel.method.value_update.batch_size == 8 * num
        sizes = [c.policy.hidden_sizes for c in configs if c.method.name == "matched-openes"]
        assert kernel.policy.hidden_sizes in sizes
    backend = {"task.backend": "mjx"}
    assert all(
        config.task.backend == "mjx" for _, config in planned("v-theta", "full", delta=backend)[0]
    )
    with pytest.raises(UserError, match="presets of its own; leave out --preset"):
        planned("v-theta", "full", start="tuned")


def test_env_steps_cut_the_same_curves_short_and_seeds_may_train_side_by_side():
    whole = {arm.name: arm.config for arm in planned("fig2-scaling", "full", seeds=3)[0]}
    cut, _ = planned("fig2-scaling", "full", seeds=3, env_steps=10**8)
    for arm in cut:
        assert arm.config == replace(whole[arm.name], {"env_steps": 10**8})
    abreast, seeds = planned("fig2-scaling", "full", seeds=3, abreast=2)
    assert seeds == 3 and {(a.config.seed, a.config.num_seeds) for a in abreast} == {(0, 2), (2, 1)}
    assert len(abreast) == 2 * len(whole) // 3
    with pytest.raises(UserError, match="seeds_per_run is 0, but must be at least 1"):
        planned("fig2-scaling", "full", abreast=0)
    with pytest.raises(UserError, match="env_steps is 0, but must be at least 1"):
        planned("fig2-scaling", "full", env_steps=0)


def test_seeds_are_split_over_runs_without_gaps():
    arms, _ = planned("fig1", "full", seeds=7)
    seeds = [
        seed
        for _, config in arms
        if config.num_envs == 4
        for seed in range(config.seed, config.seed + config.num_seeds)
    ]
    assert seeds == list(range(7))


def test_every_arm_starts_from_the_preset_and_changes_asked_for():
    arms, _ = planned("fig2-ablations", "small", start="tuned", delta={"task.backend": "mjx"})
    assert arms[0].config.method.value.hidden_sizes == ()
    assert {arm.config.task.backend for arm in arms} == {"mjx"}


# --- running it


@pytest.mark.slow
def test_finished_runs_are_kept_and_missing_ones_made(tmp_path):
    folder = tmp_path / "x"
    assert _complete(folder, _plan("one", "two")) == 0
    kept = folder / "runs" / "one" / "metrics.jsonl"
    before = kept.stat().st_mtime_ns
    leftover = folder / "runs" / "two"
    shutil.rmtree(leftover)
    leftover.mkdir()  # as if killed while the folder was being made
    assert _complete(folder, _plan("one", "two")) == 0
    assert kept.stat().st_mtime_ns == before
    assert read_info(leftover)["status"] == "finished"


@pytest.mark.slow
def test_an_interrupted_experiment_goes_on_and_ends_as_an_uninterrupted_one(tmp_path):
    plan = _plan("one", config=replace(TINY, {"iterations": 40}))
    assert _complete(tmp_path / "whole", plan) == 0
    folder = tmp_path / "parts"

    class Stopping(PlainDisplay):
        def update(self, report):
            super().update(report)
            if report.state.iteration < 40:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.01)

    runner.open_folder(folder, plan)
    code = runner.complete(folder, plan, partial(Stopping, io.StringIO()), ["test"])
    assert code == 128 + signal.SIGTERM
    assert read_info(folder / "runs" / "one")["status"] == "interrupted"
    assert _complete(folder, plan) == 0
    timeless = [
        [
            {name: value for name, value in json.loads(line).items() if "time/" not in name}
            for line in (path / "runs" / "one" / "metrics.jsonl").read_text().splitlines()
        ]
        for path in (tmp_path / "whole", folder)
    ]
    assert timeless[0] == timeless[1]


def test_the_time_left_counts_the_runs_to_come(monkeypatch):
    monkeypatch.setattr(runner.time, "monotonic", lambda: 160.0)
    # 60 s for one and a half runs of four: 100 s more for the rest
    shown = runner._whole("2/4 b", done=1, runs=4, begin=100.0, progress=0.5)
    assert shown == {"run": "2/4 b", "all left": "1:40"}


@pytest.mark.slow
def test_a_folder_of_another_experiment_or_version_is_refused(tmp_path):
    folder = tmp_path / "x"
    _complete(folder, _plan("one"))
    with pytest.raises(UserError, match=r"1 in all, such as 'one'; ask for them too"):
        runner.open_folder(folder, _plan("two"))
    with pytest.raises(UserError, match="another version: its iterations is 2, not 3"):
        runner.open_folder(folder, _plan("one", config=replace(TINY, {"iterations": 3})))
    with pytest.raises(UserError, match=r"other settings .* its num_seeds is 1, not 3"):
        more = _plan("one", config=replace(TINY, {"num_seeds": 3}))
        runner.open_folder(folder, more._replace(seeds=3))
    assert read_json(folder / "experiment.json")["seeds"] == 1
    with pytest.raises(UserError, match=r"its target\.transform is"):
        other = replace(TINY, {"target.transform": "scaled"})
        runner.open_folder(folder, _plan("one", config=other))
    edited = read_json(folder / "experiment.json") | {"arms": 1}
    write_json(folder / "experiment.json", edited)
    with pytest.raises(UserError, match="does not tell which runs are its own"):
        runner.open_folder(folder, _plan("one"))
    write_json(folder / "experiment.json", {"format": "epvf-experiment/0"})
    with pytest.raises(UserError, match="its format is 'epvf-experiment/0'"):
        runner.open_folder(folder, _plan("one"))


@pytest.mark.slow
def test_a_folder_grows_and_keeps_the_runs_that_it_has(tmp_path):
    folder = tmp_path / "x"
    _complete(folder, _plan("one"))
    kept = (folder / "runs" / "one" / "metrics.jsonl").read_bytes()
    _complete(folder, _plan("two", "one"))
    assert (folder / "runs" / "one" / "metrics.jsonl").read_bytes() == kept
    assert read_json(folder / "experiment.json")["arms"] == ["two", "one"]
    assert read_info(folder / "runs" / "two")["status"] == "finished"


def test_a_folder_with_something_else_in_it_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="exists already and is no experiment"):
        runner.open_folder(tmp_path, _plan("one"))


@pytest.mark.parametrize("name", runner.OWN)
def test_no_link_in_an_experiments_folder_is_followed(name, tmp_path):
    (tmp_path / "precious").mkdir()
    folder = tmp_path / "x"
    folder.mkdir()
    (folder / name).symlink_to(tmp_path / "precious")
    with pytest.raises(UserError, match=f"{name} is a link, which is never followed"):
        runner.open_folder(folder, _plan("one"))
    assert list((tmp_path / "precious").iterdir()) == []


# --- what comes out


def _write_run(path, seeds, value):
    """A run of 100 iterations whose return is `value(seed, iteration)`."""
    path.mkdir(parents=True)
    records = [
        {
            "steps/update": t,
            "steps/env": 10 * t,
            "rollout/episode_return": value(seed, t),
            "eval/episode_return": 2.0 * value(seed, t) if t % 50 == 1 else None,
        }
        | ({"seed": seed} if len(seeds) > 1 else {})
        for t in range(1, 101)
        for seed in seeds
    ]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (path / "metrics.jsonl").write_text(lines)


def test_the_table_and_summary_hold_what_the_runs_hold(tmp_path):
    arms = [
        Arm("a-s0", replace(TINY, {"num_seeds": 2})),
        Arm("a-s2", replace(TINY, {"seed": 2})),
        Arm("b-s0", TINY),
    ]
    plan = runner.Plan("fig1", "small", "debug", 3, arms)
    for arm, seeds in zip(arms, ([0, 1], [2], [0]), strict=True):
        _write_run(runner.run_folder(tmp_path, arm), seeds, lambda seed, t: 100.0 * seed + t)
    summary = report.write(tmp_path, plan)
    # the last five iterations, 96 to 100; unperturbed was last measured at 51
    a = summary["settings"]["a"]
    assert (a["seeds"], a["perturbed"]["mean"], a["unperturbed"]["mean"]) == (3, 198.0, 302.0)
    assert a["perturbed"]["low"] >= 98.0 and a["perturbed"]["high"] <= 298.0
    assert summary["settings"]["b"]["perturbed"] == {"mean": 98.0, "low": 98.0, "high": 98.0}
    rows = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    assert len(rows) == 400 and {row["setting"] for row in rows} == {"a", "b"}
    found = [float(r["perturbed_return"]) for r in rows if (r["setting"], r["seed"]) == ("a", "2")]
    np.testing.assert_array_equal(found, 200.0 + np.arange(1, 101))
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    for name in ("figure.png", "figure.pdf"):
        assert (tmp_path / name).stat().st_size > 10_000
    assert "198.00" in report.table(summary)


def test_a_thinned_table_keeps_what_was_seldom_measured():
    every, last = 50, 1221
    records = [
        {
            "seed": 0,
            "steps/update": update,
            "eval/episode_return": 2.0 * update if update % every == 1 or update == last else None,
        }
        for update in range(1, last + 1)
    ]
    rows = list(csv.DictReader(report.tidy_csv([Group("a", [records])]).splitlines()))
    measured = [int(row["update"]) for row in rows if row["unperturbed_return"]]
    assert measured == [*range(1, last, every), last]
    assert report.MAX_ROWS - 30 <= len(rows) <= report.MAX_ROWS + len(measured)
    updates = [int(row["update"]) for row in rows]
    assert updates == sorted(set(updates)) and updates[0] == 1
