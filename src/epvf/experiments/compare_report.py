"""What came out of a comparison of methods: one page, a figure, a tidy table and all numbers."""

from pathlib import Path
from typing import Any

import numpy as np

from epvf.analysis import report
from epvf.analysis.curves import AXES, Group, differences
from epvf.analysis.drawing import learning_curves, save
from epvf.analysis.statistics import summary as summary_of
from epvf.config.schema import Config, flatten
from epvf.experiments.report import FINAL, by_seed, end_of_run, groups_of, tidy_csv
from epvf.experiments.runner import Plan, run_folder
from epvf.files import write_atomically, write_json
from epvf.methods.metrics import PERTURBED, UNPERTURBED
from epvf.methods.registry import METHODS
from epvf.runs.metrics import Record
from epvf.tasks import make

LEVELS = (0.25, 0.5, 0.75, 0.9)
"""Fractions of the task's maximum return whose price is told."""

BEST_REWARD = {"cartpole": 1.0, "ant": 1.0}
"""Highest reward of a step, by task."""

RETURNS = {"perturbed": PERTURBED, "unperturbed": UNPERTURBED}


def write(folder: Path, plan: Plan, command: str) -> dict[str, Any]:
    """Writes `report.md`, `figure.png`, `figure.pdf`, `results.csv` and `summary.json`.

    Args:
        folder: of the finished comparison.
        plan: its runs.
        command: that makes it.

    Returns:
        What `summary.json` holds: the task's maximum return, and for each method its seeds, final
        returns with 95 % intervals, and what each level of `LEVELS` cost.
    """
    groups = groups_of(folder, plan)
    best = max_return(plan)
    configs = _configs(plan, groups)
    summary = {
        "name": plan.name,
        "budget": plan.scale,
        "preset": plan.preset,
        "max_return": best,
        "command": command,
        "methods": {
            group.label: {"method": config.method.name, "settings": told} | _method(group, best)
            for group, config, told in zip(groups, configs, _differences(configs), strict=True)
        },
    }
    write_json(folder / "summary.json", summary)
    write_atomically(folder / "results.csv", tidy_csv(groups).encode())
    title = f"{plan.name}: {plan.scale}, preset {plan.preset}"
    figure = learning_curves(groups, ("env-steps", "seconds"), title, best, ended=True)
    save(figure, folder / "figure.png", folder / "figure.pdf")
    write_atomically(folder / "report.md", page(summary).encode())
    return summary


def write_page(folder: Path, plan: Plan) -> Path:
    """Writes `report.html`, a page of all runs that needs nothing but itself."""
    return report.write([run_folder(folder, arm) for arm in plan.arms], folder / "report.html")


def max_return(plan: Plan) -> float | None:
    """The highest return that the plan's task can give; None where it is not known."""
    asked = plan.arms[0].config.task
    spec = make(asked.name, asked.backend, episode_length=asked.episode_length).spec
    reward = BEST_REWARD.get(asked.name)
    return None if reward is None else reward * spec.episode_length


def _agents(methods: dict[str, Any]) -> bool:
    """Whether there are methods with a loop of their own among these."""
    return any(METHODS[method["method"]].build is None for method in methods.values())


def _configs(plan: Plan, groups: list[Group]) -> list[Config]:
    """What the first run of each group trains."""
    by_label = {arm.name.removesuffix(f"-s{arm.config.seed}"): arm.config for arm in plan.arms}
    return [by_label[group.label] for group in groups]


def _differences(configs: list[Config]) -> list[str]:
    """What tells each of several configurations from the others."""
    return differences([flatten(config) for config in configs])


def table(summary: dict[str, Any]) -> str:
    """Final returns as lines of text."""
    rows = [
        (name, *(_spread(method["final"][which], "mean") for which in RETURNS))
        for name, method in summary["methods"].items()
    ]
    header = ("", f"perturbed return, last {FINAL:.0%} (95 % CI)", "unperturbed")
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = (
        "  ".join(f"{cell:{w}}" for cell, w in zip(r, widths, strict=True)) for r in (header, *rows)
    )
    return "\n".join(line.rstrip() for line in lines)


