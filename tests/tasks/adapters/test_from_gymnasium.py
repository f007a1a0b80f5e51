"""Tasks `gymnasium:ID`: environments in processes of their own."""

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import foreign
from conftest import SOURCE
from epvf.cli.main import main
from epvf.config.presets import default_method
from epvf.errors import RunFailed, UserError
from epvf.policies.mlp import Policy
from epvf.runs.metrics import read_metrics
from epvf.tasks import make
from epvf.tasks.adapters import workers
from epvf.tasks.base import explorer_of
from epvf.tasks.registry import engines, is_discrete
from epvf.training.prepare import prepare
from probes import config_of

WALK = "gymnasium:foreign:Walk-v0"
POLICY = Policy((2, 4, 1), "tanh", "tanh")
KEY = jax.random.key(3)


@pytest.fixture
def processes(monkeypatch):
    """All that are started in a test."""
    started: list[workers._Process] = []
    start = workers._started

    def noted():
        started.append(start())
        return started[-1]

    monkeypatch.setattr(workers, "_started", noted)
    return started


def _ended(processes):
    return [process.popen.poll() is not None for process in processes]


def _thetas(num, policy=POLICY):
    return np.random.default_rng(0).normal(size=(num, policy.num_parameters)).astype(np.float32)


def test_sizes_of_gymnasium_s_own() -> None:
    pole, pendulum = make("gymnasium:CartPole-v1").spec, make("gymnasium:Pendulum-v1").spec
    assert (pole.observation_size, pole.action_size, pole.discrete) == (4, 2, True)
    assert (pendulum.observation_size, pendulum.action_size, pendulum.discrete) == (3, 1, False)
    assert (pole.episode_length, pendulum.episode_length) == (500, 200)
    assert (pole.name, pole.backend) == ("gymnasium:CartPole-v1", "gymnasium")
    assert not (pole.traceable or pole.deterministic_reset)
    assert engines("gymnasium:CartPole-v1") == ("gymnasium",)
    assert make("gymnasium:CartPole-v1", episode_length=700).spec.episode_length == 700


def test_returns_do_not_depend_on_who_computes_them(processes) -> None:
    thetas = _thetas(23)
    thetas[5] = np.nan
    told = []
    for num in (1, 2):
        evaluate = make(WALK, num_threads=num).evaluator(POLICY)
        told.append(evaluate(KEY, thetas))
        again = evaluate(KEY, thetas)
        np.testing.assert_array_equal(again.returns, told[-1].returns)
        for ours, theirs in zip(told[0], told[-1], strict=True):
            np.testing.assert_array_equal(ours, theirs)
    other = evaluate(jax.random.key(4), thetas)
    assert not np.array_equal(other.starts, told[0].starts)
    assert np.isnan(told[0].returns[5]) and told[0].lengths[5] == 0
    assert np.isfinite(np.delete(told[0].returns, 5)).all() and told[0].lengths.max() == 8
    assert (told[0].returns.dtype, told[0].lengths.dtype) == (np.float32, np.int32)
    del evaluate
    gc.collect()
    assert all(_ended(processes)), "processes end with their task"


