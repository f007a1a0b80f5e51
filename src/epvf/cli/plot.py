"""`epvf plot`: learning curves of runs."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from epvf.cli import arguments
from epvf.cli.arguments import Shown
from epvf.cli.results import print_result
from epvf.errors import UserError


@dataclass(frozen=True)
class Options:
    """Draw learning curves of runs, grouped by what differs in their configurations.

    Each group is the mean over its seeds with a 95 % confidence interval by bootstrap over them.
    Markers stand where something was measured. Runs that have told nothing yet are skipped.

    Attributes:
        runs: folders of the runs.
        out: image file to write; its suffix says the format.
        x: what to draw over.
        smooth: iterations of a running mean; 1 draws what was measured.
        replace: replace the file if it is there already.
        follow: draw again every so often, until no run goes on any more or Ctrl-C.
        every: seconds between two drawings that follow.
        json: print the result as JSON.
    """

    runs: Annotated[
        tuple[Path, ...], Shown("RUN ...", positional=True, missing="which runs? epvf plot RUN ...")
    ]
    out: Annotated[
        Path | None,
        Shown("FILE", default="plots/return.png in the run, return.png here for several"),
    ] = None
    x: Literal["env-steps", "iterations", "seconds"] = "env-steps"
    smooth: int = 1
    replace: bool = False
    follow: bool = False
    every: Annotated[float, Shown("S")] = 5.0
    json: bool = False


def run(argv: list[str]) -> int:
    """Draws and prints where; returns the exit code."""
    asked = arguments.read(Options, "epvf plot", argv)
    if not 0.1 <= asked.every < float("inf"):
        raise UserError(f"every is {asked.every:g} s, but must be finite and at least 0.1")
    from epvf.analysis.drawing import Plotted, plot_runs

    def draw(replace: bool) -> Plotted:
        return plot_runs(asked.runs, asked.out, asked.x, asked.smooth, replace)

    drawn = draw(asked.replace)
    for skipped in drawn.skipped:
        print(f"skipped {skipped}: it has no records yet", file=sys.stderr, flush=True)
    result = {"plot": str(drawn.file), "skipped": [str(path) for path in drawn.skipped]}
    print_result(result, f"plot: {drawn.file}", asked.json)
    if asked.follow:
        sys.stdout.flush()
        goes_on = _any_goes_on(asked.runs)
        while goes_on:
            time.sleep(asked.every)
            goes_on = _any_goes_on(asked.runs)  # before drawing, so that the end is drawn
            draw(replace=True)
    return 0


def _any_goes_on(runs: tuple[Path, ...]) -> bool:
    from epvf.runs.folder import is_taken, read_info

    return any(read_info(run)["status"] == "running" and is_taken(run) for run in runs)
