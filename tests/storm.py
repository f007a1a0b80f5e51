"""Runs that are ended at random moments, by kill -9 or by signals of all kinds, from a seed.

    python tests/storm.py --kills 200 --signals 200 --seed 0

A run is begun, ended and resumed until it has finished, then compared with one that nobody
disturbed. Each end is counted by where it came: while the program started, while it trained, within
the writing of a checkpoint. One line for each end after which something was lost, stuck or said
wrongly. `tests/runs/test_storm.py` tries a few.

Most programs are forked off this one, which has imported everything but has not started JAX, so
that many can be tried; every fourth is started afresh.
"""

import argparse
import collections
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from epvf.errors import LONGEST_LINE, UserError
from epvf.policies.formats.safetensors import read_policy
from epvf.runs.folder import current_info, read_info
from epvf.runs.metrics import read_metrics
from epvf.runtime import signals

METHODS = ("openes", "epvf")
PATIENCE = 60.0
"""Seconds after which a program that was told to end counts as stuck."""

ENDLESS = 600.0
AFRESH = 1 / 4
"""Share of the programs that are started by the interpreter, imports and all."""

MOST_LINES = 4
"""Iterations that a program is left to do at most before it is ended."""

SMALL = (
    *("--preset", "debug", "--no-report"),
    *("--checkpoint.every-iterations", "1", "--checkpoint.keep", "3"),
)


class End(NamedTuple):
    """How a program ended.

    Attributes:
        code: its exit code, negative where a signal killed it.
        begun: whether it had told of an iteration.
        stderr: what it said.
        seconds: from the signal to its end.
    """

    code: int
    begun: bool
    stderr: str
    seconds: float


class Program:
    """The command line in a process of its own, forked or started afresh."""

    def __init__(self, words: list[str], folder: Path, afresh: bool) -> None:
        self._said = folder / "stderr"
        self._metrics = folder / "run" / "metrics.jsonl"
        self._lines_before = self._lines()
        with self._said.open("wb") as said:
            if afresh:
                command = [sys.executable, "-m", "epvf", *words]
                process = subprocess.Popen(command, cwd=folder, stdout=said, stderr=said)
                self.pid = process.pid
                process.returncode = 0  # it is waited for here
            else:
                self.pid = _forked(words, folder, said.fileno())

    def wait(self, rng: random.Random, start_seconds: float) -> None:
        """Until a moment while it starts, or somewhat after a few iterations, or to its end."""
        if rng.random() < 0.4:
            self._sleep(rng.uniform(0, start_seconds))
            return
        lines = self._lines_before + rng.randint(1, MOST_LINES)
        deadline = time.monotonic() + ENDLESS
        while self._lines() < lines and self.runs() and time.monotonic() < deadline:
            time.sleep(0.005)
        self._sleep(rng.uniform(0, 0.1))

    def end(self, number: int | None) -> End:
        """Sends a signal (None: lets it end by itself) and waits."""
        begun = self._lines() > self._lines_before
        begin = time.monotonic()
        if number is not None and self.runs():
            os.kill(self.pid, number)
        patience = ENDLESS if number is None else PATIENCE
        while self.runs() and time.monotonic() - begin < patience:
            time.sleep(0.005)
        seconds = time.monotonic() - begin
        if self.runs():
            os.kill(self.pid, signal.SIGKILL)
            while self.runs():
                time.sleep(0.005)
        return End(self._code, begun, self._said.read_text("utf-8", "replace"), seconds)

    def runs(self) -> bool:
        if hasattr(self, "_code"):
            return False
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid == 0:
            return True
        self._code = os.waitstatus_to_exitcode(status)
        return False

    def _sleep(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self.runs() and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, 0.02))

    def _lines(self) -> int:
        try:
            return self._metrics.read_bytes().count(b"\n")
        except OSError:
            return 0


def _forked(words: list[str], folder: Path, said: int) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX warns of forking, but has not been started here
        pid = os.fork()
    if pid:
        return pid
    try:
        for number in (1, 2):
            os.dup2(said, number)
        os.chdir(folder)
        sys.argv = ["epvf", *words]
        from epvf.__main__ import console

        console()
    except SystemExit as end:
        os._exit(int(end.code or 0))
    except BaseException as error:
        os.write(2, f"Traceback: {error!r}\n".encode())
    os._exit(99)


