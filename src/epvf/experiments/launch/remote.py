"""Several runs at once on other machines: what SLURM and Ray have in common."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from epvf.experiments.launch.job import Answer, Job
from epvf.runs.display import clock
from epvf.runs.interrupt import Interrupt

POLL_SECONDS = 0.5
"""Between two looks at what has ended."""


class Cluster(Protocol):
    """Where jobs run."""

    def start(self, job: Job) -> Any:
        """Begins a job, or finds it under way; what stands for it from now on."""
        ...

    def answer(self, handle: Any) -> Answer | None:
        """What came of a job; None while it waits or runs."""
        ...

    def stop(self, handle: Any) -> None:
        """Has a job save what it has, and end."""
        ...


def run(cluster: Cluster, jobs: Sequence[Job], at_a_time: int, tell: Callable[[str], None]) -> int:
    """Does all jobs, so many at a time.

    A signal to this process ends those under way, which save what they have; if it is killed, they
    go on, and the same command finds them again.

    Args:
        cluster: where.
        jobs: in the order in which they begin.
        at_a_time: how many.
        tell: is told of jobs that begin and end.

    Returns:
        0, or the exit code of what a signal ended.

    Raises:
        UserError, RunFailed: that a job raised; the others were ended.
    """
    waiting, running = deque(jobs), dict[str, Any]()
    interrupt, error, failure, done = Interrupt(tell), None, 0, 0
    begin, stopped = time.monotonic(), False
    with interrupt.listening():
        while running or (waiting and not stopped):
            while waiting and len(running) < at_a_time and not stopped:
                job = waiting.popleft()
                running[job.name] = cluster.start(job)
                tell(f"{job.name}: begun")
            for name in list(running):
                if (answer := cluster.answer(running[name])) is None:
                    continue
                del running[name]
                code, raised = answer
                if raised is not None:
                    tell(f"{name}: failed: {raised}")
                    error = error or type(raised)(f"run {name}: {raised}")
                elif code:
                    tell(f"{name}: interrupted")
                else:
                    done += 1
                    left = (time.monotonic() - begin) * (len(jobs) - done) / done
                    tell(f"{name}: finished, {done}/{len(jobs)}, all left {clock(left)}")
                failure = failure or code
            if (failure or interrupt.received is not None) and not stopped:
                stopped = True
                for handle in running.values():
                    cluster.stop(handle)
            if running:
                time.sleep(POLL_SECONDS)
    if error is not None:
        raise error
    cut_short = interrupt.received is not None and (failure or waiting)
    return interrupt.exit_code if cut_short else failure
