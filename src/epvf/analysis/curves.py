"""Learning curves of runs on disk: means over seeds with confidence intervals."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from epvf.analysis.statistics import interval
from epvf.config.schema import Config, flatten
from epvf.methods.metrics import ENDED, PERTURBED, UNPERTURBED
from epvf.runs.folder import read_config, read_info
from epvf.runs.metrics import Record, read_metrics

AXES = {
    "env-steps": ("steps/env", "environment steps"),
    "iterations": ("steps/update", "iterations"),
    "seconds": ("time/wall", "seconds of training"),
}
CURVES = {PERTURBED: "perturbed policies", UNPERTURBED: "unperturbed policy"}
MOST_MARKS = 40
"""Measurements of a curve that get a marker each."""
POINTS = 400
"""Points of a curve, where runs that differ in their steps are averaged."""

_ABSENT = object()
_KINDS = ("task.name", "method")
_NO_GROUP = ("seed", "num_seeds", "task.num_threads")
"""Fields that do not make runs different to a reader, besides those of `checkpoint`."""


class Curve(NamedTuple):
    """One quantity of one seed: `x` and `y`, both `[T]`."""

    x: np.ndarray
    y: np.ndarray


class Band(NamedTuple):
    """Several curves on one axis: `x`, their mean and its 95 % interval, all `[POINTS]`.

    `marks` are the points where the first of them was measured, none where that was too often.
    """

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    marks: list[int]


class Group(NamedTuple):
    """Runs that differ in nothing but their seeds.

    Attributes:
        label: what to call them.
        runs: records of each.
        method, task: names; empty where nobody knows.
    """

    label: str
    runs: list[list[Record]]
    method: str = ""
    task: str = ""


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
        Group(
            label,
            [read_metrics(run / "metrics.jsonl") for run in members],
            str(fields["method"]),
            str(fields["task.name"]),
        )
        for label, members, fields in zip(labels, groups.values(), settings.values(), strict=True)
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
    """Fields that not all have alike, or that not all have: each method has its own."""
    names = dict.fromkeys(name for one in settings for name in one)
    return [name for name in names if len({repr(one.get(name, _ABSENT)) for one in settings}) > 1]


def curves(records: list[Record], x: str, y: str) -> list[Curve]:
    """The curve of each seed, without the records that lack either number.

    Returns of before any episode had ended, which are of episodes under way, are left out too.
    """
    seeds: dict[Any, list[tuple[float, float]]] = {}
    for record in records:
        if y == PERTURBED and record.get(ENDED) == 0.0:
            continue
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
    return Band(x, values.mean(axis=0), low, high, _marks(found[0], x))


def _marks(curve: Curve, x: np.ndarray) -> list[int]:
    """The points of an axis that lie nearest to where a curve was measured."""
    if len(curve.x) > MOST_MARKS:
        return []
    inside = curve.x[(curve.x >= x[0]) & (curve.x <= x[-1])]
    return sorted({int(np.abs(x - at).argmin()) for at in inside})


def length_ratio(groups: Sequence[Group], x: str) -> float:
    """How many times as long the longest group is as the shortest."""
    ends = [max(records[-1].get(x, 0.0) for records in group.runs) for group in groups]
    return max(ends) / min(ends) if min(ends) > 0 else 1.0


def mean_band(group: Group, axis: str, key: str, width: int, log: bool, hold: bool) -> Band | None:
    """A group's mean and interval; None where nothing was measured."""
    found = [
        # what is not measured at every iteration has fewer points to average
        smooth(curve, max(1, width * len(curve.x) // records[-1]["steps/update"]))
        for records in group.runs
        for curve in curves(records, AXES[axis][0], key)
    ]
    return average(found, log, hold) if found else None


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
