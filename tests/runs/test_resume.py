"""Stopping a run in every way and going on: to the bit as if nothing had happened."""

import json
import os
import shutil
import signal
import time

import pytest

from epvf.cli.main import main
from epvf.runs.interrupt import Interrupt, Interrupted
from epvf.runs.metrics import read_metrics
from probes import assert_same_run, interrupted_copy

CARTPOLE = (
    *("train", "cartpole", "--preset", "debug", "--iterations", "24"),
    *("--checkpoint.every-iterations", "1"),
)
ANT = (
    *("train", "ant", "--preset", "debug", "--backend", "native", "--iterations", "8"),
    *("--num-envs", "64", "--task.episode-length", "200", "--checkpoint.every-iterations", "1"),
)
PATIENCE = 120.0


def _status(run):
    return json.loads((run / "run.json").read_text())["status"]


def _checkpoints(run):
    """Complete checkpoints, and those being written."""
    names = [path.name for path in (run / "checkpoints").glob("*")]
    whole = [name for name in names if name.isdigit()]
    return sorted(whole), sorted(set(names) - set(whole))


def _wait(process, condition):
    """Polls fast until the condition holds; the process must live until then."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory):
    """An uninterrupted run of CartPole."""
    run = tmp_path_factory.mktemp("whole") / "cartpole"
    assert main([*CARTPOLE, "--out", str(run)]) == 0
    return run


@pytest.fixture(scope="module")
def ant(tmp_path_factory):
    """An uninterrupted run of the Ant on the host."""
    run = tmp_path_factory.mktemp("whole") / "ant"
    assert main([*ANT, "--out", str(run)]) == 0
    return run


@pytest.mark.slow
def test_killed_while_saving_a_run_goes_on_as_if_nothing_had_happened(cartpole, epvf, capsys):
    run = epvf.folder / "run"
    process = epvf.start(*CARTPOLE, "--out", run)
    _wait(process, lambda: _checkpoints(run)[0] and _checkpoints(run)[1])
    assert main(["resume", str(run)]) == 2
    assert "in use by another process" in capsys.readouterr().err
    _wait(process, lambda: _checkpoints(run)[1])
    process.kill()
    process.communicate()
    assert _status(run) == "running"
    assert main(["resume", str(run)]) == 0
    assert _status(run) == "finished"
    assert_same_run(run, cartpole)
    assert _checkpoints(run)[1] == []


@pytest.mark.slow
def test_killed_within_a_rollout_a_host_task_goes_on_too(ant, epvf):
    run = epvf.folder / "run"
    process = epvf.start(*ANT, "--out", run)
    _wait(process, lambda: len(_checkpoints(run)[0]) >= 2)
    process.kill()
    process.communicate()
    assert main(["resume", str(run)]) == 0
    assert_same_run(run, ant)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "number", "code"), [("ant", signal.SIGINT, 130), ("cartpole", signal.SIGTERM, 143)]
)
def test_a_signal_ends_a_run_cleanly_and_saved(task, number, code, epvf, request):
    run = epvf.folder / "run"
    process = epvf.start(*(ANT if task == "ant" else CARTPOLE), "--out", run)
    _wait(process, lambda: _checkpoints(run)[0])
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == code
    assert f"go on: epvf resume {run}" in stdout and "Traceback" not in stderr
    assert "saving the run and ending" in stderr
    assert _status(run) == "interrupted"
    done = len(read_metrics(run / "metrics.jsonl"))
    # What was done last is what was saved last.
    assert _checkpoints(run)[0][-1] == f"{done:012}"
    assert main(["resume", str(run)]) == 0
    assert_same_run(run, request.getfixturevalue(task))


@pytest.mark.slow
def test_killed_before_the_first_checkpoint_a_run_starts_again(cartpole, epvf):
    run = epvf.folder / "run"
    process = epvf.start(*CARTPOLE, "--out", run)
    _wait(process, lambda: (run / "run.json").exists())
    process.kill()
    process.communicate()
    assert _checkpoints(run)[0] == []
    (run / "metrics.jsonl").write_text('{"steps/update": 1, "x": 1}\n{"steps/up')
    assert main(["resume", str(run)]) == 0
    assert_same_run(run, cartpole)


def test_resuming_a_finished_run_says_so(cartpole, capsys):
    before = (cartpole / "run.json").read_text()
    assert main(["resume", str(cartpole)]) == 0
    assert capsys.readouterr().out.startswith(f"run {cartpole} is finished; nothing to do")
    assert main(["resume", str(cartpole), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "finished"
    assert (cartpole / "run.json").read_text() == before


@pytest.mark.slow
def test_a_damaged_checkpoint_is_told_in_one_line(cartpole, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(cartpole, run)
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(info | {"status": "interrupted"}))
    newest = run / "checkpoints" / _checkpoints(run)[0][-1]
    for data in newest.rglob("d/*"):
        data.write_bytes(b"")
    assert main(["resume", str(run)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "is damaged" in err and len(err) < 400

    # What it says helps.
    shutil.rmtree(newest)
    assert main(["resume", str(run)]) == 0
    assert_same_run(run, cartpole)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        # a buffer that one iteration does not fill
        ("--value.condition", "policy+state", "--buffer.size", "100"),
        ("--buffer.store", "seeds", "--buffer.size", "96"),
    ],
)
def test_all_that_a_buffer_may_hold_is_resumed(tmp_path, options):
    whole, run = tmp_path / "whole", tmp_path / "run"
    options = (*options, "--num-seeds", "2", "--iterations", "6")
    assert main([*CARTPOLE, *options, "--out", str(whole)]) == 0
    interrupted_copy(whole, run)
    assert main(["resume", str(run)]) == 0
    assert_same_run(run, whole)


def test_a_signal_leaves_a_rollout_at_once_and_a_second_ends_everything():
    heard: list[str] = []
    with Interrupt(heard.append).listening() as interrupt:
        with pytest.raises(Interrupted), interrupt.in_rollout():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        with pytest.raises(Interrupted), interrupt.in_rollout():
            pytest.fail("a new rollout does not start any more")
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
    assert (interrupt.received, interrupt.exit_code) == (signal.SIGTERM, 143)
    assert len(heard) == 1


def test_between_rollouts_a_signal_is_only_noted():
    before = signal.getsignal(signal.SIGINT)
    with Interrupt(lambda message: None).listening() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
    assert interrupt.received == signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is before
