"""`epvf plot`: learning curves of runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from epvf.cli import arguments
from epvf.cli.arguments import Shown
from epvf.cli.results import print_result


@dataclass(frozen=True)
class Options:
    """Draw learning curves of runs, grouped by what differs in their configurations.

    Each group is the mean over its seeds with a 95 % confidence interval by bootstrap over them.

    Attributes:
        runs: folders of the runs.
        out: image file to write; its suffix says the format.
        x: what to draw over.
        smooth: iterations of a running mean; 1 draws what was measured.
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
    json: bool = False


def run(argv: list[str]) -> int:
    """Draws and prints where; returns the exit code."""
    asked = arguments.read(Options, "epvf plot", argv)
    from epvf.analysis.drawing import plot_runs

    path = plot_runs(asked.runs, asked.out, asked.x, asked.smooth)
    print_result({"plot": str(path)}, f"plot: {path}", asked.json)
    return 0
