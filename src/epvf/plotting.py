"""Learning curves of runs on disk."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from epvf.errors import UserError
from epvf.files import one_line
from epvf.metrics import Record, read_metrics
from epvf.runs import read_info

AXES = {
    "env-steps": ("steps/env", "environment steps"),
    "iterations": ("steps/update", "iterations"),
    "seconds": ("time/wall", "seconds of training"),
}
CURVES = {
    "rollout/episode_return": "perturbed policies",
    "eval/episode_return": "unperturbed policy",
}
POINTS = 400
"""Points of a curve, where runs that differ in their steps are averaged."""


class Curve(NamedTuple):
    """One quantity of one seed: `x` and `y`, both `[T]`."""

    x: np.ndarray
    y: np.ndarray


class Band(NamedTuple):
    """Several curves on one axis: `x`, their mean and standard deviation, all `[POINTS]`."""

    x: np.ndarray
    mean: np.ndarray
    std: np.ndarray


def plot_runs(runs: tuple[Path, ...], out: Path | None = None, x: str = "env-steps") -> Path:
    """Draws the mean over all seeds of all given runs, a band of one standard deviation around it.

    Args:
        runs: folders of the runs.
        out: file to write; None: `plots/return.png` in the only run, or here for several.
        x: what to draw over, of `AXES`.

    Returns:
        The file that was written.

    Raises:
        UserError: if a folder is no run, has no records yet, or the file cannot be written.
    """
    if not runs:
        raise UserError("which runs? epvf plot RUN ...")
    records = [(run, read_metrics(run / "metrics.jsonl")) for run in runs if read_info(run)]
    figure = _draw(records, x)
    if out is None:
        out = runs[0] / "plots" / "return.png" if len(runs) == 1 else Path("return.png")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=150)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write {out}: {one_line(error)}") from error
    return out


def curves(records: list[Record], x: str, y: str) -> list[Curve]:
    """The curve of each seed, without the records that lack either number."""
    seeds: dict[Any, list[tuple[float, float]]] = {}
    for record in records:
        if record.get(x) is not None and record.get(y) is not None:
            seeds.setdefault(record.get("seed"), []).append((record[x], record[y]))
    return [Curve(*np.array(points).T) for points in seeds.values()]


def average(found: list[Curve]) -> Band:
    """The curves on one axis, as far as the shortest of them goes."""
    start = max(curve.x[0] for curve in found)
    stop = min(curve.x[-1] for curve in found)
    x = np.linspace(start, stop, POINTS)
    values = np.stack([np.interp(x, curve.x, curve.y) for curve in found])
    return Band(x, values.mean(axis=0), values.std(axis=0))


def _draw(runs: list[tuple[Path, list[Record]]], x: str) -> Any:
    from matplotlib.figure import Figure  # slow to import; Figure alone needs no display

    key, label = AXES[x]
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, title in CURVES.items():
        found = [curve for _, records in runs for curve in curves(records, key, name)]
        if not found:
            raise UserError(f"{runs[0][0]} has no {name} yet")
        band = average(found)
        (line,) = axes.plot(band.x, band.mean, label=title)
        lower, upper = band.mean - band.std, band.mean + band.std
        axes.fill_between(band.x, lower, upper, color=line.get_color(), alpha=0.2, linewidth=0)
    num = len(found)
    axes.set_xlabel(label)
    axes.set_ylabel("return")
    axes.set_title(f"{runs[0][0].name}" if len(runs) == 1 else f"mean of {num} seeds")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
