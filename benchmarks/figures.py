"""Figures and tables of the docs from committed metrics.

python benchmarks/figures.py collect RUN OUT.jsonl [EVERY]   every so many iterations of a run
python benchmarks/figures.py draw                            docs/data to docs/figures
python benchmarks/figures.py table NAME...                   of docs/data/NAME-s*.jsonl
python benchmarks/figures.py at MILLIONS NAME...             the same after so many env steps
python benchmarks/figures.py tasks MILLIONS...               of docs/data/recipe-TASK.jsonl

`epvf experiment`, `epvf compare` and `epvf diagnose` draw the same figures of the runs themselves.
"""

import csv
import json
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from epvf.analysis.curves import Group
from epvf.analysis.drawing import diagnosis, learning_curves, save
from epvf.experiments.paper import EXPERIMENTS
from epvf.experiments.report import COLUMNS
from epvf.runs.metrics import Record, read_metrics

DOCS = Path(__file__).resolve().parents[1] / "docs"
KEYS = (
    *("steps/update", "steps/env", "rollout/episode_return"),
    *("eval/episode_return", "eval/perturbed_return", "seed"),
)
FIGURES = {
    "ant-tuned": (
        "epvf train ant, and other methods",
        {
            "V(s, θ): psvf, the default": ("psvf", "ant-psvf-256-s*.jsonl"),
            "the same, 1,024 policies at a time": ("psvf", "ant-psvf-s[0-9].jsonl"),
            "PPO (Brax)": ("ppo", "ant-ppo-s*.jsonl"),
            "SAC (Brax)": ("sac", "ant-sac-s*.jsonl"),
            "matched OpenES": ("matched-openes", "ant-matched-openes-s*.jsonl"),
            "V(θ): epvf": ("epvf", "ant-v-theta-s*.jsonl"),
            "V(θ) of weights, linear": ("epvf", "ant-epvf-s*.jsonl"),
        },
    ),
}
"""Name to title, and to the method and the files of each group."""
COMPARISONS = {
    "ant": "compare-ant",
    "hopper": "compare-hopper",
    "halfcheetah": "compare-halfcheetah",
}
COMPARISONS |= {"cartpole": "compare-cartpole"}
"""Task to the name of its comparison's table and summary."""
RECIPE = "recipe-tasks"
"""Figure of the recipe on every task that has a docs/data/recipe-TASK.jsonl, its seeds in one."""
DIAGNOSES = ("diagnose-ant-psvf", "diagnose-ant-epvf")
BUDGETS = (5, 10, 15, 20, 25, 30, 40, 50)
"""Millions of env steps."""


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


def drawn() -> set[str]:
    """Names of the figures that `draw` makes."""
    return {*FIGURES, *COMPARISONS.values(), *EXPERIMENTS, *DIAGNOSES, RECIPE}


def draw_all() -> None:
    """Draws every figure from the data that is there."""
    for name, (title, patterns) in FIGURES.items():
        groups = [
            Group(label, _read(pattern), method, "ant")
            for label, (method, pattern) in patterns.items()
        ]
        save(learning_curves(groups, title=title), DOCS / "figures" / f"{name}.png")
    for task in COMPARISONS:
        name = f"compare-{task}"
        told = json.loads((DOCS / "data" / f"{name}.json").read_text())
        title = f"{told['budget']}, preset {told['preset']}"
        axes, best = ("env-steps", "seconds"), told["max_return"]
        figure = learning_curves(_tidy(name, task), axes, title, best, ended=True)
        save(figure, DOCS / "figures" / f"{name}.png")
    for name, experiment in EXPERIMENTS.items():
        told = json.loads((DOCS / "data" / f"{name}.json").read_text())
        preset = f", preset {told['preset']}" if experiment.claims else ""
        title = f"{experiment.title}\nscale {told['scale']}{preset}"
        notes = [f"The paper: {claim}." for claim in experiment.claims]
        groups = [group._replace(method="epvf") for group in _tidy(name, experiment.task)]
        figure = learning_curves(
            groups, experiment.axes, title, experiment.best, notes, experiment.smooth
        )
        save(figure, DOCS / "figures" / f"{name}.png")
    for name in DIAGNOSES:
        found = json.loads((DOCS / "data" / f"{name}.json").read_text())
        save(diagnosis({"task": "ant"} | found), DOCS / "figures" / f"{name}.png")
    save(recipe(), DOCS / "figures" / f"{RECIPE}.png")


