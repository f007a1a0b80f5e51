"""Several runs at once under SLURM, through submitit; each saves itself and is queued again.

SLURM warns a job some time before it takes its machine away. The run then saves its state, the job
puts itself back into the queue, and goes on from there.
"""

import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from epvf.errors import RunFailed, UserError
from epvf.experiments.launch import remote
from epvf.experiments.launch.job import Answer, Job, perform
from epvf.files import one_line, read_json, write_json

WARNING_SECONDS = 120
"""How long before a job's end SLURM warns it; an iteration and a checkpoint have to fit in."""

REQUEUES = 1000
"""How often a job that ran into its time limit is queued again."""

_NO_SUBMITIT = "SLURM needs submitit: pip install 'epvf[slurm]'"
_NO_SLURM = (
    "there is no SLURM here: srun is not found; log in where sbatch works, or use --launcher local"
)

_ALIVE = {
    "PENDING",
    "RUNNING",
    "REQUEUED",
    "SUSPENDED",
    "CONFIGURING",
    "COMPLETING",
    "REQUEUE_HOLD",
}


def run(
    folder: Path,
    jobs: Sequence[Job],
    at_a_time: int,
    tell: Callable[[str], None],
    options: Mapping[str, Any] | None = None,
    kind: str = "slurm",
) -> int:
    """Does all jobs under SLURM; see `remote.run`.

    Args:
        folder: for the jobs' scripts and output, on a disk that all machines share.
        jobs, at_a_time, tell: as there.
        options: submitit's, such as `timeout_min`, `cpus_per_task`, `slurm_partition`.
        kind: submitit's name of the queue; `local` and `debug` are on this machine.

    Raises:
        UserError: if submitit or SLURM is not there, or knows no such option.
    """
    return remote.run(_Queue(folder, options or {}, kind), jobs, at_a_time, tell)


def check() -> None:
    """Raises a `UserError` where jobs cannot be queued from."""
    try:
        import submitit  # noqa: F401 - is it there?
    except ImportError:
        raise UserError(_NO_SUBMITIT) from None
    if shutil.which("srun") is None:
        raise UserError(_NO_SLURM)


class _Queue:
    """The jobs under submitit, by their numbers, which a file remembers."""

    def __init__(self, folder: Path, options: Mapping[str, Any], kind: str) -> None:
        try:
            import submitit
        except ImportError:
            raise UserError(_NO_SUBMITIT) from None
        self._folder, self._file, self._kind = folder, folder / "jobs.json", kind
        try:
            limits = {} if kind == "debug" else {f"{kind}_max_num_timeout": REQUEUES}
            self._executor = submitit.AutoExecutor(folder, cluster=kind, **limits)
            warned = {"slurm_signal_delay_s": WARNING_SECONDS} if kind == "slurm" else {}
            self._executor.update_parameters(**(warned | dict(options)))
        except (RuntimeError, FileNotFoundError):
            raise UserError(_NO_SLURM) from None
        except (NameError, AssertionError, TypeError, ValueError) as error:
            raise UserError(f"submitit refuses these --resources: {one_line(error):.120}") from None

    def start(self, job: Job) -> Any:
        numbers = read_json(self._file) if self._file.exists() else {}
        if job.name in numbers:
            found = self._again(numbers[job.name])
            if found is not None:
                return found
        self._folder.mkdir(parents=True, exist_ok=True)
        self._executor.update_parameters(name=f"epvf-{job.name}")
        started = self._executor.submit(Work(job))
        write_json(self._file, numbers | {job.name: started.job_id})
        return started

    def answer(self, handle: Any) -> Answer | None:
        if not handle.done():
            return None
        from submitit.core.utils import FailedJobError, UncompletedJobError

        try:
            answer: Answer = handle.result()
        except (UncompletedJobError, FailedJobError) as error:
            lines = str(error).strip().splitlines() or ["it ended without a word"]
            told = f"{lines[-1]:.120}; its output: {handle.paths.stderr}"
            return 1, RunFailed(told)
        return answer

    def stop(self, handle: Any) -> None:
        handle.cancel()

    def _again(self, number: str) -> Any:
        """A job that another driver has queued, if it still waits or runs."""
        if self._kind != "slurm":
            return None
        job = self._executor._executor.job_class(self._folder, number)
        return job if str(job.state).split(" ")[0] in _ALIVE else None


class Work:
    """A job as submitit keeps it; called in a process of its own, maybe several times."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def __call__(self) -> Answer:
        try:
            return self._perform()
        except Exception as error:  # a mistake of ours: its traceback goes to the job's output
            traceback.print_exc()
            return 1, RunFailed(f"{type(error).__name__}: {one_line(error)}")

    def _perform(self) -> Answer:
        number = _warning_signal()
        queue = signal.getsignal(number)
        if not callable(queue):  # submitit's debug executor warns of nothing
            return perform(self._job)
        idle = signal.getsignal(signal.SIGTERM)
        warned: list[int] = []
        signal.signal(number, partial(_warn, warned, queue, idle))
        code, error = perform(self._job)
        if warned or code == 128 + number:
            # saved; submitit's own handler queues the job again, and ends this process
            signal.signal(number, queue)
            signal.raise_signal(number)
        return code, error

    def checkpoint(self) -> Any:
        """What to queue again: submitit asks by this name."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(Work(self._job))


def _warn(warned: list[int], queue: Any, idle: Any, number: int, frame: FrameType | None) -> None:
    """Has the run under way save and end as at SIGTERM; without one, queues the job again."""
    if signal.getsignal(signal.SIGTERM) is idle:
        queue(number, frame)
        return
    warned.append(number)
    print("warned that the time is over", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)


def _warning_signal() -> int:
    from submitit.core.job_environment import JobEnvironment

    return int(JobEnvironment._usr_sig())
