"""Figures of what V says: its landscape around θ, and its gains against what came of them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from epvf.analysis import styles
from epvf.analysis.curves import AXES, Group, curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HATCHING = "#9a9a9a"
"""To be seen on the darkest and on the lightest ground, and on pages of either kind."""
LEVELS = 16
MOST_POINTS = 400
GAINS = "policy/predicted_gain", "policy/realized_gain"
RANKS = "value/spearman"


def landscape(result: dict[str, Any]) -> "Figure":
    """V as contours, true returns as dots of the same colours, θ's way, and where V is fooled."""
    from matplotlib.figure import Figure  # slow to import; Figure alone needs no display

    figure = Figure(figsize=(5.2, 5.0), layout="constrained")
    axes = figure.subplots()
    alpha, beta = np.array(result["alpha"]), np.array(result["beta"])
    value = np.array(_known(result["value"]), float)
    points = result["points"]
    returns = np.array(_known([point["return"] for point in points]), float)
    both = np.concatenate([value.ravel(), returns])
    low, high = np.nanmin(both), np.nanmax(both)
    colours: dict[str, Any] = {
        "cmap": "cividis",
        "vmin": low,
        "vmax": high if high > low else low + 1.0,
    }
    levels = np.linspace(colours["vmin"], colours["vmax"], LEVELS)
    field = axes.contourf(alpha, beta, value, levels, **colours)
    _draw_fooled(axes, points)
    x, y = ([point[name] for point in points] for name in ("alpha", "beta"))
    axes.scatter(x, y, c=returns, s=46, edgecolors="white", linewidths=0.8, zorder=3, **colours)
    _draw_trail(axes, np.array(result["trail"], float).reshape(-1, 2))
    edge = 1.06 * float(alpha[-1])
    axes.set(xlim=(-edge, edge), ylim=(-edge, edge), aspect="equal")
    first, second = result["along"]
    axes.set_xlabel(f"α: {first} (perturbations' lengths)")
    axes.set_ylabel(f"β: {second}")
    figure.colorbar(field, ax=axes, label="return: V as ground, true as dots", shrink=0.85)
    place: dict[str, Any] = {"loc": "outside lower center", "ncols": 3, "fontsize": "small"}
    figure.legend(*axes.get_legend_handles_labels(), **place)
    figure.suptitle(
        f"{result['task']}, {result['method']}: V around θ at update {result['update']}\n"
        f"rank correlation with true returns {_number(result['spearman'])}, fooled at "
        f"{result['fooled']:.0%} of the policies",
        fontsize="medium",
    )
    return figure


def gains(group: Group, title: str = "") -> "Figure | None":
    """V's rank correlation over time, and its predicted gains against the realised ones.

    None where the method tells neither.
    """
    from matplotlib.figure import Figure  # slow to import; Figure alone needs no display
    from matplotlib.ticker import EngFormatter

    ranks = [c for run in group.runs for c in curves(run, AXES["env-steps"][0], RANKS)]
    pairs = [c for run in group.runs for c in curves(run, *GAINS)]
    wanted = [bool(ranks), any(len(pair.x) > 2 for pair in pairs)]
    if not any(wanted):
        return None
    figure = Figure(figsize=(4.7, 0.6 + 2.6 * sum(wanted)), layout="constrained")
    panels = list(np.atleast_1d(figure.subplots(sum(wanted), 1)))
    style = styles.of_method(group.method)
    if wanted[0]:
        axes = panels.pop(0)
        for curve in ranks:
            axes.plot(*_thinned(curve), color=style.colour, linewidth=1.2, alpha=0.8)
        axes.axhline(0.0, color="black", linewidth=0.8)
        axes.set(xlabel=AXES["env-steps"][1], ylabel="V's rank correlation\nwith returns")
        axes.set_ylim(-1.05, 1.05)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.grid(alpha=0.3)
    if wanted[1]:
        _draw_gains(panels[0], pairs, style.colour)
    told = f"{group.task}, {group.method}: what V says of policies"
    figure.suptitle("\n".join(filter(None, (told, title))), fontsize="medium")
    return figure


def _draw_gains(axes: "Axes", pairs: Sequence[Any], colour: str) -> None:
    predicted, realised = (np.concatenate([pair[i] for pair in pairs]) for i in (0, 1))
    each = max(1, len(predicted) // MOST_POINTS)
    axes.scatter(predicted[::each], realised[::each], s=9, color=colour, alpha=0.6)
    axes.axhline(0.0, color="black", linewidth=0.8)
    axes.axvline(0.0, color="black", linewidth=0.8)
    axes.set(xlabel="gain that V predicted (its units)", ylabel="realised gain\n(return)")
    axes.locator_params(axis="x", nbins=5)
    axes.grid(alpha=0.3)


def _draw_fooled(axes: "Axes", points: list[dict[str, Any]]) -> None:
    """Hatches the neighbourhoods of points where V is further off than the noise."""
    side = round(np.sqrt(len(points)))
    steps = sorted({point["alpha"] for point in points})
    fooled = np.array([point["fooled"] for point in points], float).reshape(side, side)
    half = (steps[1] - steps[0]) / 2.0
    look: dict[str, Any] = {"facecolor": "none", "edgecolor": HATCHING, "hatch": "///"}
    look["linewidth"] = 0.0
    for row, beta in enumerate(steps):
        for column, alpha in enumerate(steps):
            if fooled[row, column]:
                (left, right), (low, high) = (
                    np.clip((at - half, at + half), steps[0], steps[-1]) for at in (alpha, beta)
                )
                axes.fill_between((left, right), low, high, **look)
    if fooled.any():
        axes.fill_between([], [], label="V is fooled here", **look)


def _draw_trail(axes: "Axes", trail: np.ndarray) -> None:
    if len(trail):
        way = np.concatenate([trail, np.zeros((1, 2))])
        axes.plot(*way.T, color="white", linewidth=3.5, zorder=4)
        line: dict[str, Any] = {"linewidth": 1.6, "marker": ".", "markersize": 5, "zorder": 5}
        axes.plot(*way.T, color=styles.VERMILLION, label="where θ has been", **line)
    star: dict[str, Any] = {
        "marker": "*",
        "markersize": 10,
        "markeredgecolor": "white",
        "linestyle": "none",
    }
    axes.plot(0.0, 0.0, color=styles.VERMILLION, label="θ", zorder=6, **star)


def _thinned(curve: Any) -> Any:
    each = max(1, len(curve.x) // MOST_POINTS)
    return curve.x[::each], curve.y[::each]


def _number(value: float | None) -> str:
    return "not defined" if value is None or not np.isfinite(value) else f"{value:.2f}"


def _known(values: Any) -> Any:
    """Numbers with NaN for what a file has as null."""
    if isinstance(values, list):
        return [_known(value) for value in values]
    return float("nan") if values is None else values
