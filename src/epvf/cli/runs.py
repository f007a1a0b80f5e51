"""`epvf runs`: which runs there are."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from epvf.cli import arguments
from epvf.cli.arguments import Shown
from epvf.cli.results import print_result, table
from epvf.errors import UserError

if TYPE_CHECKING:
    from epvf.runs.listing import Listed


@dataclass(frozen=True)
class Options:
    """List runs below a folder, the newest first.

    Attributes:
        folder: to look through.
        json: print the list as JSON.
    """

    folder: Annotated[Path, Shown("FOLDER", positional=True)] = Path("runs")
    json: bool = False


def run(argv: list[str]) -> int:
    """Prints the runs; returns the exit code."""
    asked = arguments.read(Options, "epvf runs", argv)
    if not asked.folder.is_dir():
        raise UserError(f"there is no folder {asked.folder}; epvf train makes runs/ where it runs")
    from epvf.runs.listing import listed

    found = listed(asked.folder)
    result = {"runs": [run._asdict() | {"path": str(run.path)} for run in found]}
    print_result(result, _text(found, asked.folder), asked.json)
    return 0


def _text(found: "list[Listed]", folder: Path) -> str:
    if not found:
        return f"no runs in {folder}"
    rows: list[tuple[str, ...]] = [
        ("run", "status", "task", "method", "iterations", "env steps", "best return", "started")
    ]
    rows += [_row(run) for run in found if run.problem is None]
    broken = [f"cannot be read: {run.problem}" for run in found if run.problem is not None]
    return "\n".join([*([table(rows)] if len(rows) > 1 else []), *broken])


def _row(run: "Listed") -> tuple[str, ...]:
    best = "-" if run.best is None else f"{run.best:.2f}"
    done = f"{run.iterations}/{run.of}"
    names = (str(run.path), run.status, run.task, run.method)
    return (*names, done, str(run.env_steps), best, run.started)