def test_segments_do_not_depend_on_who_computes_them() -> None:
    thetas = _thetas(7)
    segments = []
    for num in (1, 2):
        explore = explorer_of(make(WALK, num_threads=num), POLICY, 5)
        envs = explore.reset(KEY, 7)
        first = explore(KEY, thetas, envs)
        segments.append((first, explore(KEY, thetas, first.envs)))
    for one, other in zip(*segments, strict=True):
        for ours, theirs in zip(one[:5], other[:5], strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert one.observations.shape == (7, 6, 2) and one.outputs.shape == (7, 5, 1)
    ended = segments[0][1]
    assert ended.truncated.any() and ended.envs.finished_steps.max() == 8
    np.testing.assert_array_equal(ended.observations[:, 0], segments[0][0].observations[:, -1])


def test_given_an_older_state_an_episode_begins() -> None:
    explore = explorer_of(make(WALK, num_threads=1), POLICY, 5)
    thetas = _thetas(3)
    first = explore(KEY, thetas, explore.reset(KEY, 3))
    explore(KEY, thetas, first.envs)
    again = explore(KEY, thetas, first.envs)
    assert (again.observations[:, 0, 1] == 0.0).all(), "no step has been taken there"
    assert (again.envs.steps <= 5).all()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gymnasium:CartPol-v1", "unknown environment 'CartPol-v1' of gymnasium.*'CartPole-v1'"),
        ("gymnasium:foreign:Wlk-v0", "unknown environment 'Wlk-v0'"),
        ("gymnasium:ALE/Pong-v5", "gymnasium:PACKAGE:ALE/Pong-v5"),
        ("gymnasium:no_such:Walk-v0", "cannot import 'no_such'"),
        ("gymnasium:", "lacks an environment's id, as in 'gymnasium:"),
        ("gymnasium:foreign:Endless-v0", "may never end: set task.episode_length"),
        ("gymnasium:foreign:Image-v0", r"observes images \(8x8x3\)"),
        ("gymnasium:foreign:Graph-v0", "observes a graph"),
        ("gymnasium:foreign:Sequence-v0", "its actions are a sequence"),
        ("gymnasium:foreign:Unmade-v0", "RuntimeError: no display name and no .DISPLAY"),
        ("gymnasium:foreign:Unset-v0", "RuntimeError: no display name"),
        ("gymnasium:foreign:Unstepped-v0", "RuntimeError: no display name"),
        ("gymnasium:foreign:Abort-v0", "ended with SIGABRT: its environment crashed"),
    ],
)
def test_what_is_wrong_is_told_in_a_line_before_anything_is_written(
    name, message, processes
) -> None:
    with pytest.raises(UserError, match=message) as error:
        prepare(config_of(task__name=name, task__num_threads=1, policy__output="clip"))
    assert "\n" not in str(error.value) and len(str(error.value)) <= 200
    assert all(_ended(processes))


@pytest.mark.parametrize(
    ("name", "message"),
    [("Later-v0", "RuntimeError: no display"), ("Exit-v0", "ended with exit code 7")],
)
def test_a_crash_in_a_process_ends_all(name, message, processes) -> None:
    evaluate = make(f"gymnasium:foreign:{name}", num_threads=2).evaluator(POLICY)
    assert not any(_ended(processes))
    with pytest.raises(UserError, match=message) as error:
        evaluate(KEY, np.zeros((6, POLICY.num_parameters), np.float32))
    assert "\n" not in str(error.value)
    assert len(processes) == 2 and all(_ended(processes))


def test_a_process_that_somebody_killed(processes) -> None:
    evaluate = make(WALK, num_threads=2).evaluator(POLICY)
    processes[1].popen.kill()
    with pytest.raises(RunFailed, match="SIGKILL: somebody ended it, or memory ran out"):
        evaluate(KEY, _thetas(6))
    assert all(_ended(processes))
    # and are started anew for who asks again
    assert np.isfinite(evaluate(KEY, _thetas(6)).returns).all()


def test_an_interrupt_ends_all(processes) -> None:
    evaluate = make("gymnasium:Pendulum-v1", num_threads=2, episode_length=10**6).evaluator(
        Policy((3, 1))
    )
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.5, signal.raise_signal, [signal.SIGINT])
    try:
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            evaluate(KEY, np.zeros((2, 4), np.float32))
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, handler)
    assert all(_ended(processes))


def test_an_endless_environment_with_an_end(processes) -> None:
    name = "gymnasium:foreign:Endless-v0"
    assert default_method(name, "tuned") == "psvf" and not is_discrete(name)
    task = make(name, episode_length=6, num_threads=1)
    told = task.evaluator(POLICY)(KEY, _thetas(5))
    assert task.spec.episode_length == 6 and told.lengths.max() == 6


