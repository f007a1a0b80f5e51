"""What is launched: one job, and what comes back of it."""

import sys
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from epvf.errors import RunFailed, UserError
from epvf.runs.display import Display, PlainDisplay
from epvf.runtime import startup

LINE_SECONDS = 10.0
"""How often at most each job prints a line."""

Answer: TypeAlias = tuple[int, Exception | None]
"""A job's exit code, and what it raised."""


class Job(NamedTuple):
    """What one process does.

    Attributes:
        name: in front of its lines.
        call: shows its progress on a display and returns an exit code; can be pickled.
    """

    name: str
    call: Callable[[Display], int]


def perform(job: Job) -> Answer:
    """Does a job in this process, which does nothing else."""
    startup.quieten()
    startup.use_compilation_cache()
    display = PlainDisplay(sys.stderr, prefix=f"{job.name}: ", every=LINE_SECONDS)
    try:
        return job.call(display), None
    except UserError as error:
        return 2, error
    except RunFailed as error:
        return 1, error
