"""Bringing all runs of a plan to their ends: one at a time, or several, here or elsewhere."""

from pathlib import Path

from epvf.experiments import forecast, runner
from epvf.experiments.launch.launcher import Launcher
from epvf.experiments.runner import Plan
from epvf.runs.display import clock, make_display
from epvf.runtime import startup


def complete(folder: Path, plan: Plan, launcher: Launcher, command: list[str]) -> int:
    """Trains what is left of a plan; returns the exit code, 0 once all is done."""
    startup.use_compilation_cache()
    if not launcher.alone:
        tell = make_display().announce
        return runner.complete_abreast(folder, plan, launcher, tell, command)
    return runner.complete(folder, plan, lambda extra: make_display(extra=extra), command)


def tell_time(folder: Path, plan: Plan) -> None:
    """Says on stderr how long what is left of a plan takes, before any of it begins."""
    startup.use_compilation_cache()
    left = runner.unfinished(folder, plan)
    announce = make_display().announce
    expected = forecast.forecast(left, announce)
    if left:
        announce(
            f"{len(left)} runs, one after the other on this machine: {clock(expected.short)} if "
            f"episodes stay as they begin, {clock(expected.long)} if all run to their end; Ctrl-C "
            "ends it, the same command goes on"
        )
