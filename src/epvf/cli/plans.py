"""Bringing all runs of a plan to their ends: one at a time, or one on each part of the cores."""

from pathlib import Path

from epvf.experiments import runner
from epvf.experiments.launch.local import Cores
from epvf.experiments.runner import Plan
from epvf.runs.display import make_display
from epvf.runtime import startup


def complete(folder: Path, plan: Plan, parts: list[Cores], command: list[str]) -> int:
    """Trains what is left of a plan; returns the exit code, 0 once all is done."""
    startup.use_compilation_cache()
    if len(parts) > 1:
        tell = make_display().announce
        return runner.complete_abreast(folder, plan, parts, tell, command)
    return runner.complete(folder, plan, lambda extra: make_display(extra=extra), command)
