"""What came out of an experiment: a tidy table, a figure, and final returns."""

import csv
import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np

from epvf.analysis.curves import Group
from epvf.analysis.drawing import learning_curves, save
from epvf.analysis.statistics import interval
from epvf.errors import UserError
from epvf.experiments.paper import EXPERIMENTS, Experiment
from epvf.experiments.runner import Plan, run_folder
from epvf.files import write_atomically, write_json
from epvf.methods.metrics import PERTURBED, UNPERTURBED
from epvf.runs.metrics import Record, read_metrics

COLUMNS = {
    "seed": "seed",
    "update": "steps/update",
    "env_steps": "steps/env",
    "seconds": "time/wall",
    "perturbed_return": PERTURBED,
    "unperturbed_return": UNPERTURBED,
    "episode_length": "rollout/episode_length",
    "value_loss": "loss/value",
    "value_spearman": "value/spearman",
}
MAX_ROWS = 200
"""Iterations of a seed that the table keeps, evenly spaced; as many at most are added of those that
measured the unperturbed policy."""

FINAL = 0.05
"""The last part of a run, over which its final return is averaged."""


def write(folder: Path, plan: Plan) -> dict[str, Any]:
    """Writes `results.csv`, `summary.json`, `figure.png` and `figure.pdf` of finished runs.

    Returns:
        What `summary.json` holds: for each setting its seeds, and the mean over them of the
        perturbed and unperturbed return at the end, each with a 95 % interval.
    """
    experiment = EXPERIMENTS[plan.name]
    groups = groups_of(folder, plan)
    write_atomically(folder / "results.csv", tidy_csv(groups).encode())
    summary = {"name": plan.name, "scale": plan.scale, "preset": plan.preset} | {
        "settings": {group.label: _final(group) for group in groups}
    }
    write_json(folder / "summary.json", summary)
    figure = learning_curves(
        groups,
        experiment.axes,
        _title(experiment, plan),
        experiment.best,
        [f"The paper: {claim}." for claim in experiment.claims],
        experiment.smooth,
    )
    save(figure, folder / "figure.png", folder / "figure.pdf")
    return summary


def table(summary: dict[str, Any]) -> str:
    """Final returns as lines of text."""
    width = max(map(len, summary["settings"]))
    lines = [f"{'':{width}}  perturbed return, last {FINAL:.0%} (95 % CI)   unperturbed"]
    for name, final in summary["settings"].items():
        columns = (
            "{mean:9.2f} ({low:.2f} to {high:.2f})".format(**final[key])
            for key in ("perturbed", "unperturbed")
        )
        lines.append(f"{name:{width}}  {'   '.join(columns)}")
    return "\n".join(lines)


def groups_of(folder: Path, plan: Plan) -> list[Group]:
    """The runs of each setting; runs of one seed each are one setting."""
    groups: dict[str, list[list[Record]]] = {}
    for arm in plan.arms:
        run = run_folder(folder, arm)
        records = read_metrics(run / "metrics.jsonl")
        if not records:
            raise UserError(f"{run} is finished, but its metrics.jsonl is empty; move the run away")
        seed = arm.config.seed
        # a run of one seed does not name it
        named = [{"seed": seed} | record for record in records]
        groups.setdefault(arm.name.removesuffix(f"-s{seed}"), []).append(named)
    return [Group(label, runs, *_kind(plan, label)) for label, runs in groups.items()]


def _kind(plan: Plan, label: str) -> tuple[str, str]:
    """Method and task of a setting."""
    arms = (arm for arm in plan.arms if arm.name.removesuffix(f"-s{arm.config.seed}") == label)
    config = next(arms).config
    return config.method.name, config.task.name


def tidy_csv(groups: list[Group]) -> str:
    """One row an iteration and seed, thinned; see `MAX_ROWS`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["setting", *COLUMNS])
    for group in groups:
        for run in group.runs:
            for record in itertools.chain.from_iterable(map(_thinned, by_seed(run))):
                writer.writerow([group.label, *(_cell(record, key) for key in COLUMNS.values())])
    return text.getvalue()


def _thinned(records: list[Record]) -> list[Record]:
    """Of one seed's records those that the table keeps, the last among them."""
    measured = [record for record in records if record.get(UNPERTURBED) is not None]
    kept = {
        record["steps/update"]
        for some in (records, measured)
        for record in [*some[:: max(1, -(-len(some) // MAX_ROWS))], *some[-1:]]
    }
    return [record for record in records if record["steps/update"] in kept]


def _cell(record: Record, key: str) -> Any:
    """A field as the table has it: measurements to six digits, which is more than they hold."""
    value = record.get(key)
    return f"{value:.6g}" if isinstance(value, float) else value


def _final(group: Group) -> dict[str, Any]:
    perturbed, unperturbed = (
        [end_of_run(records, key) for run in group.runs for records in by_seed(run)]
        for key in (PERTURBED, UNPERTURBED)
    )
    return {
        "seeds": len(perturbed),
        "perturbed": _mean(perturbed),
        "unperturbed": _mean(unperturbed),
    }


def by_seed(records: list[Record]) -> list[list[Record]]:
    """The records of each seed."""
    seeds: dict[Any, list[Record]] = {}
    for record in records:
        seeds.setdefault(record["seed"], []).append(record)
    return list(seeds.values())


def end_of_run(records: list[Record], key: str) -> float:
    """Mean of the last part of one seed's run; of its newest value where that part has none.

    NaN where the run never measured it.
    """
    known = [(r["steps/update"], r[key]) for r in records if r.get(key) is not None]
    start = (1.0 - FINAL) * records[-1]["steps/update"]
    end = [value for update, value in known if update > start]
    return float(np.mean(end or [value for _, value in known[-1:]] or np.nan))


def _mean(values: list[float]) -> dict[str, float]:
    low, high = interval(np.array(values))
    return {"mean": float(np.mean(values)), "low": float(low), "high": float(high)}


def _title(experiment: Experiment, plan: Plan) -> str:
    configs = [arm.config for arm in plan.arms]
    sizes = sorted({config.num_envs for config in configs})
    budgets = sorted({config.env_steps or config.iterations for config in configs})
    unit = "iterations" if configs[0].env_steps is None else "env steps"
    envs, budget = (
        str(values[0]) if len(values) == 1 else f"{values[0]} to {values[-1]}"
        for values in (sizes, budgets)
    )
    environments = "environment" if sizes == [1] else "environments"
    preset = f", preset {plan.preset}" if experiment.claims else ""
    return f"{experiment.title}\nscale {plan.scale}{preset}: {envs} {environments}, {budget} {unit}"
