"""The memory of a sweep: no trial lost, none done twice, whoever is killed when."""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from epvf.config.presets import preset
from epvf.errors import UserError
from epvf.experiments.space import Choices, parsed
from epvf.experiments.study import Sweep, open_study

pytest.importorskip("optuna", reason="the extra sweep is not installed")

BASE = preset("cartpole", "debug", "epvf")


def sweep_in(folder, trials=40, words=("perturbation.scale=0.1:1",), **other):
    """A sweep whose storage lies in its folder."""
    usual = {
        "name": "cartpole",
        "config": BASE,
        "preset": "debug",
        "space": tuple(parsed(words, None, BASE)),
        "trials": trials,
        "metric": "rollout/episode_return",
        "sampler": "tpe",
        "pruner": "none",
        "storage": str(folder / "study.journal"),
    }
    return Sweep(**(usual | other))


def proposals(folder, sweep, value=lambda params: params["perturbation.scale"]):
    """Does all trials; their parameters, in order."""
    study = open_study(folder, sweep)
    while True:
        with study.take() as taken:
            if taken is None:
                return [trial.params for trial in study.trials()]
            study.tell(taken.trial, value(taken.params))


def test_every_trial_is_begun_once_and_the_best_comes_first(tmp_path):
    sweep = sweep_in(tmp_path, trials=14)
    params = proposals(tmp_path, sweep)
    study = open_study(tmp_path, sweep)
    assert len(params) == 14 == len(study.ended())
    values = [trial.value for trial in study.ranked()]
    assert values == sorted((p["perturbation.scale"] for p in params), reverse=True)
    assert study.importances() == {"perturbation.scale": 1.0}


@pytest.mark.parametrize("storage", ["study.journal", "study.db"])
def test_a_trial_whose_process_ended_is_gone_on_with_and_not_begun_anew(storage, tmp_path):
    sweep = sweep_in(tmp_path, trials=2, storage=str(tmp_path / storage))
    study = open_study(tmp_path, sweep)
    with study.take() as first:
        assert first is not None
        first.trial.report(1.0, 3)
        # held: another process begins the next one, and then finds nothing more
        with open_study(tmp_path, sweep).take() as second:
            assert second is not None
            assert (first.trial.number, second.trial.number) == (0, 1)
            with open_study(tmp_path, sweep).take() as third:
                assert third is None
    with open_study(tmp_path, sweep).take() as again:
        assert again is not None and again.again
        assert again.trial.number == 0 and again.params == first.params
        assert study.trial(0).intermediate_values == {3: 1.0}


def test_what_is_proposed_does_not_depend_on_interruptions(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    undisturbed = proposals(whole, sweep_in(whole, trials=14))
    for trials in (3, 11, 14):
        sweep = sweep_in(parts, trials=trials)
        with open_study(parts, sweep).take():
            pass  # begun and left
        found = proposals(parts, sweep)
    assert found == undisturbed


def test_a_grid_is_laid_out_once(tmp_path):
    words = ("perturbation.scale=0.1:1:3", "policy.activation=tanh|relu")
    sweep = sweep_in(tmp_path, trials=6, words=words, sampler="grid")
    for _ in range(2):
        points = proposals(tmp_path, sweep)
        assert len(points) == 6 == len({tuple(sorted(point.items())) for point in points})


WORKER = """
    import sys, time
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from test_study import sweep_in
    from epvf.experiments.study import open_study

    folder = Path({folder!r})
    study = open_study(folder, sweep_in(folder))
    (folder / f"ready-{{sys.argv[1]}}").touch()
    while True:
        with study.take() as taken:
            if taken is None:
                break
            with (folder / f"done-{{taken.trial.number}}").open("a") as file:
                file.write("begin\\n"); file.flush()
                time.sleep(0.03)
                file.write("end\\n"); file.flush()
            study.tell(taken.trial, taken.params["perturbation.scale"])
"""


def _start(folder, name):
    code = textwrap.dedent(WORKER.format(tests=str(Path(__file__).parent), folder=str(folder)))
    paths = [str(Path(__file__).parents[2] / "src"), str(Path(__file__).parents[1])]
    paths += filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "EPVF_CONTRACTS": "0"}
    return subprocess.Popen([sys.executable, "-c", code, name], env=env)


