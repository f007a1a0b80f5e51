"""`epvf report`: a run, or several, on one page."""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from epvf.cli import arguments
from epvf.cli.arguments import Shown
from epvf.cli.results import print_result
from epvf.errors import RunFailed, UserError
from epvf.runtime import startup

SECONDS = 10.0
"""Of the task's time in the page's video."""


@dataclass(frozen=True)
class Options:
    """Sum up a run, or several, on an HTML page that needs nothing but itself.

    Configuration and what differs from its preset, learning curves, what V says, a video, the model
    card, and the commands that repeat it. Of one run also V's landscape, where it has one.

    Attributes:
        runs: folders of the runs.
        out: HTML file to write.
        video: draw the policies; what nothing here can draw is left out.
        landscape: measure V's landscape of a run, unless it is there already.
        replace: replace the file if it is there already; the one in a run always is.
        json: print the result as JSON.
    """

    runs: Annotated[
        tuple[Path, ...],
        Shown("RUN ...", positional=True, missing="which runs? epvf report RUN ..."),
    ]
    out: Annotated[
        Path | None, Shown("FILE", default="report.html in the run, here for several")
    ] = None
    video: bool = True
    landscape: bool = True
    replace: bool = False
    json: bool = False


def run(argv: list[str]) -> int:
    """Writes the page and prints where it is; returns the exit code."""
    asked = arguments.read(Options, "epvf report", argv)
    if not asked.runs:
        raise UserError("which runs? epvf report RUN ...")
    startup.use_compilation_cache()
    from epvf.analysis import report
    from epvf.analysis.drawing import has_records
    from epvf.files import check_new

    alone = len(asked.runs) == 1
    out = asked.out or (asked.runs[0] / "report.html" if alone else Path("report.html"))
    known = [path for path in asked.runs if has_records(path)]
    check_new(out, asked.replace or (alone and asked.out is None))
    if out.suffix.lower() != ".html":
        raise UserError(f"a report's name ends in .html, but {out} does not")
    if alone and known and asked.landscape:
        _measure_landscape(asked.runs[0])
    with tempfile.TemporaryDirectory() as folder:
        video = _video(known, Path(folder) / "video.mp4") if asked.video else None
        written = report.write(asked.runs, out, video)
    print_result({"report": str(written)}, f"report: {written}", asked.json)
    return 0


def _measure_landscape(run: Path) -> None:
    """Where the run has a value function of policies, unless it has been measured already."""
    from epvf.analysis import landscape
    from epvf.analysis.restore import has_value

    if landscape.read(run / "landscape") is not None or not has_value(run):
        return
    try:
        landscape.write(run / "landscape", landscape.landscape(run, _tell))
    except UserError as error:
        _tell(f"no landscape: {error}")


def _video(runs: list[Path], out: Path) -> Path | None:
    """One policy, or the first of several methods side by side; None where nothing can be drawn."""
    from epvf.runs.folder import policy_path
    from epvf.view.cast import cast
    from epvf.view.film import Film, Settings
    from epvf.view.video import write_video

    some = [run for run in runs if policy_path(run, "best").is_file()][:4]
    if not some:
        return None
    width = 640 if len(some) == 1 else 400
    _tell("drawing the video")
    try:
        with Film(cast(some), Settings(SECONDS, width, width * 3 // 4)) as film:
            write_video(out, film.pictures(), film.fps)
    except (UserError, RunFailed) as error:
        _tell(f"no video: {error}")
        return None
    return out


def _tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