def recipe() -> Figure:
    """Unperturbed return of each seed of the recipe, and their mean, on every task."""
    tasks = _recipe_seeds()
    rows = -(-len(tasks) // 4)
    figure = Figure(figsize=(15.0, 3.2 * rows), layout="constrained")
    grid = figure.subplots(rows, 4, squeeze=False).flat
    for axes, (task, seeds) in zip(grid, tasks.items(), strict=False):
        for seed in seeds:
            axes.plot(seed[:, 0] / 1e6, seed[:, 1], color="C0", alpha=0.4, linewidth=1)
        ends = min(seed[-1, 0] for seed in seeds)
        x = np.linspace(max(seed[0, 0] for seed in seeds), ends, 100)
        mean = np.mean([np.interp(x, *seed.T) for seed in seeds], axis=0)
        axes.plot(x / 1e6, mean, color="C0", linewidth=2.5)
        axes.set(title=f"{task}, {len(seeds)} seeds", xlabel="env steps, millions")
    for axes in list(figure.axes)[len(tasks) :]:
        axes.remove()
    figure.supylabel("return of the unperturbed policy")
    return figure


def tasks(budgets: list[float]) -> None:
    """Prints each seed's unperturbed return after so many millions of env steps, and at the end."""
    for task, seeds in _recipe_seeds().items():
        told = [
            ", ".join(f"{_nearest(seed, at * 1e6):.5g}" for seed in seeds)
            for at in (*budgets, 1e6)  # which is beyond every end
        ]
        print(f"| {task} | {seeds[0][-1, 0] / 1e6:.3g}M | " + " | ".join(told) + " |")


def _nearest(seed: np.ndarray, env_steps: float) -> float:
    return float(seed[np.abs(seed[:, 0] - env_steps).argmin(), 1])


def _recipe_seeds() -> dict[str, list[np.ndarray]]:
    """Of each task, env steps and unperturbed returns `[evaluations, 2]` of each seed."""
    found = {}
    for path in _paths("recipe-*.jsonl"):
        seeds: dict[int, list[tuple[float, float]]] = {}
        for record in map(json.loads, path.read_text().splitlines()):
            if record.get("eval/episode_return") is not None:
                point = (record["steps/env"], record["eval/episode_return"])
                seeds.setdefault(record["seed"], []).append(point)
        found[path.stem.removeprefix("recipe-")] = [np.array(seeds[s]) for s in sorted(seeds)]
    return found


def table(names: list[str]) -> None:
    """Prints perturbed / unperturbed returns of each seed, and their means with 95 % t-intervals.

    Each is of the evaluation nearest to so many env steps.
    """
    print("| run |" + "".join(f" {budget:.0f}M |" for budget in BUDGETS))
    print("|---" * (len(BUDGETS) + 1) + "|")
    for name in names:
        pattern = f"{name}-s[0-9].jsonl"
        runs = _read(pattern)
        returns = np.array([[_returns_at(run, budget) for budget in BUDGETS] for run in runs])
        for path, row in zip(_paths(pattern), returns, strict=True):
            cells = ["" if np.isnan(a) else f"{p:.0f} / {a:.0f}" for p, a in row]
            print(f"| {name}, seed {path.stem[-1]} | " + " | ".join(cells) + " |")
        if len(runs) == 1:
            continue
        for kind, columns in zip(("perturbed", "unperturbed"), returns.T, strict=True):
            cells = [_interval(column) for column in columns]
            print(f"| **{name}, {kind}, mean (95 % CI)** | " + " | ".join(cells) + " |")


def at(budget: float, names: list[str]) -> None:
    """Prints one row a setting: each seed's returns, and their means, after so many env steps."""
    print(f"| setting | {budget:g}M, each seed | perturbed (95 % CI) | unperturbed (95 % CI) |")
    print("|---|---|---|---|")
    for name in names:
        returns = [_returns_at(run, budget) for run in _read(f"{name}-s[0-9].jsonl")]
        seeds = ", ".join(f"{perturbed:.0f} / {kept:.0f}" for perturbed, kept in returns)
        means = " | ".join(_interval(column) for column in np.array(returns).T)
        print(f"| {name} | {seeds} | {means} |")


def _returns_at(run: list[Record], budget: float) -> tuple[float, float]:
    """Of perturbed and of unperturbed policies; NaN beyond the run's end."""
    evaluated = [record for record in run if record.get("eval/episode_return") is not None]
    distance = [abs(record["steps/env"] - budget * 1e6) for record in evaluated]
    record = evaluated[int(np.argmin(distance))]
    if min(distance) > 1.7e6:  # evaluations are 1.6M apart
        return np.nan, np.nan
    perturbed = record.get("eval/perturbed_return", record["rollout/episode_return"])
    return perturbed, record["eval/episode_return"]


def _interval(values: np.ndarray) -> str:
    if np.isnan(values).any():
        return ""
    mean = values.mean()
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return f"{mean:.0f} ({mean - half:.0f} to {mean + half:.0f})"


def _read(pattern: str) -> list[list[Record]]:
    return [
        [{"seed": number} | json.loads(line) for line in path.read_text().splitlines()]
        for number, path in enumerate(_paths(pattern))
    ]


def _tidy(name: str, task: str) -> list[Group]:
    """Groups of the tidy table of a comparison, whose settings are methods, or an experiment."""
    runs: dict[str, dict[str, list[Record]]] = {}
    with (DOCS / "data" / f"{name}.csv").open() as file:
        for row in csv.DictReader(file):
            seeds = runs.setdefault(row["setting"], {})
            told = {key: row[column] for column, key in COLUMNS.items() if row[column]}
            record: Record = {key: float(value) for key, value in told.items()}
            record |= {"steps/update": int(told["steps/update"])}
            seeds.setdefault(row["seed"], []).append(record)
    return [Group(label, list(seeds.values()), label, task) for label, seeds in runs.items()]


def _paths(pattern: str) -> list[Path]:
    return sorted((DOCS / "data").glob(pattern))


if __name__ == "__main__":
    if sys.argv[1:2] == ["collect"]:
        every = int(sys.argv[4]) if len(sys.argv) > 4 else 1
        collect(Path(sys.argv[2]), Path(sys.argv[3]), every)
    elif sys.argv[1:] == ["draw"]:
        draw_all()
    elif sys.argv[1:2] == ["table"]:
        table(sys.argv[2:])
    elif sys.argv[1:2] == ["at"]:
        at(float(sys.argv[2]), sys.argv[3:])
    elif sys.argv[1:2] == ["tasks"]:
        tasks([float(budget) for budget in sys.argv[2:]])
    else:
        sys.exit(__doc__)