class Storm:
    """One run after another, each ended and resumed until it has finished."""

    def __init__(self, folder: Path, seed: int, iterations: int, methods: Sequence[str]) -> None:
        self._folder, self._iterations, self._methods = folder, iterations, methods
        self._start: dict[bool, float] = {}
        self._rng = random.Random(seed)
        self.wrong: list[str] = []
        self.counts: collections.Counter[str] = collections.Counter()
        self.slowest = 0.0
        self._calm = {method: self._undisturbed(method) for method in methods}
        self._method = methods[0]
        self._begin_anew()

    def disturb(self, kill: bool) -> None:
        """Starts or resumes the run, ends it somewhere, and checks what is left."""
        number = signal.SIGKILL if kill else self._rng.choice(signals.ENDING)
        before = self._newest()
        afresh = self._rng.random() < AFRESH
        program = Program(self._words(), self._place, afresh)
        program.wait(self._rng, self._start[afresh])
        end = program.end(number)
        self._count(end, "kill" if kill else "signal")
        told = f"{signal.Signals(number).name}, {self._method}, afresh {afresh}, {end.code}"
        for problem in self._problems(end, number, before):
            self.wrong.append(f"{problem} ({told}): {end.stderr[-300:]!r}")
        if self._newest() >= self._iterations:
            self.complete()

    def complete(self) -> None:
        """Lets the run finish, compares it, and begins another."""
        if self._status() != "finished":
            end = Program(self._words(), self._place, False).end(None)
            if end.code != 0:
                self.wrong.append(f"cannot be finished: {end.stderr[-300:]!r}")
        self.counts["runs compared"] += 1
        if self._status() == "finished":
            different = _differences(_content(self._run), self._calm[self._method])
            self.wrong += [f"{self._method} differs in {name}" for name in different]
        turn = (self._methods.index(self._method) + 1) % len(self._methods)
        self._method = self._methods[turn]
        self._begin_anew()

    @property
    def _run(self) -> Path:
        return self._place / "run"

    def _begin_anew(self) -> None:
        self._place = self._folder / "disturbed"
        shutil.rmtree(self._place, ignore_errors=True)
        self._place.mkdir(parents=True)

    def _undisturbed(self, method: str) -> dict[str, Any]:
        """What a run holds that nobody ended; also measures how long a start takes."""
        self._method = method
        for afresh in {False, not self._start}:
            self._begin_anew()
            begin = time.monotonic()
            program = Program(self._words(), self._place, afresh)
            while program._lines() == 0 and program.runs():
                time.sleep(0.005)
            self._start.setdefault(afresh, time.monotonic() - begin)
            end = program.end(None)
            assert end.code == 0, end.stderr
        return _content(self._run)

    def _words(self) -> list[str]:
        if (self._run / "run.json").exists():
            return ["resume", "run", "--no-report"]
        length = ("--iterations", str(self._iterations))
        return ["train", "cartpole", "--method", self._method, *SMALL, *length, "--out", "run"]

    def _newest(self) -> int:
        """Update of the newest checkpoint."""
        there = (self._run / "checkpoints").glob("*")
        return max((int(path.name) for path in there if path.name.isdigit()), default=0)

    def _status(self) -> str:
        try:
            return str(current_info(self._run)["status"])
        except UserError as error:
            return str(error)

    def _count(self, end: End, kind: str) -> None:
        self.slowest = max(self.slowest, end.seconds)
        half = list((self._run / "checkpoints").glob("*tmp*"))
        where = "training" if end.begun else "starting"
        self.counts[f"{kind}s while {where}"] += 1
        if kind == "kill" and half:
            self.counts["kills within a checkpoint"] += 1

    def _problems(self, end: End, number: int, before: int) -> list[str]:
        found = []
        if end.seconds >= PATIENCE:
            found.append("stuck")
        if "Traceback" in end.stderr:
            found.append("traceback")
        if any(len(line) > LONGEST_LINE for line in end.stderr.splitlines() if "error" in line):
            found.append("long line")
        expected = -number if number == signal.SIGKILL else 128 + number
        over = end.code == 0 and self._newest() >= self._iterations
        # before the first line of the program a signal is the system's
        unborn = not end.begun and end.code == -number
        if end.code != expected and not over and not unborn:
            found.append("wrong exit code")
        newest = self._newest()
        if newest < before:
            found.append(f"lost: checkpoint {before} before, {newest} now")
        if (self._run / "run.json").exists():
            if number != signal.SIGKILL and read_info(self._run)["status"] == "running":
                found.append("still said to be running")
            if self._status() not in ("interrupted", "finished"):
                found.append(f"its status is {self._status()}")
            if number != signal.SIGKILL and end.begun and newest != self._last_record():
                found.append(f"not saved: {self._last_record()} done, {newest} saved")
        return found

    def _last_record(self) -> int:
        return int(read_metrics(self._run / "metrics.jsonl")[-1]["steps/update"])


def _content(run: Path) -> dict[str, Any]:
    """All that a run came to but its times: records, policies, hashes of the last checkpoint."""
    records = [
        {name: value for name, value in record.items() if not name.startswith("time/")}
        for record in read_metrics(run / "metrics.jsonl")
    ]
    last = max((run / "checkpoints").iterdir())
    told = json.loads((last / "meta" / "metadata").read_text())
    policies = {
        which: read_policy(run / "policies" / f"{which}.safetensors").theta.tobytes()
        for which in ("best", "last")
    }
    return {"records": records, "sha256": told["sha256"], "update": last.name} | policies


def _differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    return [name for name in expected if found[name] != expected[name]]


def _tell(storm: Storm, told: int) -> int:
    for problem in storm.wrong[told:]:
        print(problem, flush=True)
    return len(storm.wrong)


def _summary(storm: Storm) -> str:
    counts = ", ".join(f"{number} {name}" for name, number in sorted(storm.counts.items()))
    return f"{counts}; slowest end {storm.slowest:.1f} s; wrong: {len(storm.wrong)}"


def _script() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--signals", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=30, help="of a run")
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--seconds", type=float, default=1e9, help="ends after so many")
    asked = parser.parse_args()
    from epvf.cli import recording, resume, train  # noqa: F401

    begin, told = time.monotonic(), 0
    with tempfile.TemporaryDirectory(prefix="storm-") as folder:
        storm = Storm(Path(folder).resolve(), asked.seed, asked.iterations, asked.methods)
        print(f"undisturbed runs after {time.monotonic() - begin:.0f} s", flush=True)
        ends = [True] * asked.kills + [False] * asked.signals
        for number, kill in enumerate(ends, start=1):
            if time.monotonic() - begin > asked.seconds:
                print(f"time is up after {number - 1} ends")
                break
            storm.disturb(kill)
            told = _tell(storm, told)
            if number % 25 == 0:
                print(_summary(storm), flush=True)
        storm.complete()
        _tell(storm, told)
    print(_summary(storm))
    print(f"{time.monotonic() - begin:.0f} s")
    return 1 if storm.wrong else 0


if __name__ == "__main__":
    sys.exit(_script())