def test_what_environments_print_is_no_result(capfd) -> None:
    make("gymnasium:foreign:Print-v0", num_threads=1).evaluator(POLICY)(KEY, _thetas(2))
    told = capfd.readouterr()
    assert told.out == "" and "I am here" in told.err


def test_what_mujoco_warns_of_leaves_no_file(workplace, capfd) -> None:
    make("gymnasium:foreign:Unsound-v0", num_threads=1).evaluator(POLICY)(KEY, _thetas(2))
    assert list(workplace.iterdir()) == [] and capfd.readouterr() == ("", "")


def test_options_and_actions_are_refused_in_words() -> None:
    with pytest.raises(UserError, match="num_slots goes with backend 'jax' and 'mjx'"):
        make(WALK, num_slots=3)
    with pytest.raises(UserError, match=r"unknown backend.*'native'; valid: auto, gymnasium"):
        make(WALK, "native")
    with pytest.raises(UserError, match="cannot be replayed: it starts in random states"):
        make(WALK).replay(np.zeros((1, 1, 1), np.float32))


def test_bare_steps() -> None:
    task = make(WALK, num_threads=2)
    stepped = task.bare_stepper(POLICY, _thetas(5))()
    assert stepped.steps == 5 * 200 and stepped.seconds > 0.0


def _debug(folder, *more):
    return [
        *("train", WALK, "--preset", "debug", "--out", str(folder), "--task.num-threads", "2"),
        *("--num-envs", "8", *more),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["epvf", "psvf"])
def test_a_run_is_found_again(method, workplace, capfd) -> None:
    assert main(_debug("run", "--method", method)) == 0
    assert json.loads(Path("run/config.json").read_text())["task"]["name"] == WALK
    records = read_metrics(Path("run/metrics.jsonl"))
    assert np.isfinite([r["rollout/episode_length"] for r in records][-1])
    capfd.readouterr()
    assert main(["eval", "run", "--episodes", "5", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["task"] == WALK and told["engine"] == "gymnasium" and told["episodes"] == 5
    assert main(["resume", "run", "--iterations", "7"]) == 0
    records = read_metrics(Path("run/metrics.jsonl"))
    assert records[-1]["steps/update"] == 7


def _children(pid):
    """Processes of a process, by /proc."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _within(seconds, condition):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_a_run(number, epvf, monkeypatch) -> None:
    here = str(Path(foreign.__file__).parent)
    paths = filter(None, [here, os.environ.get("PYTHONPATH")])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    arguments = _debug("run", "--iterations", "1000000", "--method", "epvf")
    with epvf.start(*arguments) as process:
        metrics = epvf.folder / "run" / "metrics.jsonl"
        _within(120, lambda: process.poll() is None and metrics.exists() and metrics.stat().st_size)
        children = _children(process.pid)
        assert len(children) == 2
        os.kill(process.pid, number)
        _, stderr = process.communicate()
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), stderr
    _within(5, lambda: not any(map(_alive, children)))
    assert "Traceback" not in stderr


SCRIPT = """import gymnasium, jax, numpy as np
import epvf
print("once")
class Mine(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (1,))
    action_space = gymnasium.spaces.Discrete(2)
    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}
    def step(self, action):
        return np.zeros(1, np.float32), 1.0, False, False, {}
gymnasium.register("Mine-v0", Mine, max_episode_steps=3)
task = epvf.make("gymnasium:Mine-v0", num_threads=2)
evaluate = task.evaluator(epvf.Policy((1, 2), output="argmax"))
print(evaluate(jax.random.key(0), np.zeros((2, 4), np.float32)).returns.tolist())
"""


def test_a_script_needs_no_guard(workplace) -> None:
    """Processes do not run it again, as those of `multiprocessing` would; they get its classes."""
    Path("script.py").write_text(SCRIPT)
    paths = os.pathsep.join([str(SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])])
    run = [sys.executable, "script.py"]
    environment = os.environ | {"PYTHONPATH": paths}
    told = subprocess.run(run, env=environment, capture_output=True, text=True)
    assert told.stdout == "once\n[3.0, 3.0]\n", told.stderr
