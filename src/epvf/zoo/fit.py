"""V learned from a zoo, and how well it ranks what it has not seen, beside simpler predictors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from epvf.analysis.trained_value import Pairs
from epvf.errors import UserError
from epvf.policies.mlp import Policy
from epvf.training.offline import Fitted, OfflineConfig, fit_value
from epvf.zoo.predictors import SEEN, Neighbours, Predictor, Ridge, fitted_predictor, save_fitted
from epvf.zoo.rank import correlation
from epvf.zoo.store import Entry, Rows, Zoo, check_alike, select

MOST = 20_000
"""Policies to learn from, unless told otherwise."""


def fit(
    zoo: Zoo,
    entries: Sequence[Entry],
    config: OfflineConfig,
    most: int,
    held_out_source: str | None,
    out: Path,
) -> dict[str, Any]:
    """Learns V, writes it, and measures it on what was held out.

    Args:
        zoo: where the policies are.
        entries: of one task and architecture.
        config: how V is learned.
        most: policies to learn from.
        held_out_source: sources that contain this only test V; None: none are.
        out: file to write.

    Raises:
        UserError: if there are too few policies.
    """
    tested = [] if held_out_source is None else select(entries, source=held_out_source)
    learning = [entry for entry in entries if entry not in tested]
    if held_out_source is not None and not (tested and learning):
        raise UserError(
            f"{len(tested)} of {len(entries)} shards are of a source with {held_out_source!r}: "
            "there has to be something to learn from, and something to test"
        )
    policy, task = entries[0].policy, entries[0].origin.task
    rows = balanced(zoo, learning, most)
    predictor, fitted, pairs = _learn(f"{out}", task, policy, rows, config)
    held = fitted.held_out
    result: dict[str, Any] = {
        "value": str(out),
        "task": task,
        "policies": len(pairs.returns),
        "epochs": fitted.epochs,
        "held_out": _measured(predictor, pairs, Rows(*(column[held] for column in rows))),
    }
    if tested:
        result["held_out_source"] = _measured(predictor, pairs, zoo.rows(tested, most))
    save_fitted(out, policy, task, fitted, config, pairs)
    return result


def learned(zoo: Zoo, entries: Sequence[Entry], config: OfflineConfig, most: int) -> Predictor:
    """V of a zoo's entries, kept nowhere."""
    rows = balanced(zoo, entries, most)
    first = entries[0]
    return _learn(f"{zoo.path}", first.origin.task, first.policy, rows, config)[0]


def balanced(zoo: Zoo, entries: Sequence[Entry], most: int) -> Rows:
    """About `most` policies: of each source as many, of one that has fewer all, evenly spaced.

    A run of evolution strategies has a thousand times the policies of a run of PPO, of which V
    would else learn nothing.

    Raises:
        UserError: if there are none, or of several kinds.
    """
    check_alike(zoo.path, entries)
    sources: dict[str, list[Entry]] = {}
    for entry in entries:
        sources.setdefault(entry.origin.source, []).append(entry)
    parts, left = [], most
    for place, some in enumerate(sorted(sources.values(), key=_count)):
        share = max(1, left // (len(sources) - place))
        parts.append(zoo.rows(some, share))
        left -= len(parts[-1].returns)
    return Rows(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _count(entries: Sequence[Entry]) -> int:
    return sum(entry.num for entry in entries)


def told(result: dict[str, Any]) -> str:
    """The result for people."""
    lines = [f"V of {result['policies']} policies of {result['task']}, {result['epochs']} epochs"]
    for kind, words in (
        ("held_out", "held-out policies"),
        ("held_out_source", "policies of the held-out source"),
    ):
        for name, found in result.get(kind, {}).items():
            if found["spearman"] is not None:
                lines.append(
                    f"rank correlation of {name} with {words}: {found['spearman']:.3f} "
                    f"({found['low']:.3f} to {found['high']:.3f}, {found['policies']} policies)"
                )
    return "\n".join([*lines, f"value: {result['value']}"])


def _learn(
    name: str, task: str, policy: Policy, rows: Rows, config: OfflineConfig
) -> tuple[Predictor, Fitted, Pairs]:
    fitted = fit_value(policy, rows.thetas, rows.returns, rows.episodes, config)
    learned = np.isfinite(rows.returns)
    learned[fitted.held_out] = False
    pairs = Pairs(rows.thetas[learned], rows.returns[learned])
    return fitted_predictor(name, task, policy, config, fitted, pairs), fitted, pairs


def _measured(predictor: Predictor, pairs: Pairs, rows: Rows) -> dict[str, Any]:
    """Rank correlations with returns that nothing was learned from."""
    step, half = (max(1, -(-len(pairs.returns) // most)) for most in (SEEN, SEEN // 2))
    near = Neighbours(Pairs(pairs.thetas[::step], pairs.returns[::step]))
    ridge = Ridge(Pairs(pairs.thetas[::half], pairs.returns[::half]))
    said = {
        "value": predictor(rows.thetas).mean,
        "neighbour": near(rows.thetas)[1],
        "ridge": ridge(rows.thetas),
    }
    return {name: correlation(x, rows.returns.astype(float)) for name, x in said.items()}
