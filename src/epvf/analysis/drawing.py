"""Every figure: learning curves, diagnoses, scaling. What was measured comes in as numbers."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from epvf.analysis.curves import (
    AXES,
    CURVES,
    PERTURBED,
    Band,
    Group,
    group_runs,
    length_ratio,
    mean_band,
)
from epvf.errors import UserError
from epvf.files import one_line
from epvf.runs.metrics import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOG_FROM = 4.0
"""How far the lengths of groups have to lie apart for a logarithmic axis."""

STYLES = ("-", "--", ":")
"""Of lines, one after the other where there are more groups than colours."""

LABEL_WIDTH = 48
"""Characters of a line of the legend."""

Lines: TypeAlias = Mapping[str, Sequence[float | None]]
"""Label to the values over an axis; None where one is not known."""


def plot_runs(
    runs: tuple[Path, ...], out: Path | None = None, x: str = "env-steps", width: int = 1
) -> Path:
    """Draws the mean over seeds, with its 95 % interval, of every group of equal configurations.

    Args:
        runs: folders of the runs.
        out: file to write; None: `plots/return.png` in the only run, or here for several.
        x: what to draw over, of `AXES`.
        width: iterations of a running mean.

    Returns:
        The file that was written.

    Raises:
        UserError: if a folder is no run, has no records yet, the file cannot be written, or
            `width` is not positive.
    """
    if width < 1:
        raise UserError(f"smooth is {width}, but must be at least 1")
    if not runs:
        raise UserError("which runs? epvf plot RUN ...")
    groups = group_runs(runs)
    for run in runs:
        if not read_metrics(run / "metrics.jsonl"):
            raise UserError(f"{run} has no {PERTURBED} yet")
    title = runs[0].absolute().name if len(runs) == 1 else ""
    if out is None:
        out = runs[0] / "plots" / "return.png" if len(runs) == 1 else Path("return.png")
    save(learning_curves(groups, (x,), title, width=width), out)
    return out


def save(figure: "Figure", *files: Path) -> None:
    """Writes a figure; each file's suffix says its format.

    Raises:
        UserError: if one cannot be written.
    """
    for file in files:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(file, dpi=150)
        except (OSError, ValueError) as error:
            raise UserError(f"cannot write {file}: {one_line(error)}") from error


def learning_curves(
    groups: Sequence[Group],
    x: Sequence[str] = ("env-steps",),
    title: str = "",
    best: float | None = None,
    notes: Sequence[str] = (),
    width: int = 1,
    ended: bool = False,
) -> "Figure":
    """A row for each quantity of `CURVES`, a column for each axis, a colour for each group.

    A single group gets one row, with a colour for each quantity.

    Args:
        groups: what to compare.
        x: what to draw over, of `AXES`.
        title: above all panels.
        best: highest return there is; marked with a dashed line where curves come near it.
        notes: lines of text below the panels.
        width: iterations of a running mean.
        ended: whether all runs have reached their ends. Seeds need different times for that: over
            seconds each then keeps its last value until the slowest of its group has ended.

    Returns:
        The figure, not yet written.
    """
    from matplotlib import rcParams
    from matplotlib.figure import Figure  # slow to import; Figure alone needs no display
    from matplotlib.rcsetup import cycler
    from matplotlib.ticker import EngFormatter, StrMethodFormatter

    alone = len(groups) == 1
    rows = [tuple(CURVES)] if alone else [(key,) for key in CURVES]
    figure = Figure(figsize=(2.0 + 5.5 * len(x), 1.2 + 3.2 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), len(x), sharex="col", sharey="row", squeeze=False)
    styles = cycler(linestyle=STYLES) * rcParams["axes.prop_cycle"]
    for keys, row in zip(rows, panels, strict=True):
        for axis, axes in zip(x, row, strict=True):
            log = length_ratio(groups, AXES[axis][0]) > LOG_FROM
            axes.set_xscale("log" if log else "linear")
            axes.set_prop_cycle(styles)
            for group in groups:
                for key in keys:
                    label = CURVES[key] if alone else group.label
                    hold = ended and axis == "seconds"
                    band = mean_band(group, axis, key, width, log, hold)
                    _draw_band(axes, band, label)
            if best is not None and axes.get_ylim()[1] > best / 4:
                # further off it would flatten the curves
                axes.axhline(best, color="black", linestyle="--", linewidth=0.8)
            axes.grid(alpha=0.3)
        what = "return" if alone else f"return, {CURVES[keys[0]]}"
        limit = "" if best is None else f" (of {best:g})"
        smoothed = "" if width == 1 else f"\nmean of {width} iterations"
        row[0].set_ylabel(what + limit + smoothed)
    for axis, axes in zip(x, panels[-1], strict=True):
        axes.set_xlabel(AXES[axis][1])
        # 20M rather than 2 and, apart, 1e7; but 0.02 rather than 20m of seconds
        seconds = axis == "seconds"
        axes.xaxis.set_major_formatter(
            StrMethodFormatter("{x:g}") if seconds else EngFormatter(sep="")
        )
    handles, labels = panels[0][0].get_legend_handles_labels()
    labels = [textwrap.fill(label, LABEL_WIDTH) for label in labels]
    figure.legend(handles, labels, loc="outside right center", fontsize="small")
    figure.suptitle("\n".join(filter(None, (title, _bands(groups)))), fontsize="medium")
    if notes:
        figure.supxlabel("\n".join(notes), fontsize="small", x=0.01, ha="left")
    return figure


def diagnosis(result: dict[str, Any]) -> "Figure":
    """What `analysis.diagnosis` found: cosines, gains and ranking side by side."""
    from matplotlib.figure import Figure  # slow to import; Figure alone needs no display

    figure = Figure(figsize=(15.0, 4.2), layout="constrained")
    cosines, gains, ranking = figure.subplots(1, 3)
    names = list(result["cosines"])
    cosines.bar(names, [result["cosines"][name] for name in names])
    cosines.axhspan(
        -2 * result["cosine_by_chance"], 2 * result["cosine_by_chance"], alpha=0.2, color="grey"
    )
    cosines.set_ylabel("cosine with the reference gradient")
    for name in (*names, "reference"):
        rows = result["gains"][name]
        means = [row["perturbed"]["mean"] for row in rows]
        errors = [row["perturbed"]["error"] for row in rows]
        gains.errorbar([row["step"] for row in rows], means, errors, label=name, capsize=2)
    gains.set_xscale("log")
    gains.axhline(0.0, color="black", linewidth=0.8)
    gains.set_xlabel("step, in perturbations' length")
    gains.set_ylabel("gain of the perturbed policies")
    gains.legend(fontsize="small")
    rows = result["ranking"]
    distances, ranks = ([row[name] for row in rows] for name in ("distance", "spearman"))
    ranking.errorbar(distances, ranks, [row["error"] for row in rows], marker="o", capsize=2)
    ranking.axhline(0.0, color="black", linewidth=0.8)
    ranking.set_xlabel("distance, in units of the noise")
    ranking.set_ylabel("V's rank correlation with returns")
    figure.suptitle(f"{result['run']}, update {result['update']}", fontsize="medium")
    return figure


def scaling(field: str, values: Sequence[int], panels: Mapping[str, Lines], title: str) -> "Figure":
    """What grows with a field, a panel for each quantity, on logarithmic axes.

    Args:
        field: what grows.
        values: that it takes.
        panels: name of each quantity to its lines.
        title: above all panels.
    """
    from matplotlib.figure import Figure  # slow to import; Figure alone needs no display
    from matplotlib.ticker import EngFormatter, NullLocator

    figure = Figure(figsize=(1.0 + 4.0 * len(panels), 4.2), layout="constrained")
    (row,) = figure.subplots(1, len(panels), squeeze=False)
    for axes, (quantity, lines) in zip(row, panels.items(), strict=True):
        _draw_lines(axes, values, lines)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(values)
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.tick_params(axis="x", labelrotation=30)
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_xlabel(field)
        axes.set_ylabel(quantity)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    figure.suptitle(title, fontsize="medium")
    return figure


def _draw_lines(axes: "Axes", x: Sequence[int], lines: Lines) -> None:
    """Lines through what is known; a logarithmic axis has no place for 0."""
    for label, values in lines.items():
        points = [(at, value) for at, value in zip(x, values, strict=True) if value]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=label)


def _draw_band(axes: "Axes", band: Band | None, label: str) -> None:
    if band is not None:
        (line,) = axes.plot(band.x, band.mean, label=label)
        color = line.get_color()
        axes.fill_between(band.x, band.low, band.high, color=color, alpha=0.2, linewidth=0)


def _bands(groups: Sequence[Group]) -> str:
    """What the bands are, in words."""
    counts = {
        sum(len({record.get("seed") for record in records}) for records in group.runs)
        for group in groups
    }
    if counts == {1}:
        return "one seed"
    count = str(counts.pop()) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
    return f"mean of {count} seeds, 95 % CI of the mean (bootstrap)"
