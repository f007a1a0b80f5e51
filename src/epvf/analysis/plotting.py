"""Learning curves of runs on disk: means over seeds with confidence intervals."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from epvf.config.schema import Config, flatten
from epvf.errors import UserError
from epvf.files import one_line
from epvf.runs.folder import read_config, read_info
from epvf.runs.metrics import Record, read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PERTURBED, UNPERTURBED = "rollout/episode_return", "eval/episode_return"
AXES = {
    "env-steps": ("steps/env", "environment steps"),
    "iterations": ("steps/update", "iterations"),
    "seconds": ("time/wall", "seconds of training"),
}
CURVES = {PERTURBED: "perturbed policies", UNPERTURBED: "unperturbed policy"}
POINTS = 400
"""Points of a curve, where runs that differ in their steps are averaged."""

LOG_FROM = 4.0
"""How far the lengths of groups have to lie apart for a logarithmic axis."""

STYLES = ("-", "--", ":")
"""Of lines, one after the other where there are more groups than colours."""

RESAMPLES = 2000
LABEL_WIDTH = 48
"""Characters of a line of the legend."""

_KINDS = ("task.name", "method")
_NO_GROUP = ("seed", "num_seeds", "task.num_threads")
"""Fields that do not make runs different to a reader, besides those of `checkpoint`."""


class Curve(NamedTuple):
    """One quantity of one seed: `x` and `y`, both `[T]`."""

    x: np.ndarray
    y: np.ndarray


class Band(NamedTuple):
    """Several curves on one axis: `x`, their mean and its 95 % interval, all `[POINTS]`."""

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Group(NamedTuple):
    """Runs that differ in nothing but their seeds: what to call them, and each one's records."""

    label: str
    runs: list[list[Record]]


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
    save(draw(groups, (x,), title, width=width), out)
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


def group_runs(runs: Sequence[Path]) -> list[Group]:
    """Runs of equal configuration together, labelled by the fields in which the groups differ.

    Raises:
        UserError: if a folder is no run.
    """
    groups: dict[tuple[Any, ...], list[Path]] = {}
    settings: dict[tuple[Any, ...], dict[str, Any]] = {}
    for run in runs:
        read_info(run)
        fields = _distinguishing(read_config(run))
        key = tuple(fields.items())
        groups.setdefault(key, []).append(run)
        settings[key] = fields
    labels = differences(list(settings.values()))
    return [
        Group(label, [read_metrics(run / "metrics.jsonl") for run in members])
        for label, members in zip(labels, groups.values(), strict=True)
    ]


def differences(settings: Sequence[dict[str, Any]]) -> list[str]:
    """For each of several flat configurations the fields, and values, that tell it from the others.

    Between tasks and methods most fields differ: their names stand for them, besides these only
    the size of the population is told, and what varies within a task and method.
    """
    names = _varied(settings)
    kinds = [tuple(one[name] for name in _KINDS if name in names) for one in settings]
    labels = []
    for one, kind in zip(settings, kinds, strict=True):
        own = _varied([other for other, its in zip(settings, kinds, strict=True) if its == kind])
        told = [name for name in names if name in own or name == "num_envs"]
        fields = [f"{name} {_show(one[name])}" for name in told]
        labels.append(", ".join([" ".join(kind)] * bool(kind) + fields))
    return labels


def _varied(settings: Sequence[dict[str, Any]]) -> list[str]:
    """Fields that not all have alike."""
    return [name for name in settings[0] if len({repr(one[name]) for one in settings}) > 1]


def curves(records: list[Record], x: str, y: str) -> list[Curve]:
    """The curve of each seed, without the records that lack either number."""
    seeds: dict[Any, list[tuple[float, float]]] = {}
    for record in records:
        if record.get(x) is not None and record.get(y) is not None:
            seeds.setdefault(record.get("seed"), []).append((record[x], record[y]))
    return [Curve(*np.array(points).T) for points in seeds.values()]


def smooth(curve: Curve, width: int) -> Curve:
    """A running mean over `width` points, of both coordinates; less over a shorter curve."""
    width = min(width, len(curve.x))
    kernel = np.ones(width) / width
    return Curve(*(np.convolve(part, kernel, mode="valid") for part in curve))


def average(found: list[Curve], log: bool = False, hold: bool = False) -> Band:
    """The curves on one axis, as far as the shortest of them goes.

    Args:
        found: one or more curves.
        log: whether the points are evenly spaced on a logarithmic axis.
        hold: whether a curve keeps its last value until the longest of them ends.
    """
    start = max(curve.x[0] for curve in found)
    stop = (max if hold else min)(curve.x[-1] for curve in found)
    x = (np.geomspace if log else np.linspace)(start, stop, POINTS)
    values = np.stack([np.interp(x, curve.x, curve.y) for curve in found])
    low, high = interval(values)
    return Band(x, values.mean(axis=0), low, high)


def interval(values: Float[np.ndarray, "seeds *T"]) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval of the mean over the first axis, by bootstrap over it (percentiles)."""
    rows = np.random.default_rng(0).integers(0, len(values), (RESAMPLES, len(values)))
    weights = np.stack([(rows == i).mean(axis=1) for i in range(len(values))], axis=1)
    low, high = np.percentile(np.tensordot(weights, values, axes=1), [2.5, 97.5], axis=0)
    return low, high


def draw(
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
            log = _spread(groups, AXES[axis][0]) > LOG_FROM
            axes.set_xscale("log" if log else "linear")
            axes.set_prop_cycle(styles)
            for group in groups:
                for key in keys:
                    label = CURVES[key] if alone else group.label
                    hold = ended and axis == "seconds"
                    band = _band(group, axis, key, width, log, hold)
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


def _spread(groups: Sequence[Group], x: str) -> float:
    """How many times as long the longest group is as the shortest."""
    ends = [max(records[-1].get(x, 0.0) for records in group.runs) for group in groups]
    return max(ends) / min(ends) if min(ends) > 0 else 1.0


def _band(group: Group, axis: str, key: str, width: int, log: bool, hold: bool) -> Band | None:
    """A group's mean and interval; None where nothing was measured."""
    found = [
        # what is not measured at every iteration has fewer points to average
        smooth(curve, max(1, width * len(curve.x) // records[-1]["steps/update"]))
        for records in group.runs
        for curve in curves(records, AXES[axis][0], key)
    ]
    return average(found, log, hold) if found else None


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


def _distinguishing(config: Config) -> dict[str, Any]:
    return {
        name: value
        for name, value in flatten(config).items()
        if name not in _NO_GROUP and not name.startswith("checkpoint.")
    }


def _show(value: Any) -> str:
    if isinstance(value, tuple):
        return "-".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
