"""Figures of a sweep: its history, what mattered, and returns over each of the axes."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 3


class Point(NamedTuple):
    """A trial.

    Attributes:
        number: from 0 on, as they were begun.
        value: return at its end, or the newest one of a trial that was given up; None: none.
        complete: whether it was trained to its end.
        params: values of its axes.
    """

    number: int
    value: float | None
    complete: bool
    params: Mapping[str, object]


def sweep(
    points: Sequence[Point],
    importances: Mapping[str, float],
    logarithmic: Mapping[str, bool],
    title: str,
) -> "Figure":
    """One panel of the history, one of the importances, one for each axis.

    Args:
        points: the trials.
        importances: of the axes, as far as they are known.
        logarithmic: whether an axis is one of ratios, for all axes in order.
        title: above all panels.
    """
    from matplotlib.figure import Figure  # slow to import; Figure alone needs no display

    count = 2 + len(logarithmic)
    rows = -(-count // COLUMNS)
    figure = Figure(figsize=(4.4 * COLUMNS, 0.8 + 3.4 * rows), layout="constrained")
    panels = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    known = [point for point in points if point.value is not None]
    _history(panels[0], known)
    _importances(panels[1], importances, list(logarithmic))
    for axes, (name, log) in zip(panels[2:count], logarithmic.items(), strict=True):
        _slice(axes, known, name, log)
    for axes in panels[count:]:
        axes.set_axis_off()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize="small")
    figure.suptitle(title, fontsize="medium")
    return figure


def _history(axes: "Axes", points: Sequence[Point]) -> None:
    _scatter(axes, points, [point.number for point in points])
    done = [(point.number, point.value) for point in points if point.complete]
    if done:
        numbers, values = zip(*done, strict=True)
        best = np.maximum.accumulate(np.array(values, float))
        axes.step(numbers, best, where="post", color="C3", label="best so far")
    axes.set_xlabel("trial")
    axes.set_ylabel("return")


def _importances(axes: "Axes", importances: Mapping[str, float], names: Sequence[str]) -> None:
    axes.barh(names, [importances.get(name, 0.0) for name in names])
    axes.invert_yaxis()
    axes.set_xlabel("importance" if importances else "importance (too few trials to tell)")


def _slice(axes: "Axes", points: Sequence[Point], name: str, log: bool) -> None:
    x = [point.params[name] for point in points]
    _scatter(axes, points, x)
    if log:
        axes.set_xscale("log")
    elif any(isinstance(value, str) for value in x):
        axes.tick_params(axis="x", labelrotation=20)
    axes.set_xlabel(name)
    axes.set_ylabel("return")


def _scatter(axes: "Axes", points: Sequence[Point], x: Sequence[object]) -> None:
    for complete, label, color, marker in (
        (True, "trained to the end", "C0", "o"),
        (False, "given up", "grey", "x"),
    ):
        some = [(at, p.value) for at, p in zip(x, points, strict=True) if p.complete == complete]
        if some:
            places: Any = [at for at, _ in some]  # words, too, of choices
            values: Any = [value for _, value in some]
            axes.scatter(places, values, s=18, label=label, color=color, marker=marker)
    axes.grid(alpha=0.3)