def page(summary: dict[str, Any]) -> str:
    """The report in Markdown."""
    methods = summary["methods"]
    parts = [
        f"# {summary['name'].capitalize()}",
        f"    {summary['command']}",
        f"Preset `{summary['preset']}`, every run to {summary['budget']}, one seed a run. "
        "Intervals are 95 % bootstrap intervals over seeds; of fewer than about five seeds they "
        "say little.",
        *_settings(methods),
        "![Learning curves](figure.png)",
        f"## Final return\n\nMean over the last {FINAL:.0%} of a run. IQM: interquartile mean over "
        "seeds. `perturbed`: the policies that were rolled out to learn from; `unperturbed`: the "
        "policy that is kept.",
        markdown(
            ["method", "seeds", "env steps"]
            + [f"{which}, {what}" for which in RETURNS for what in ("mean", "IQM")],
            [_final_row(name, method) for name, method in methods.items()],
        ),
    ]
    if summary["max_return"] is not None:
        parts += [
            f"## What a return costs\n\nEnv steps / seconds until the mean return first reaches a "
            f"part of the task's maximum, {summary['max_return']:g}: the median over the seeds "
            "that reached it, and how many did. Seconds are of training, without compilation"
            + (", but with it for PPO and SAC" if _agents(methods) else "")
            + ".",
            *(_reached_table(which, methods) for which in RETURNS),
        ]
    return "\n\n".join(parts) + "\n"


def _settings(methods: dict[str, Any]) -> list[str]:
    """What stands behind names that are no methods'."""
    if all(name == method["method"] for name, method in methods.items()):
        return []
    rows = [[name, method["method"], method["settings"]] for name, method in methods.items()]
    return [markdown(["name", "method", "differs in"], rows)]


def reached(records: list[Record], key: str, level: float) -> tuple[int, float] | None:
    """Env steps and seconds at which one seed's return first was at a level; None: never."""
    for record in records:
        value = record.get(key)
        if value is not None and value >= level:
            return record[AXES["env-steps"][0]], record[AXES["seconds"][0]]
    return None


def _method(group: Group, best: float | None) -> dict[str, Any]:
    seeds = [records for run in group.runs for records in by_seed(run)]
    levels = () if best is None else LEVELS
    return {
        "seeds": len(seeds),
        "env_steps": [records[-1]["steps/env"] for records in seeds],
        "final": {
            which: summary_of(np.array([end_of_run(records, key) for records in seeds]))
            for which, key in RETURNS.items()
        },
        "reached": {
            which: {f"{part:.0%}": _price(seeds, key, part * (best or 0.0)) for part in levels}
            for which, key in RETURNS.items()
        },
    }


def _price(seeds: list[list[Record]], key: str, level: float) -> dict[str, Any]:
    found = [price for records in seeds if (price := reached(records, key, level)) is not None]
    steps, seconds = (float(np.median([p[i] for p in found])) if found else None for i in (0, 1))
    return {"return": level, "seeds": len(found), "env_steps": steps, "seconds": seconds}


def _final_row(name: str, method: dict[str, Any]) -> list[str]:
    final = [_spread(method["final"][which], what) for which in RETURNS for what in ("mean", "iqm")]
    return [name, str(method["seeds"]), f"{np.mean(method['env_steps']):.4g}", *final]


def _spread(final: dict[str, float], what: str) -> str:
    low, high = ("low", "high") if what == "mean" else ("iqm_low", "iqm_high")
    return f"{final[what]:.2f} ({final[low]:.2f} to {final[high]:.2f})"


def _reached_table(which: str, methods: dict[str, Any]) -> str:
    rows = [
        [name, *(_cost(price, method["seeds"]) for price in method["reached"][which].values())]
        for name, method in methods.items()
    ]
    return markdown([which, *(f"{part:.0%}" for part in LEVELS)], rows)


def _cost(price: dict[str, Any], seeds: int) -> str:
    if not price["seeds"]:
        return f"– (0 of {seeds})"
    return f"{price['env_steps']:.3g} / {price['seconds']:.3g} s ({price['seeds']} of {seeds})"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table, cells as they are."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
