"""Signals from the first moment to the last, closed pipes, and parents that die."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import SOURCE
from epvf.runs.interrupt import Interrupt
from epvf.runtime import signals

LONG = (
    *("train", "cartpole", "--preset", "debug", "--method", "openes", "--iterations", "100000"),
    *("--checkpoint.every-iterations", "50", "--eval.interval", "1000"),
)
PATIENCE = 120.0


def _wait(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _saved(run):
    return any(path.name.isdigit() for path in (run / "checkpoints").glob("*"))


def _status(run):
    return json.loads((run / "run.json").read_text())["status"]


GUARDED = """
import os, signal, sys, time
from epvf.runtime import signals
signals.guard()
signals.add_note(lambda: os.write(1, b"noted "))
number = int(sys.argv[1])
{wait}
os.kill(os.getpid(), number)
time.sleep(60)
"""


def _guarded(number, wait="", **options):
    return subprocess.run(
        [sys.executable, "-c", GUARDED.format(wait=wait), str(int(number))],
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        **options,
    )


@pytest.mark.parametrize("number", signals.ENDING)
def test_a_signal_ends_a_program_at_once_after_its_notes(number):
    done = _guarded(number)
    assert (done.returncode, done.stdout) == (128 + number, "noted ")
    assert done.stderr == "epvf: error: interrupted\n"


def test_a_callback_of_the_garbage_collector_swallows_no_signal():
    # in which an exception of a handler would be lost
    wait = """
import gc
gc.callbacks.append(lambda *_: (os.kill(os.getpid(), number), time.sleep(60)))
gc.collect()
"""
    assert _guarded(signal.SIGINT, wait).returncode == 130


def test_what_the_main_thread_is_busy_with_holds_no_signal_up():
    # it does not come back to Python here for minutes, as when XLA compiles
    wait = """
import hashlib, threading
threading.Timer(0.2, lambda: os.kill(os.getpid(), number)).start()
hashlib.pbkdf2_hmac("sha256", b"x", b"y", 10**9)
"""
    begin = time.monotonic()
    assert _guarded(signal.SIGTERM, wait).returncode == 143
    assert time.monotonic() - begin < 20


def test_what_was_ignored_from_the_start_stays_ignored():
    ignored = "raise SystemExit(0 if number not in signals.handled() else 1)"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert _guarded(signal.SIGHUP, ignored).returncode == 0
        with Interrupt(lambda message: None).listening() as interrupt:
            os.kill(os.getpid(), signal.SIGHUP)
        assert interrupt.received is None
    finally:
        signal.signal(signal.SIGHUP, before)
    assert _guarded(signal.SIGHUP, ignored).returncode == 1


def test_while_a_run_saves_only_a_second_ctrl_c_ends_it():
    wait = (
        "with signals.saving():\n"
        "    os.kill(os.getpid(), signal.SIGTERM); time.sleep(0.1)\n"
        "    os.kill(os.getpid(), signal.SIGTERM); time.sleep(0.1)\n"
        "    os.kill(os.getpid(), signal.SIGINT); time.sleep(0.5)\n"  # passed on by a wrapper
        "    print('saved', end=' ', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT); time.sleep(60)\n"
    )
    done = _guarded(signal.SIGUSR1, wait)
    assert (done.returncode, done.stdout) == (130, "saved noted ")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGHUP])  # test_storm.py sends all kinds
def test_what_schedulers_and_terminals_send_saves_the_run(number, epvf):
    run = epvf.folder / "run"
    process = epvf.start(*LONG, "--out", run)
    _wait(lambda: _saved(run))
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number
    assert f"go on: epvf resume {run}" in stdout and "Traceback" not in stderr
    assert _status(run) == "interrupted"


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.3, 1.5])
def test_ctrl_c_while_starting_is_one_clean_end(seconds, epvf):
    run = epvf.folder / "run"
    process = epvf.start(*LONG, "--out", run)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and "Traceback" not in stderr
    if (run / "run.json").exists():
        assert _status(run) == "interrupted"


@pytest.mark.slow
def test_where_nobody_reads_any_more_training_goes_on(epvf):
    run = epvf.folder / "run"
    process = epvf.start(*LONG, "--out", run)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    process.stderr.close()
    _wait(lambda: _saved(run))
    newest = max((run / "checkpoints").iterdir())
    _wait(lambda: not newest.exists())
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 143
    assert _status(run) == "interrupted"


@pytest.mark.slow
def test_runs_end_saved_when_the_process_that_started_them_is_killed(epvf):
    process = epvf.start(
        *("compare", "cartpole", "--preset", "debug", "--methods", "openes", "--seeds", "1"),
        *("--env-steps", "1e9", "--jobs", "2", "--out", "arena"),
    )
    if len(os.sched_getaffinity(0)) < 2:
        process.kill()
        process.communicate()
        pytest.skip("needs two cores")
    run = epvf.folder / "arena" / "runs" / "openes-s0"
    _wait(lambda: _saved(run) or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    process.kill()
    process.wait()
    _wait(lambda: _status(run) == "interrupted")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    process.stderr.close()
    assert Path(run / "metrics.jsonl").stat().st_size > 0
