"""Where several runs at once go: this machine, SLURM, or a Ray cluster."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from epvf.errors import UserError, unknown
from epvf.experiments.launch import local, ray, slurm
from epvf.experiments.launch.job import Job

LAUNCHERS = ("local", "ray", "slurm")


class Launcher(NamedTuple):
    """Where, and how many at a time.

    Attributes:
        name: of `LAUNCHERS`.
        jobs: at a time; None: as many as there are, on this machine one.
        resources: of each job, in submitit's or Ray's words.
    """

    name: str
    jobs: int | None
    resources: dict[str, Any]

    @property
    def alone(self) -> bool:
        """Whether one run after the other is trained in this process."""
        return self.name == "local" and self.jobs in (None, 1)

    def run(self, folder: Path, jobs: Sequence[Job], tell: Callable[[str], None]) -> int:
        """Does all jobs; see `local.run` and `remote.run`.

        Args:
            folder: of the whole, on a disk that all machines share.
            jobs: in the order in which they begin.
            tell: is told of what begins and ends.
        """
        if not jobs:
            return 0
        if self.name == "local":
            return local.run(jobs, local.shares(self.jobs or 1), tell)
        at_a_time = min(self.jobs or len(jobs), len(jobs))
        if self.name == "ray":
            return ray.run(jobs, at_a_time, tell, self.resources)
        return slurm.run(folder / "jobs", jobs, at_a_time, tell, self.resources)


def understood(name: str, jobs: int | None, resources: Sequence[str]) -> Launcher:
    """The launcher of a command line.

    Args:
        name: of the launcher.
        jobs: at a time.
        resources: `name=value` each.

    Raises:
        UserError: if there is no such launcher or it is not here, not as many cores, or resources
            are not as they have to be.
    """
    if name not in LAUNCHERS:
        raise unknown("launcher", name, LAUNCHERS)
    if name == "local":
        local.shares(1 if jobs is None else jobs)
        if resources:
            raise UserError("--resources are asked of slurm and ray; local takes --jobs only")
    elif jobs is not None and jobs < 1:
        raise UserError(f"jobs is {jobs}, but must be at least 1")
    pairs = [word.partition("=") for word in resources]
    for word, (key, equals, value) in zip(resources, pairs, strict=True):
        if not (key and equals and value):
            raise UserError(f"--resources {word}: give NAME=VALUE, such as timeout_min=240")
    # before anything is written, as far as it can be known
    if name == "slurm":
        slurm.check()
    elif name == "ray":
        ray.check()
    return Launcher(name, jobs, {key: yaml.safe_load(value) for key, _, value in pairs})
