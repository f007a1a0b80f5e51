"""Runs side by side: each on its own cores, ended together, with the first error told."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from epvf.cli.main import main
from epvf.errors import RunFailed, UserError
from epvf.experiments.launch.job import Job
from epvf.experiments.launch.local import run, shares
from epvf.runs.metrics import read_metrics
from epvf.runtime import signals

PINNED = hasattr(os, "sched_getaffinity")
CORES = sorted(os.sched_getaffinity(0) if PINNED else range(os.cpu_count() or 1))

two_cores = pytest.mark.skipif(len(CORES) < 2 or not PINNED, reason="needs two cores to choose of")


def _note(folder, name, display):
    begin = time.time()
    display.announce("here")
    time.sleep(0.5)
    facts = {"cores": sorted(os.sched_getaffinity(0)), "begin": begin, "end": time.time()}
    (folder / name).write_text(json.dumps(facts))
    return 0


def _sleep(folder, name, display):
    (folder / name).touch()
    time.sleep(120)
    return 0


def _end_well(folder, name, display):
    received: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: received.append(number))
    with signals.saving():
        (folder / name).touch()
        while not received:
            time.sleep(0.05)
    return 0


def _fail(error, display):
    raise error


def _die(display):
    os.kill(os.getpid(), signal.SIGKILL)


def _jobs(folder, call, *names):
    return [Job(name, partial(call, folder, name)) for name in names]


def test_the_cores_are_shared_out_and_no_core_is_shared():
    assert shares(1) == [tuple(CORES)]
    for wrong in (0, len(CORES) + 1):
        with pytest.raises(UserError, match=f"jobs is {wrong}, but must be from 1 to {len(CORES)}"):
            shares(wrong)
    assert sorted(core for part in shares(len(CORES)) for core in part) == CORES


@pytest.mark.slow
@two_cores
def test_as_many_run_at_a_time_as_there_are_parts_each_on_its_own(tmp_path, capfd):
    told: list[str] = []
    parts = [(CORES[0],), (CORES[1],)]
    assert run(_jobs(tmp_path, _note, "a", "b", "c"), parts, told.append) == 0
    facts = {path.name: json.loads(path.read_text()) for path in tmp_path.iterdir()}
    assert {tuple(facts[name]["cores"]) for name in "ab"} == set(parts)
    first = min(facts[name]["end"] for name in "ab")
    assert facts["c"]["begin"] > first
    assert told[-1] == "c: finished, 3/3, all left 0:00" and len(told) == 3
    assert sorted(capfd.readouterr().err.splitlines()) == ["a: here", "b: here", "c: here"]


@pytest.mark.slow
@two_cores
@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (partial(_fail, UserError("no such task")), UserError, "run bad: no such task"),
        (partial(_fail, RunFailed("diverged")), RunFailed, "run bad: diverged"),
        (partial(_fail, ZeroDivisionError()), RunFailed, "run bad: ended with exit code 1"),
        (_die, RunFailed, "run bad: ended by signal 9"),
    ],
)
def test_the_first_error_ends_the_others(call, kind, message, tmp_path):
    jobs = [*_jobs(tmp_path, _sleep, "long"), Job("bad", call), *_jobs(tmp_path, _sleep, "never")]
    begin = time.monotonic()
    with pytest.raises(kind, match=message):
        run(jobs, [(CORES[0],), (CORES[1],)], lambda message: None)
    assert time.monotonic() - begin < 60
    assert not (tmp_path / "never").exists()


def _send_when_there(number, *files):
    def send():
        while not all(file.exists() for file in files):
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    threading.Thread(target=send, daemon=True).start()


@pytest.mark.slow
@two_cores
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_goes_on_to_all_and_nothing_more_begins(number, tmp_path):
    _send_when_there(number, tmp_path / "a", tmp_path / "b")
    told: list[str] = []
    jobs = _jobs(tmp_path, _sleep, "a", "b", "c")
    assert run(jobs, [(CORES[0],), (CORES[1],)], told.append) == 128 + number
    assert sorted(told[1:]) == ["a: interrupted", "b: interrupted"]
    assert not (tmp_path / "c").exists()


@pytest.mark.slow
def test_a_signal_counts_though_what_runs_ends_well(tmp_path):
    for names, code in ((("last",), 0), (("first", "never"), 128 + signal.SIGINT)):
        _send_when_there(signal.SIGINT, tmp_path / names[0])
        jobs = _jobs(tmp_path, _end_well, *names)
        assert run(jobs, [(CORES[0],)], lambda message: None) == code
    assert not (tmp_path / "never").exists()


@pytest.mark.slow
@two_cores
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes in /proc")
def test_ctrl_c_while_the_processes_start_is_one_clean_end(epvf, tmp_path):
    process = epvf.start(
        *("compare", "cartpole", "--preset", "debug", "--methods", "epvf", "ridge"),
        *("--env-steps", "3e3", "--seeds", "1", "--jobs", "2", "--out", "arena"),
    )
    with process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        deadline = time.monotonic() + 120
        # multiprocessing's own and both runs
        while len(children.read_text().split()) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.3)  # they import then, which takes longer
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate()
    assert process.returncode == 130, stderr
    assert "interrupted; the same command goes on with arena" in stdout
    assert "Traceback" not in stderr and stderr.count("interrupted") == 2


@pytest.mark.slow
@two_cores
def test_a_comparison_side_by_side_is_the_one_made_one_by_one(workplace, capsys):
    quick = ["compare", "cartpole", "--preset", "debug", "--env-steps", "3e3", "--seeds", "1"]
    for jobs in "12":
        out = ["--jobs", jobs, "--out", jobs]
        assert main([*quick, "--methods", "epvf", "ridge", *out]) == 0
    for name in ("epvf-s0", "ridge-s0"):
        one, other = (
            [
                {key: value for key, value in record.items() if not key.startswith("time/")}
                for record in read_metrics(Path(jobs, "runs", name, "metrics.jsonl"))
            ]
            for jobs in "12"
        )
        assert one == other


def test_more_jobs_than_cores_are_refused_before_anything_is_written(workplace, capsys):
    for command in (
        ["compare", "cartpole", "--methods", "epvf", "--env-steps", "9"],
        ["experiment", "fig1"],
    ):
        assert main([*command, "--jobs", "4096"]) == 2
        assert "jobs is 4096, but must be from 1 to" in capsys.readouterr().err
    assert list(workplace.iterdir()) == []


_PARENT = """
import sys
from functools import partial
from pathlib import Path
sys.path.insert(0, {here!r})
from test_local import _end_at_sigterm
from epvf.experiments.launch.job import Job
from epvf.experiments.launch.local import run, shares

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    run([Job("a", partial(_end_at_sigterm, folder))], shares(1), print)
"""


def _end_at_sigterm(folder, display):
    received: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    with signals.saving():
        (folder / "begun").touch()
        while not received:
            time.sleep(0.02)
        (folder / "saved").touch()
    return 143


@pytest.mark.slow
def test_runs_save_and_end_when_their_parent_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(_PARENT.format(here=str(Path(__file__).parent)))
    paths = [str(Path(__file__).parents[3] / "src"), str(Path(__file__).parents[2])]
    paths += filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "EPVF_CONTRACTS": "0"}
    with subprocess.Popen([sys.executable, script, str(tmp_path)], env=env) as parent:
        while not (tmp_path / "begun").exists():
            assert parent.poll() is None
            time.sleep(0.02)
        parent.kill()
    begin = time.monotonic()
    while not (tmp_path / "saved").exists():
        assert time.monotonic() - begin < 20
        time.sleep(0.02)
