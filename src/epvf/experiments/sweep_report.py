"""What came out of a sweep: the best configuration, a page, figures, a table of all trials."""

import csv
import io
from pathlib import Path
from typing import Any

import yaml

from epvf.analysis import sweep_figures
from epvf.analysis.drawing import save
from epvf.analysis.sweep_figures import Point
from epvf.config.schema import replace, to_dict
from epvf.errors import RunFailed
from epvf.experiments.compare_report import markdown
from epvf.experiments.space import Axis, Span
from epvf.experiments.study import FAILURE, Study, Sweep, leaders
from epvf.experiments.sweep import config_of
from epvf.files import write_atomically, write_json

SHOWN = 10
"""Trials that the page's table holds."""


def write(folder: Path, study: Study, sweep: Sweep, command: str) -> dict[str, Any]:
    """Writes `best.yaml`, `report.md`, `figure.png`, `figure.pdf`, `trials.csv`, `summary.json`.

    Args:
        folder: of the sweep.
        study: its trials.
        sweep: what was searched.
        command: that makes it.

    Returns:
        What `summary.json` holds: the best trial, how many ended how, and the importances.

    Raises:
        RunFailed: if no trial was trained to its end.
    """
    ranked, ended = study.ranked(), study.ended()
    if not ranked:
        reasons = [t.user_attrs[FAILURE] for t in ended if FAILURE in t.user_attrs]
        told = f"; the first failed: {reasons[0]:.100}" if reasons else ""
        raise RunFailed(f"none of {len(ended)} trials was trained to its end{told}")
    best = ranked[0]
    summary = {
        "sweep": str(folder),
        "task": sweep.config.task.name,
        "method": sweep.config.method.name,
        "metric": sweep.metric,
        "trials": len(study.trials()),
        "complete": len(ranked),
        "given_up": sum(FAILURE not in t.user_attrs for t in ended) - len(ranked),
        "failed": sum(FAILURE in t.user_attrs for t in ended),
        "best": {"trial": best.number, "return": best.value, "params": best.params},
        "importances": study.importances(),
        "command": command,
    }
    write_json(folder / "summary.json", summary)
    # of one seed, as whoever uses it asks for
    config = replace(config_of(sweep, best.params), {"num_seeds": 1})
    text = yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)
    write_atomically(folder / "best.yaml", text.encode())
    write_atomically(folder / "trials.csv", _csv(study, sweep).encode())
    figure = sweep_figures.sweep(
        [_point(trial) for trial in ended],
        summary["importances"],
        {axis.name: isinstance(axis, Span) and axis.log for axis in sweep.space},
        f"sweep {sweep.name}: {sweep.config.env_steps} env steps, {sweep.metric}",
    )
    save(figure, folder / "figure.png", folder / "figure.pdf")
    write_atomically(folder / "report.md", page(study, sweep, summary).encode())
    return summary


def page(study: Study, sweep: Sweep, summary: dict[str, Any]) -> str:
    """The report in Markdown."""
    header, *rows = leaders(study, sweep, SHOWN)
    importances = [[name, f"{value:.0%}"] for name, value in summary["importances"].items()]
    ended = f"{summary['complete']} of {summary['trials']} trials were trained to their ends"
    parts = [
        f"# Sweep of {sweep.name}",
        f"    {summary['command']}",
        f"Method `{summary['method']}`, preset `{sweep.preset}`, {sweep.config.num_seeds} seeds a "
        f"trial, {sweep.config.env_steps} env steps a seed; {ended}, {summary['given_up']} were "
        f"given up early, {summary['failed']} failed. The return is `{sweep.metric}`, its mean "
        "over seeds and over the last 5 % of a run. The best of many trials is the luckiest, too: "
        "train it with other seeds before you quote it.",
        f"    epvf train {summary['task']} --config best.yaml --seed 100",
        "![History, importances, slices](figure.png)",
        "## Best trials",
        markdown(list(header), [list(row) for row in rows]),
        "## Search space",
        markdown(
            ["field", "values"], [[a.name, f"`{a}`".replace("|", "\\|")] for a in sweep.space]
        ),
    ]
    if importances:
        parts += ["## Importances (PED-ANOVA)", markdown(["field", "importance"], importances)]
    return "\n\n".join(parts) + "\n"


def _code(axis: Axis) -> str:
    return f"`{axis}`".replace("|", "\\|")


def _csv(study: Study, sweep: Sweep) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [axis.name for axis in sweep.space]
    writer.writerow(["trial", "state", "return", *names, "failure"])
    for t in study.trials():
        value = "" if t.value is None else t.value
        values = (t.params.get(name, "") for name in names)
        failure = t.user_attrs.get(FAILURE, "")
        writer.writerow([t.number, t.state.name.lower(), value, *values, failure])
    return text.getvalue()


def _point(trial: Any) -> Point:
    reported = trial.intermediate_values
    last = reported[max(reported)] if reported else None
    complete = trial.state.name == "COMPLETE"
    return Point(trial.number, trial.value if complete else last, complete, trial.params)
