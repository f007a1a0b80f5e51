"""One run by several processes, which may be ended in any way; each is a program of its own."""

import os
import signal
import socket
import time
from contextlib import closing

import pytest

from epvf.cli.main import main
from epvf.runs.metrics import read_metrics
from probes import untimed

TRAIN = ["train", "cartpole", "--preset", "debug", "--method", "matched-openes", "--no-report"]
TRAIN += ["--task.episode-length", "100"]


@pytest.fixture
def together(epvf):
    """Starts so many processes of one run."""
    started = []

    def start(*arguments, num=2):
        with closing(socket.create_server(("", 0))) as taken:
            port = taken.getsockname()[1]
        those = [
            epvf.start(
                *arguments,
                *("--coordinator", f"localhost:{port}", "--num-processes", num, "--process-id", i),
            )
            for i in range(num)
        ]
        started.extend(those)
        return those

    yield start
    for process in started:
        process.kill()
        process.communicate()


def _ended(processes):
    """Exit codes, and what was said on stdout and stderr."""
    said = [process.communicate(timeout=300) for process in processes]
    return [(process.returncode, *words) for process, words in zip(processes, said, strict=True)]


def _wait_for_update(run, update):
    end = time.monotonic() + 300
    while time.monotonic() < end:
        file = run / "metrics.jsonl"
        begun = file.exists() and len(file.read_text().splitlines()) > update
        if begun and list(run.glob("checkpoints/0*")):
            return
        time.sleep(0.05)
    raise AssertionError("nothing was trained")


@pytest.mark.slow
def test_two_processes_have_the_numbers_of_one_with_two_devices(
    together, epvf, tmp_path, monkeypatch
):
    asked = [*TRAIN, "--iterations", "3"]
    (code, out, _), (other, nothing, silence) = _ended(together(*asked, "--out", tmp_path / "two"))
    assert (code, other) == (0, 0)
    assert out.startswith("evaluated return") and nothing == silence == ""
    usual = os.environ.get("XLA_FLAGS", "")
    monkeypatch.setenv("XLA_FLAGS", f"{usual} --xla_force_host_platform_device_count=2")
    done = epvf(*asked, "--out", tmp_path / "one", "--devices", "2")
    assert done.returncode == 0, done.stderr
    ours, theirs = (untimed(read_metrics(tmp_path / x / "metrics.jsonl")) for x in ("two", "one"))
    assert len(ours) == 3 and ours == theirs
    policies = [
        (tmp_path / x / "policies" / "best.safetensors").read_bytes() for x in ("two", "one")
    ]
    assert policies[0] == policies[1]


@pytest.mark.slow
def test_the_end_of_one_ends_the_other_and_the_run_goes_on(together, epvf, tmp_path):
    run = tmp_path / "run"
    both = together(*TRAIN, "--iterations", "1000000", "--out", run)
    _wait_for_update(run, 0)
    both[1].send_signal(signal.SIGTERM)  # of either: all save and end
    (code, out, _), (other, *silence) = _ended(both)
    assert (code, other) == (128 + signal.SIGTERM,) * 2
    assert "interrupted after" in out and silence == ["", ""]
    done = len(read_metrics(run / "metrics.jsonl"))

    both = together("resume", run, "--no-report")
    _wait_for_update(run, done)
    both[0].kill()
    other, out, said = _ended(both)[1]
    assert (other, out) == (1, "")
    assert said == "epvf: error: process 0 of the run has ended; what it said tells why\n"

    both = together("resume", run, "--no-report")
    _wait_for_update(run, len(read_metrics(run / "metrics.jsonl")))
    both[1].kill()
    code, out, said = _ended(both)[0]
    assert (code, out) == (1, "")
    assert "error: process 1 of the run has ended; last good checkpoint: " in said.splitlines()[-1]
    assert "Traceback" not in said

    alone = epvf.start("resume", run, "--no-report")  # a part of a mesh is all that it has
    _wait_for_update(run, len(read_metrics(run / "metrics.jsonl")))
    alone.send_signal(signal.SIGTERM)
    assert _ended([alone])[0][0] == 128 + signal.SIGTERM
    updates = [record["steps/update"] for record in read_metrics(run / "metrics.jsonl")]
    assert updates == list(range(1, len(updates) + 1))


def test_bad_input(refused, monkeypatch):
    several = ["--num-processes", "2", "--process-id", "1"]
    for words, message in (
        (several, "several processes need all of --coordinator HOST:PORT"),
        (["--coordinator", "head", *several], "coordinator must be HOST:PORT of process 0"),
        (
            ["--coordinator", "head:80", "--num-processes", "2", "--process-id", "2"],
            "process-id 2 must be one of 0 to 1, as num-processes is 2",
        ),
        (["--coordinator", "head:80", *several, "--zoo", "z"], "--zoo does not go with several"),
        (
            ["--coordinator", "head:80", *several, "--cluster", "local:1"],
            "--cluster does not go with several",
        ),
    ):
        refused(["train", "cartpole", "--preset", "debug", *words], message)
    monkeypatch.setattr("epvf.runtime.meeting.MEETING_SECONDS", 0.1)
    with closing(socket.create_server(("", 0))) as taken:
        nowhere = f"localhost:{taken.getsockname()[1]}"
    words = [*TRAIN, "--coordinator", nowhere]
    refused([*words, *several], f"process 0 of the run is not at {nowhere} (")
    refused(
        [*words, "--num-processes", "3", "--process-id", "0"],
        "of 3 processes these did not come: 1, 2 (waited 0.1 s at",
    )
    assert main(["train", "cartpole", "--dry-run", "--num-processes", "1"]) == 0
    assert "SLURM_JOB_ID" not in os.environ
