"""Jobs under submitit: done, failed, warned and queued again."""

import os
import signal
import sys
import threading
import time
from functools import partial

import pytest

from epvf.errors import RunFailed, UserError
from epvf.experiments.launch import slurm
from epvf.experiments.launch.job import Job
from epvf.experiments.launch.launcher import Launcher, understood
from epvf.runs.interrupt import Interrupt

pytest.importorskip("submitit", reason="the extra slurm is not installed")


def _note(file, display):
    file.write_text("done")
    return 0


def _fail(error, display):
    raise error


def _last_long(folder, display):
    """Counts its sessions, and needs two: the first lasts until it is told to end."""
    sessions = folder / "sessions"
    with sessions.open("a") as file:
        file.write("x")
    if len(sessions.read_text()) > 1:
        (folder / "done").touch()
        return 0
    interrupt = Interrupt(display.announce)
    with interrupt.listening():
        (folder / "pid").write_text(str(os.getpid()))
        while interrupt.received is None:
            time.sleep(0.02)
        (folder / "saved").touch()
    return interrupt.exit_code


def _run(folder, jobs, kind, tell=lambda message: None):
    return slurm.run(folder, jobs, 2, tell, {}, kind)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A process that submitit starts finds this module, and checks no annotations."""
    paths = [os.path.dirname(__file__), *sys.path]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setenv("EPVF_CONTRACTS", "0")
    monkeypatch.setitem(sys.modules, "test_slurm", sys.modules[__name__])
    for call in (_note, _fail, _last_long):
        monkeypatch.setattr(call, "__module__", "test_slurm")


@pytest.mark.filterwarnings(  # submitit's log files are closed by the garbage collector
    "ignore:unclosed file:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_jobs_are_done_in_this_process(tmp_path):
    files = [tmp_path / name for name in "ab"]
    told: list[str] = []
    jobs = [Job(file.name, partial(_note, file)) for file in files]
    assert _run(tmp_path / "jobs", jobs, "debug", told.append) == 0
    assert all(file.read_text() == "done" for file in files)
    assert told[-1].startswith("b: finished, 2/2")


@pytest.mark.slow
def test_a_job_that_is_warned_saves_is_queued_again_and_goes_on(tmp_path):
    def warn():
        while not (tmp_path / "pid").exists():
            time.sleep(0.02)
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGUSR2)

    threading.Thread(target=warn, daemon=True).start()
    job = Job("long", partial(_last_long, tmp_path))
    assert _run(tmp_path / "jobs", [job], "local") == 0
    assert (tmp_path / "saved").exists() and (tmp_path / "done").exists()
    assert (tmp_path / "sessions").read_text() == "xx"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (partial(_fail, UserError("no such task")), UserError, "run bad: no such task"),
        (partial(_fail, ZeroDivisionError("by none")), RunFailed, "ZeroDivisionError: by none"),
    ],
)
def test_what_a_job_raises_comes_back_in_a_line(call, kind, message, tmp_path):
    with pytest.raises(kind, match=message) as raised:
        _run(tmp_path / "jobs", [Job("bad", call)], "local")
    assert "\n" not in str(raised.value)


FAKE = {
    "srun": "exit 1",
    "sbatch": """
        id=$(($(ls *.sh 2>/dev/null | wc -l) + 1)); cp "${@: -1}" $id.sh
        (while :; do
            rm -f $id.again
            SLURM_JOB_ID=$id SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 SLURM_NODEID=0 \\
                SLURM_PROCID=0 SLURM_LOCALID=0 setsid bash $id.sh
            [ -e $id.again ] || break
        done; touch $id.over) > $id.out 2>&1 &
        echo "Submitted batch job $id"
    """,
    "sacct": """
        echo "JobID|State|NodeList"
        for file in *.sh; do
            id=${file%.sh}; [ -e $id.over ] && state=COMPLETED || state=RUNNING
            echo "$id|$state|here"
        done
    """,
    "scontrol": 'touch "$2.again"',
}
"""As much of SLURM as submitit needs: jobs that begin at once, on this machine."""


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """Where a stand-in for SLURM keeps its jobs."""
    folder = tmp_path / "queue"
    folder.mkdir()
    for name, text in FAKE.items():
        program = folder / name
        program.write_text(f"#!/bin/bash\ncd {folder}\n{text}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


@pytest.mark.slow
def test_slurm_queues_a_warned_job_again_and_a_second_driver_finds_it(tmp_path, queue):
    told: list[str] = []
    job = Job("long", partial(_last_long, tmp_path))
    options = {"slurm_use_srun": False, "timeout_min": 10}
    # a driver that is killed as soon as it has queued its job
    first = slurm._Queue(tmp_path / "jobs", options, "slurm").start(job)
    while not (tmp_path / "pid").exists():
        time.sleep(0.02)
    threading.Timer(
        1.0, lambda: os.kill(int((tmp_path / "pid").read_text()), signal.SIGUSR2)
    ).start()
    assert slurm.run(tmp_path / "jobs", [job], 1, told.append, options) == 0
    assert (tmp_path / "sessions").read_text() == "xx" and (tmp_path / "done").exists()
    assert len(list(queue.glob("*.sh"))) == 1, first
    assert told[-1].startswith("long: finished, 1/1")


def test_bad_input_is_refused_in_a_line(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    nowhere = Launcher("slurm", None, {})
    with pytest.raises(UserError, match="there is no SLURM here: srun is not found"):
        nowhere.run(tmp_path, [Job("a", partial(_note, tmp_path / "a"))], print)
    with pytest.raises(UserError, match=r"submitit refuses these --resources: .*pipes"):
        slurm.run(tmp_path, [], 1, print, {"pipes": 3}, "local")
    for words, message in (
        (("slrm", None, []), "unknown launcher 'slrm'"),
        (("slurm", 0, []), "jobs is 0, but must be at least 1"),
        (("slurm", 1, ["timeout_min"]), "give NAME=VALUE, such as timeout_min=240"),
        (("local", 1, ["timeout_min=4"]), "--resources are asked of slurm and ray"),
        (("slurm", 1, []), "there is no SLURM here: srun is not found"),
    ):
        with pytest.raises(UserError, match=message):
            understood(*words)
    (tmp_path / "srun").touch(mode=0o755)
    assert understood("slurm", 3, ["timeout_min=4", "slurm_partition=gpu"]) == Launcher(
        "slurm", 3, {"timeout_min": 4, "slurm_partition": "gpu"}
    )


def test_a_missing_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"SLURM needs submitit: pip install 'epvf\[slurm\]'"):
        _run(tmp_path, [], "local")