@pytest.mark.slow
def test_forty_trials_by_two_processes_that_are_killed_at_random_moments(tmp_path):
    chance = random.Random(0)
    known: dict[int, float] = {}
    for kill in range(3):
        crew = [_start(tmp_path, f"{kill}-{member}") for member in range(2)]
        while not all((tmp_path / f"ready-{kill}-{member}").exists() for member in range(2)):
            assert all(process.poll() in (None, 0) for process in crew)
            time.sleep(0.01)
        time.sleep(chance.uniform(0.0, 0.4))
        for process in crew:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        told = {t.number: t.value for t in open_study(tmp_path, sweep_in(tmp_path)).ended()}
        assert known.items() <= told.items()
        known = told
    crew = [_start(tmp_path, f"last-{member}") for member in range(2)]
    assert [process.wait() for process in crew] == [0, 0]
    trials = open_study(tmp_path, sweep_in(tmp_path)).trials()
    assert [trial.number for trial in trials] == list(range(40))
    assert all(trial.state.is_finished() for trial in trials)
    for number in range(40):
        lines = (tmp_path / f"done-{number}").read_text().split()
        # one after the other, never two at a time; a killed one was done again
        assert lines[-2:] == ["begin", "end"] and "end end" not in " ".join(lines)
    again = sum((tmp_path / f"done-{n}").read_text().count("begin") - 1 for n in range(40))
    assert again <= 6  # two a kill


def test_a_storage_of_another_study_is_refused(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    open_study(one, sweep_in(one))
    words = ("perturbation.scale=0.1:2",)
    message = "belongs to another study: its search perturbation.scale is '0.1:1', not '0.1:2'"
    with pytest.raises(UserError, match=message):
        open_study(two, sweep_in(two, words=words, storage=str(one / "study.journal")))
    with pytest.raises(UserError, match="holds another sweep: its search perturbation"):
        open_study(one, sweep_in(one, words=words))


def test_a_storage_that_is_none_is_refused_and_left_alone(tmp_path):
    notes = tmp_path / "notes.txt"
    notes.write_text("not a journal")
    with pytest.raises(UserError, match=r"cannot use storage .*notes.txt"):
        open_study(tmp_path / "s", sweep_in(tmp_path / "s", storage=str(notes)))
    assert notes.read_text() == "not a journal"
    with pytest.raises(UserError, match="cannot use storage nosuch://x"):
        open_study(tmp_path / "t", sweep_in(tmp_path / "t", storage="nosuch://x"))
    with pytest.raises(UserError, match=r"exists already and is no sweep"):
        open_study(tmp_path, sweep_in(tmp_path))


def test_a_line_that_was_cut_off_is_no_obstacle(tmp_path):
    sweep = sweep_in(tmp_path, trials=2)
    proposals(tmp_path, sweep)
    file = tmp_path / "study.journal"
    with file.open("a") as journal:
        journal.write(json.dumps({"op_code": 4})[:-3])
    assert len(open_study(tmp_path, sweep).ended()) == 2
    assert len(proposals(tmp_path, sweep._replace(trials=3))) == 3


def test_values_of_choices_are_stored_as_words(tmp_path):
    words = ("policy.hidden-sizes=none|16 16",)
    sweep = sweep_in(tmp_path, trials=3, words=words)
    found = proposals(tmp_path, sweep, lambda params: len(params["policy.hidden_sizes"]))
    (axis,) = sweep.space
    assert isinstance(axis, Choices) and {p["policy.hidden_sizes"] for p in found} <= set(
        axis.words
    )
