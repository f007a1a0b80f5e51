"""Every figure: learning curves, diagnoses, scaling. What was measured comes in as numbers."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from epvf.analysis import styles
from epvf.analysis.curves import (
    AXES,
    CURVES,
    Band,
    Group,
    group_runs,
    length_ratio,
    mean_band,
)
from epvf.analysis.styles import Style
from epvf.errors import UserError
from epvf.files import check_new, one_line
from epvf.methods.metrics import ENDED, PERTURBED
from epvf.runs.folder import read_info
from epvf.runs.metrics import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOG_FROM = 4.0
"""How far the lengths of groups have to lie apart for a logarithmic axis."""

MOST_NAMED = 5
"""Methods that a title names."""

LABEL_WIDTH = 48
"""Characters of a line of the legend."""

Lines: TypeAlias = Mapping[str, Sequence[float | None]]
"""Label to the values over an axis; None where one is not known."""


class Plotted(NamedTuple):
    """What was drawn: the file, and folders of runs that have nothing to draw yet."""

    file: Path
    skipped: list[Path]


def plot_runs(
    runs: Sequence[Path],
    out: Path | None = None,
    x: str = "env-steps",
    width: int = 1,
    replace: bool = False,
) -> Plotted:
    """Draws the mean over seeds, with its 95 % interval, of every group of equal configurations.

    Args:
        runs: folders of the runs.
        out: file to write; None: `plots/return.png` in the only run, or here for several.
        x: what to draw over, of `AXES`.
        width: iterations of a running mean.
        replace: whether a file that is there already may be replaced; the one in a run always.

    Raises:
        UserError: if a folder is no run, none has records yet, the file cannot be written or is
            there already, or `width` is not positive.
    """
    if width < 1:
        raise UserError(f"smooth is {width}, but must be at least 1")
    if not runs:
        raise UserError("which runs? epvf plot RUN ...")
    known = [run for run in runs if has_records(run)]
    if not known:
        raise UserError(f"{runs[0]} has no {PERTURBED} yet")
    alone = len(runs) == 1
    if out is None:
        out = runs[0] / "plots" / "return.png" if alone else Path("return.png")
        replace = replace or alone
    check_new(out, replace)
    title = runs[0].absolute().name if alone else ""
    save(learning_curves(group_runs(known), (x,), title, width=width), out)
    return Plotted(out, [run for run in runs if run not in known])


def has_records(run: Path) -> bool:
    """Whether a run has told anything yet.

    Raises:
        UserError: if the folder is no run, or its records cannot be read.
    """
    read_info(run)
    file = run / "metrics.jsonl"
    return file.exists() and bool(read_metrics(file))


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
    narrow: bool = False,
) -> "Figure":
    """A row for each quantity of `CURVES`, a column for each axis, a style for each group.

    A single group gets one row, with a dashed line for the perturbed policies. Markers stand where
    something was measured, if that was not too often. See `styles` for colours.

    Args:
        groups: what to compare.
        x: what to draw over, of `AXES`.
        title: above all panels, below the task and the methods.
        best: highest return there is; marked with a dashed line where curves come near it.
        notes: lines of text below the panels.
        width: iterations of a running mean.
        ended: whether all runs have reached their ends. Seeds need different times for that: over
            seconds each then keeps its last value until the slowest of its group has ended.

    Returns:
        The figure, not yet written.
    """
    from matplotlib.figure import Figure  # slow to import; Figure alone needs no display
    from matplotlib.ticker import EngFormatter, StrMethodFormatter

    alone = len(groups) == 1
    rows = [tuple(CURVES)] if alone else [(key,) for key in CURVES]
    size = (2.0 + 5.5 * len(x), 1.2 + 3.2 * len(rows))
    if narrow:
        size = (4.7 * len(x), 1.2 + 2.4 * len(rows) + 0.22 * len(groups))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(rows), len(x), sharex="col", sharey="row", squeeze=False)
    looks = styles.of_groups([group.method for group in groups])
    for keys, row in zip(rows, panels, strict=True):
        for axis, axes in zip(x, row, strict=True):
            log = length_ratio(groups, AXES[axis][0]) > LOG_FROM
            axes.set_xscale("log" if log else "linear")
            for group, look in zip(groups, looks, strict=True):
                for key in keys:
                    label = CURVES[key] if alone else group.label
                    hold = ended and axis == "seconds"
                    band = mean_band(group, axis, key, width, log, hold)
                    dashed = alone and key == PERTURBED
                    _draw_band(axes, band, label, look._replace(dash="--") if dashed else look)
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
        if axes.get_xscale() == "log":
            _label_decades(axes)
    handles, labels = panels[0][0].get_legend_handles_labels()
    labels = [textwrap.fill(label, LABEL_WIDTH) for label in labels]
    place: dict[str, Any] = {"loc": f"outside {'lower' if narrow else 'right'} center"}
    figure.legend(handles, labels, fontsize="small", handlelength=3.5, **place)
    told = (_subject(groups), title, _bands(groups), _under_way(groups))
    figure.suptitle("\n".join(filter(None, told)), fontsize="medium")
    if notes:
        figure.supxlabel("\n".join(notes), fontsize="small", x=0.01, ha="left")
    return figure


def _label_decades(axes: "Axes") -> None:
    """Labels 1, 2 and 5 of few decades, and powers of ten of many, where none overlap."""
    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = axes.get_xlim()
    axes.xaxis.set_minor_formatter(NullFormatter())
    if high < 100.0 * low:
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))


def diagnosis(result: dict[str, Any]) -> "Figure":
    """What `analysis.diagnosis` found: cosines, gains and ranking side by side."""
    from matplotlib.figure import Figure  # slow to import; Figure alone needs no display

    figure = Figure(figsize=(15.0, 4.2), layout="constrained")
    cosines, gains, ranking = figure.subplots(1, 3)
    names, method = list(result["cosines"]), result["method"]
    colours = [styles.of_direction(name, method).colour for name in names]
    cosines.bar(names, [result["cosines"][name] for name in names], color=colours)
    cosines.axhspan(
        -2 * result["cosine_by_chance"], 2 * result["cosine_by_chance"], alpha=0.2, color="grey"
    )
    cosines.tick_params(axis="x", labelrotation=20)
    cosines.set_ylabel("cosine with the reference gradient")
    for name in (*names, "reference"):
        rows = result["gains"][name]
        means = [row["perturbed"]["mean"] for row in rows]
        errors = [row["perturbed"]["error"] for row in rows]
        steps, look = [row["step"] for row in rows], styles.of_direction(name, method).line
        gains.errorbar(steps, means, errors, label=name, capsize=2, **look)
    gains.set_xscale("log")
    gains.axhline(0.0, color="black", linewidth=0.8)
    gains.set_xlabel("step, in perturbations' length")
    gains.set_ylabel("gain of the perturbed policies")
    gains.legend(fontsize="small")
    rows = result["ranking"]
    distances, ranks = ([row[name] for row in rows] for name in ("distance", "spearman"))
    errors, look = [row["error"] for row in rows], styles.of_method(method).line
    ranking.errorbar(distances, ranks, errors, capsize=2, **look)
    ranking.axhline(0.0, color="black", linewidth=0.8)
    ranking.set_xlabel("distance, in units of the noise")
    ranking.set_ylabel("V's rank correlation with returns")
    subject = f"{result.get('task', '')} {method}".strip()
    where = f"{result['run']}, update {result['update']}"
    figure.suptitle(f"{subject}: {where}", fontsize="medium")
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


def _draw_band(axes: "Axes", band: Band | None, label: str, style: Style) -> None:
    if band is not None:
        line = style.line | ({} if band.marks else {"marker": ""})
        axes.plot(band.x, band.mean, label=label, markevery=band.marks, **line)
        look: dict[str, Any] = {"color": style.colour, "alpha": 0.2, "linewidth": 0}
        axes.fill_between(band.x, band.low, band.high, **look)


def _subject(groups: Sequence[Group]) -> str:
    """Tasks and methods, as far as they are known."""
    tasks = dict.fromkeys(group.task for group in groups if group.task)
    methods = dict.fromkeys(group.method for group in groups if group.method)
    counted = f"{len(methods)} methods" if len(methods) > MOST_NAMED else ", ".join(methods)
    return ": ".join(filter(None, (", ".join(tasks), counted)))


def _under_way(groups: Sequence[Group]) -> str:
    """What is left out of before any episode had ended, in words."""
    cut = any(
        record.get(ENDED) == 0.0 for group in groups for records in group.runs for record in records
    )
    return "perturbed returns begin where the first episode has ended" if cut else ""


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
