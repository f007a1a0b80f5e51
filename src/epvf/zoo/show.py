"""What is known of a zoo, of one of its shards, and of one of its policies."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from epvf.errors import UserError
from epvf.zoo.store import CHUNK, SHARDS, Entry, Rows, Zoo

LEAST_NAME = 4
"""Letters of a shard's name that are asked for at least."""

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


class Kind(NamedTuple):
    """Policies of a zoo that can be looked at together, and were made alike.

    Attributes:
        task: its name.
        architecture: as `Policy.describe` says it.
        method: what made them; empty where nobody knows.
        policies, shards, sources: how many.
        best_return: of all; None where nobody knows any.
    """

    task: str
    architecture: str
    method: str
    policies: int
    shards: int
    sources: int
    best_return: float | None


def kinds(entries: Sequence[Entry]) -> list[Kind]:
    """The kinds of policies in entries, in alphabetical order."""
    groups: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in entries:
        key = (entry.origin.task, entry.policy.describe(), entry.origin.method)
        groups.setdefault(key, []).append(entry)
    return [
        Kind(
            *key,
            sum(entry.num for entry in some),
            len(some),
            len({entry.origin.source for entry in some}),
            max((e.best_return for e in some if e.best_return is not None), default=None),
        )
        for key, some in sorted(groups.items())
    ]


def shard_of(zoo: Zoo, name: str) -> Entry:
    """The entry of a shard, by the beginning of its name.

    Raises:
        UserError: if there is no such shard, or several.
    """
    asked = name.removesuffix(".safetensors")
    found = [entry for entry in zoo.entries() if entry.shard.startswith(asked)]
    if len(asked) < LEAST_NAME or not found:
        raise UserError(f"zoo {zoo.path} has no shard {name!r:.40}; see epvf zoo list {zoo.path}")
    if len({entry.shard for entry in found}) > 1:
        raise UserError(f"{len(found)} shards begin with {name!r:.40}; give more of the name")
    return found[0]


def shard(zoo: Zoo, entry: Entry) -> dict[str, Any]:
    """All that is known of a shard, as plain values.

    Raises:
        UserError: if it is missing or is not what the index says.
    """
    parts = [rows[1:] for _, rows in zoo.read([entry])]
    returns, lengths, episodes = (np.concatenate(column) for column in zip(*parts, strict=True))
    noise = entry.noise
    kept = "weights"
    if noise is not None:
        kept = f"centres and keys: {noise.noise} noise of {noise.scale:g}"
    return {
        "shard": entry.shard,
        "policies": entry.num,
        "architecture": entry.policy.describe(),
        "weights": entry.policy.num_parameters,
        "kept_as": kept,
        "bytes": (zoo.path / SHARDS / entry.shard).stat().st_size,
        **entry.origin._asdict(),
        "returns": summary(returns),
        "lengths": summary(lengths),
        "episodes": summary(np.asarray(episodes, float)),
    }


def summary(values: Float[np.ndarray, "n"]) -> dict[str, float] | None:
    """Mean and quartiles of what is finite; None where nothing is."""
    known = np.asarray(values, np.float64)
    known = known[np.isfinite(known)]
    if not len(known):
        return None
    names = ("min", "low", "median", "high", "max")
    ends = np.quantile(known, QUANTILES)
    told = {name: float(end) for name, end in zip(names, ends, strict=True)}
    return {"known": len(known), "mean": float(known.mean())} | told


def best_row(zoo: Zoo, entry: Entry) -> int:
    """The row of a shard's best policy by its return in the zoo.

    Raises:
        UserError: if no return is known.
    """
    returns = np.concatenate([rows.returns for _, rows in zoo.read([entry])])
    if not np.isfinite(returns).any():
        raise UserError(f"shard {entry.shard} knows no return; give --row")
    return int(np.nanargmax(returns))


def policy_of(zoo: Zoo, entry: Entry, row: int) -> Rows:
    """One policy of a shard and how it did.

    Raises:
        UserError: if there is no such row.
    """
    if not 0 <= row < entry.num:
        raise UserError(f"row is {row}, but shard {entry.shard} has rows 0 to {entry.num - 1}")
    for part, (_, rows) in enumerate(zoo.read([entry])):
        inside = row - part * CHUNK
        if inside < len(rows.returns):
            return Rows(*(np.array(column[inside : inside + 1]) for column in rows))
    raise AssertionError("a shard has as many rows as its entry says")
