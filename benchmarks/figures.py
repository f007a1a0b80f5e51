"""Figures of the docs from committed metrics.

python benchmarks/figures.py collect RUN OUT.jsonl [EVERY]   every so many iterations of a run
python benchmarks/figures.py draw                            docs/data to docs/figures
"""

import json
import sys
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from epvf.metrics import Record, read_metrics
from epvf.plotting import Curve, curves

DOCS = Path(__file__).resolve().parents[1] / "docs"
KEYS = ("steps/update", "steps/env", "rollout/episode_return", "eval/episode_return", "seed")
PERTURBED, UNPERTURBED = "rollout/episode_return", "eval/episode_return"
RESAMPLES = 2000


def collect(run: Path, out: Path, every: int) -> None:
    """Copies what the figures need of every so many iterations, and the last."""
    records = read_metrics(run / "metrics.jsonl")
    last = records[-1]["steps/update"]
    with out.open("w") as file:
        for record in records:
            update = record["steps/update"]
            if (update - 1) % every == 0 or update == last:
                kept = {key: record[key] for key in KEYS if key in record}
                file.write(json.dumps(kept) + "\n")


def draw() -> None:
    """Draws every figure that there is data for."""
    _ant_tuned().savefig(DOCS / "figures" / "ant-tuned.png", dpi=150)
    if list((DOCS / "data").glob("cartpole-paper-n*.jsonl")):
        _cartpole_paper().savefig(DOCS / "figures" / "cartpole-paper.png", dpi=150)


def _ant_tuned() -> Figure:
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    runs = [_read(path) for path in sorted((DOCS / "data").glob("ant-tuned-s*.jsonl"))]
    for key, label in ((PERTURBED, "perturbed policies"), (UNPERTURBED, "unperturbed policy")):
        found = [curve for records in runs for curve in curves(records, "steps/env", key)]
        _band(axes, found, label, scale=1e-6)
    axes.set(
        xlabel="environment steps (millions)",
        ylabel="return (of at most 1000)",
        title=f"epvf train ant: mean of {len(runs)} seeds, 95 % CI",
    )
    _finish(axes)
    return figure


def _cartpole_paper() -> Figure:
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    seeds = 0
    for num_envs in (1, 2, 4, 8, 16):
        path = DOCS / "data" / f"cartpole-paper-n{num_envs}.jsonl"
        if not path.exists():
            continue
        records = _read(path)
        for axes, x, scale in zip(panels, ("steps/env", "steps/update"), (1e-3, 1), strict=True):
            found = [_smooth(curve) for curve in curves(records, x, PERTURBED)]
            seeds = len(found)
            _band(axes, found, f"{num_envs} envs", scale)
    panels[0].set(xlabel="environment steps (thousands)", ylabel="return, perturbed policies")
    panels[1].set(xlabel="iterations")
    figure.suptitle(f"CartPole, the paper's setting: mean of {seeds} seeds, 95 % CI")
    for axes in panels:
        _finish(axes)
    return figure


def _band(axes: Axes, found: list[Curve], label: str, scale: float) -> None:
    """Mean and 95 % bootstrap interval over seeds, as far as the shortest curve goes."""
    x = np.linspace(max(c.x[0] for c in found), min(c.x[-1] for c in found), 300)
    values = np.stack([np.interp(x, curve.x, curve.y) for curve in found])
    rows = np.random.default_rng(0).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.percentile(values[rows].mean(axis=1), [2.5, 97.5], axis=0)
    (line,) = axes.plot(x * scale, values.mean(axis=0), label=label)
    axes.fill_between(x * scale, low, high, color=line.get_color(), alpha=0.2, linewidth=0)


def _smooth(curve: Curve, width: int = 5) -> Curve:
    """A running mean: one episode a point says little."""
    kernel = np.ones(width) / width
    return Curve(*(np.convolve(part, kernel, mode="valid") for part in curve))


def _finish(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.legend()


def _read(path: Path) -> list[Record]:
    return [json.loads(line) for line in path.read_text().splitlines()]


if __name__ == "__main__":
    if sys.argv[1:2] == ["collect"]:
        every = int(sys.argv[4]) if len(sys.argv) > 4 else 1
        collect(Path(sys.argv[2]), Path(sys.argv[3]), every)
    elif sys.argv[1:] == ["draw"]:
        draw()
    else:
        sys.exit(__doc__)
