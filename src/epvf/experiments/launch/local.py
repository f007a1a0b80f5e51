"""Several runs at once, each in a process of its own with its own cores."""

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import connection, resource_tracker
from typing import Any, NamedTuple, TypeAlias

import jax

from epvf.errors import RunFailed, UserError
from epvf.experiments.launch.job import Job, perform
from epvf.runs.display import clock
from epvf.runs.interrupt import SIGNALS, Interrupt
from epvf.runtime import signals

Cores: TypeAlias = tuple[int, ...]


def shares(count: int) -> list[Cores]:
    """The cores that this process may use in `count` parts of about the same size.

    Raises:
        UserError: if there are not as many cores, or JAX computes on an accelerator.
    """
    if count > 1 and (platform := jax.default_backend()) != "cpu":
        raise UserError(
            f"jobs is {count}, but several runs would be in each other's way on one {platform}; "
            "use jobs 1, or JAX_PLATFORMS=cpu"
        )
    cores = _cores()
    if not 1 <= count <= len(cores):
        raise UserError(f"jobs is {count}, but must be from 1 to {len(cores)}, a core for each")
    return [cores[number::count] for number in range(count)]


def run(jobs: Sequence[Job], parts: Sequence[Cores], tell: Callable[[str], None]) -> int:
    """Does all jobs, as many at a time as there are parts of the cores.

    A signal to this process goes on to those under way, which save what they have.

    Args:
        jobs: in the order in which they begin.
        parts: the cores of each process.
        tell: is told of jobs that end.

    Returns:
        0, or the exit code of what a signal ended.

    Raises:
        UserError, RunFailed: that a job raised; the others were ended by SIGTERM.
    """
    crew, interrupt, failure = _Crew(jobs, parts, tell), Interrupt(tell), 0
    with interrupt.listening(), crew.left_behind():
        while crew.go_on(more=interrupt.received is None and not failure):
            for code in crew.join():
                failure = failure or code
            if failure or interrupt.received is not None:
                crew.stop(interrupt.received or signal.SIGTERM)
    if crew.error is not None:
        raise crew.error
    cut_short = interrupt.received is not None and (failure or crew.waiting)
    return interrupt.exit_code if cut_short else failure


class _Child(NamedTuple):
    process: Any
    answer: Any
    job: Job
    cores: Cores


class _Crew:
    """The processes under way, and the jobs that wait for one.

    Attributes:
        error: the first of a job.
        waiting: jobs that have not begun.
    """

    def __init__(
        self, jobs: Sequence[Job], parts: Sequence[Cores], tell: Callable[[str], None]
    ) -> None:
        self.error: Exception | None = None
        self.waiting, self._free = deque(jobs), deque(parts)
        self._running: dict[int, _Child] = {}
        self._all, self._done, self._begin = len(jobs), 0, time.monotonic()
        self._tell = tell
        self._stopped = False

    def go_on(self, more: bool) -> bool:
        """Starts what can be started, if more is wanted, and tells whether anything runs."""
        while more and self.waiting and self._free:
            self._start(self.waiting.popleft(), self._free.popleft())
        return bool(self._running)

    def join(self) -> list[int]:
        """Waits a moment; the exit codes of the jobs that have ended."""
        ready: list[Any] = connection.wait(list(self._running), timeout=0.2)
        return [self._conclude(self._running.pop(sentinel)) for sentinel in ready]

    def stop(self, number: int) -> None:
        """Sends a signal to all that runs, once."""
        if not self._stopped:
            for child in self._running.values():
                os.kill(child.process.pid, number)
        self._stopped = True

    @contextmanager
    def left_behind(self) -> Iterator[None]:
        """Kills what is, however the block ends."""
        try:
            yield
        finally:
            for child in self._running.values():
                child.process.kill()

    def _start(self, job: Job, cores: Cores) -> None:
        context = multiprocessing.get_context("spawn")
        answer, end = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(job, cores, end), name=job.name)
        resource_tracker.ensure_running()  # where it is not, starting it ends the block below
        # the new process inherits that signals wait until it is ready for them
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        end.close()
        self._running[process.sentinel] = _Child(process, answer, job, cores)

    def _conclude(self, child: _Child) -> int:
        """The exit code of a process that has ended; the first error is kept."""
        child.process.join()
        code, error = _read(child)
        self._free.append(child.cores)
        name, told = child.job.name, "interrupted"
        if error is not None:
            told = f"failed: {error}"
            self.error = self.error or type(error)(f"run {name}: {error}")
        elif not code:
            self._done += 1
            elapsed = time.monotonic() - self._begin
            left = elapsed * (self._all - self._done) / self._done
            told = f"finished, {self._done}/{self._all}, all left {clock(left)}"
        self._tell(f"{name}: {told}")
        return code


def _read(child: _Child) -> tuple[int, Exception | None]:
    """Exit code and error of a process that has ended."""
    if child.answer.poll():
        try:
            return child.answer.recv()
        except EOFError:
            pass
    number = child.process.exitcode
    if -number in SIGNALS:
        return 128 - number, None
    if number - 128 in SIGNALS:
        return number, None
    return 1, RunFailed(
        f"ended by signal {-number}, as the system does where memory runs out"
        if number < 0
        else f"ended with exit code {number}"
    )


def _work(job: Job, cores: Cores, answer: Any) -> None:
    """What a process does: its job, on its cores."""
    # a Ctrl-C on the terminal is for the parent alone, which passes it on
    os.setpgid(0, 0)
    signals.guard(told=False)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    _end_with_the_parent()
    answer.send(perform(job))


def _end_with_the_parent() -> None:
    """Has this process save and end, as at SIGTERM, once nobody is there to hear of it.

    A parent that was killed cannot pass anything on, and its successor wants the runs.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _cores() -> Cores:
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))
