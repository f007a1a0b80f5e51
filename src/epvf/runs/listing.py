"""The runs below a folder: which there are, how far each is, and which is the newest."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from epvf.errors import UserError
from epvf.runs.folder import current_info, read_config
from epvf.runs.metrics import Record, read_metrics

RUNS = Path("runs")

DEEPEST = 4
"""Levels of folders that are looked through for runs."""

BEST = "eval/episode_return"


class Listed(NamedTuple):
    """A run in a line.

    Attributes:
        path: of its folder.
        started: as it says itself, ISO 8601.
        status: how its last session ended, or `running`.
        task, method: what it learns, and how.
        iterations: done.
        of: iterations asked for.
        env_steps: done, of the seed that has most.
        best: highest mean return of an unperturbed policy; None: none was measured.
        problem: why it cannot be read; None if it can. What else is not known is empty then.
    """

    path: Path
    started: str = ""
    status: str = ""
    task: str = ""
    method: str = ""
    iterations: int = 0
    of: int = 0
    env_steps: int = 0
    best: float | None = None
    problem: str | None = None


def listed(folder: Path) -> list[Listed]:
    """All runs below a folder, the newest first; those that cannot be read at the end."""
    found = [_described(path) for path in _runs(folder, DEEPEST)]
    return sorted(found, key=lambda run: (run.problem is None, run.started), reverse=True)


def latest(folder: Path = RUNS) -> Path:
    """The run below a folder that was started or gone on with last.

    Raises:
        UserError: if there is none.
    """
    newest: tuple[float, Path] | None = None
    for path in _runs(folder, DEEPEST):
        try:
            when = (path / "run.json").lstat().st_mtime
            current_info(path)
        except (OSError, UserError):
            continue
        newest = max(newest or (when, path), (when, path))
    if newest is None:
        raise UserError(f"there is no run in {folder}/, so none is the latest; name its folder")
    return newest[1]


def _runs(folder: Path, levels: int) -> Iterator[Path]:
    """Folders with a run.json, not followed through links."""
    try:
        inner = sorted(entry.path for entry in os.scandir(folder) if entry.is_dir())
    except OSError:
        return
    if os.path.lexists(folder / "run.json"):
        yield folder
        return
    for path in inner:
        if levels and not os.path.islink(path):
            yield from _runs(Path(path), levels - 1)


def _described(path: Path) -> Listed:
    try:
        info, config = current_info(path), read_config(path)
        records = read_metrics(path / "metrics.jsonl") if (path / "metrics.jsonl").exists() else []
    except UserError as error:
        return Listed(path, problem=str(error))
    started = info.get("started")
    newest: Record = records[-1] if records else {}
    return Listed(
        path,
        started if isinstance(started, str) else "",
        info["status"],
        config.task.name,
        config.method.name,
        newest.get("steps/update", 0),
        config.iterations,
        max((record.get("steps/env", 0) for record in records), default=0),
        max(_known(records), default=None),
    )


def _known(records: list[Record]) -> list[Any]:
    return [record[BEST] for record in records if record.get(BEST) is not None]
