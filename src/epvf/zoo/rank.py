"""Which policies of a zoo are good, by V alone; and how far that is true, by rollouts."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from epvf.analysis.trained_value import Pairs
from epvf.errors import UserError
from epvf.zoo.predictors import SEEN, Neighbours, Predictor, Ridge
from epvf.zoo.rollouts import RollOut
from epvf.zoo.store import Entry, Zoo

RESAMPLES = 1000
LEAST = 5
"""Policies of which a rank correlation says anything."""


class Ranked(NamedTuple):
    """Policies of a zoo, best first by V.

    Attributes:
        entry: `[n]` which of the entries each is of.
        row: `[n]` and which row of it.
        predicted, spread: `[n]` V and the deviation between its members.
        distance: `[n]` from what V has seen; NaN where nobody knows what that is.
        neighbour, ridge: `[n]` baselines' predictions; NaN where there is nothing to make them of.
        returns: `[n]` as the zoo has them.
        seconds: that predicting all of them took.
    """

    entry: Int[np.ndarray, "n"]
    row: Int[np.ndarray, "n"]
    predicted: Float[np.ndarray, "n"]
    spread: Float[np.ndarray, "n"]
    distance: Float[np.ndarray, "n"]
    neighbour: Float[np.ndarray, "n"]
    ridge: Float[np.ndarray, "n"]
    returns: Float[np.ndarray, "n"]
    seconds: float


def rank(
    zoo: Zoo, entries: Sequence[Entry], predictor: Predictor, baselines: bool = True
) -> Ranked:
    """Predicts every policy of the entries and puts the best first.

    Raises:
        UserError: if there are none, or they are not of V's architecture.
    """
    found = list(entries)
    if not found:
        raise UserError(f"zoo {zoo.path} has no such policies; see epvf zoo list {zoo.path}")
    for entry in found:
        predictor.check(entry.origin.task, entry.policy, f"zoo {zoo.path}")
    begin = time.perf_counter()
    pairs = predictor.pairs
    usable = pairs is not None and len(pairs.returns) >= 2 * LEAST
    near = Neighbours(pairs) if usable and pairs is not None else None
    ridge = Ridge(_at_most(pairs)) if baselines and usable and pairs is not None else None
    columns: list[list[np.ndarray]] = []
    for number, entry in enumerate(found):
        row = 0
        for _, rows in zoo.read([entry]):
            count = len(rows.returns)
            nothing = np.full(count, np.nan)
            said = predictor(rows.thetas)
            distance, neighbour = near(rows.thetas) if near else (nothing, nothing)
            columns.append([
                np.full(count, number),
                np.arange(row, row + count),
                said.mean,
                said.spread,
                distance,
                neighbour,
                ridge(rows.thetas) if ridge else nothing,
                rows.returns,
            ])  # fmt: skip
            row += count
    joined = [np.concatenate(column) for column in zip(*columns, strict=True)]
    order = np.argsort(-np.nan_to_num(joined[2], nan=-np.inf), kind="stable")
    whole = [x[order].astype(np.int64) for x in joined[:2]]
    mean, spread, distance, neighbour, ridged, returns = (
        x[order].astype(np.float64) for x in joined[2:]
    )
    seconds = time.perf_counter() - begin
    return Ranked(whole[0], whole[1], mean, spread, distance, neighbour, ridged, returns, seconds)


def agreement(ranked: Ranked, returns: Float[np.ndarray, "n"]) -> dict[str, Any]:
    """Rank correlations of V and of the baselines with returns, and their 95 % intervals.

    Of the same policies for all, those whose return is finite.
    """
    named = {"value": ranked.predicted, "neighbour": ranked.neighbour, "ridge": ranked.ridge}
    return {
        name: correlation(predicted, returns)
        for name, predicted in named.items()
        if np.isfinite(predicted).any()
    }


def correlation(
    predicted: Float[np.ndarray, "n"], returns: Float[np.ndarray, "n"], seed: int = 0
) -> dict[str, Any]:
    """Spearman's rank correlation with its 95 % interval by bootstrap over policies.

    All are None where fewer than five policies are known, or one side is constant.
    """
    known = np.isfinite(predicted) & np.isfinite(returns)
    a, b = (stats.rankdata(x[known]) for x in (predicted, returns))
    count = len(a)
    if count < LEAST or np.ptp(a) == 0.0 or np.ptp(b) == 0.0:
        return {"spearman": None, "low": None, "high": None, "policies": count}
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(RESAMPLES):
        # ranks of resampled ranks: of ties it is the mean rank, as everywhere
        some = draw.integers(0, count, count)
        x, y = stats.rankdata(a[some]), stats.rankdata(b[some])
        if np.ptp(x) > 0.0 and np.ptp(y) > 0.0:
            found.append(np.corrcoef(x, y)[0, 1])
    low, high = np.percentile(found, [2.5, 97.5])
    spearman = float(np.corrcoef(a, b)[0, 1])
    return {"spearman": spearman, "low": float(low), "high": float(high), "policies": count}


def verify(
    zoo: Zoo, entries: Sequence[Entry], ranked: Ranked, count: int, episodes: int, roll: RollOut
) -> tuple[np.ndarray, np.ndarray]:
    """Rolls out policies evenly spaced over V's ranking, from its first to its last.

    Returns:
        Their places in the ranking `[k]`, and their mean returns `[k]`.
    """
    total = len(ranked.predicted)
    places = np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int))
    thetas = policies(zoo, entries, ranked, places)
    return places, roll(thetas, episodes).mean(axis=1)


def policies(
    zoo: Zoo, entries: Sequence[Entry], ranked: Ranked, places: Int[np.ndarray, "k"]
) -> np.ndarray:
    """Weights `[k, P]` of those in these places of the ranking."""
    thetas = np.zeros((len(places), entries[0].policy.num_parameters), np.float32)
    for number in np.unique(ranked.entry[places]):
        passed = 0
        for _, rows in zoo.read([entries[number]]):
            own = (ranked.entry[places] == number) & (ranked.row[places] >= passed)
            own &= ranked.row[places] < passed + len(rows.returns)
            thetas[own] = rows.thetas[ranked.row[places][own] - passed]
            passed += len(rows.returns)
    return thetas


def table(
    ranked: Ranked, entries: Sequence[Entry], top: int, measured: dict[int, float]
) -> list[dict[str, Any]]:
    """The best by V, and whatever else was rolled out, as plain values."""
    places = sorted({*range(min(top, len(ranked.predicted))), *measured})
    return [
        {
            "place": place + 1,
            "shard": entries[ranked.entry[place]].shard,
            "row": int(ranked.row[place]),
            "source": entries[ranked.entry[place]].origin.source,
            "predicted": float(ranked.predicted[place]),
            "spread": float(ranked.spread[place]),
            "distance": float(ranked.distance[place]),
            "return": float(ranked.returns[place]),
            "verified": measured.get(place),
        }
        for place in places
    ]


def _at_most(pairs: Pairs) -> Pairs:
    step = max(1, -(-len(pairs.returns) // (SEEN // 2)))
    return Pairs(pairs.thetas[::step], pairs.returns[::step])
