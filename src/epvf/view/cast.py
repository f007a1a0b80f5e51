"""Who is to be seen: runs, policy files and policies under names that tell them apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from epvf.analysis.restore import restore
from epvf.config.schema import Config
from epvf.errors import UserError
from epvf.methods.registry import METHODS
from epvf.policies.formats.registry import load_policy
from epvf.policies.formats.safetensors import SavedPolicy
from epvf.policies.noise import PerturbationConfig
from epvf.policies.population import perturb
from epvf.runs.folder import policy_path, read_config

One: TypeAlias = str | Path | SavedPolicy
"""Folder of a run, a policy file, or a policy."""

What: TypeAlias = One | Sequence[One] | Mapping[str, One]

MOST = 16
"""Policies side by side."""


@dataclass(frozen=True)
class Actor:
    """One policy to be seen.

    Attributes:
        name: to be written beside it.
        saved: the policy.
        run: folder of the run that it is of; None where nobody knows.
    """

    name: str
    saved: SavedPolicy
    run: Path | None = None


class Swarm(NamedTuple):
    """Perturbations of a policy.

    Attributes:
        thetas: `[N, P]`.
        noise: what they are drawn with, in words.
    """

    thetas: np.ndarray
    noise: str


def cast(what: What, which: str = "best") -> list[Actor]:
    """The policies, in the order given.

    Args:
        what: one or several of them; the keys of a mapping are their names.
        which: of a run's policies, `best` or `last`.

    Raises:
        UserError: if one cannot be read, or there are none or too many.
    """
    if isinstance(what, Mapping):
        actors = [replace(_actor(one, which), name=name) for name, one in what.items()]
    elif isinstance(what, str | Path | SavedPolicy):
        actors = [_actor(what, which)]
    else:
        actors = [_actor(one, which) for one in what]
        actors = _told_apart(actors, list(what))
    if not 1 <= len(actors) <= MOST:
        raise UserError(f"{len(actors)} policies were given, but 1 to {MOST} can be shown")
    return actors


def _actor(one: One, which: str) -> Actor:
    if isinstance(one, SavedPolicy):
        return Actor(one.task or "policy", one)
    path = Path(one)
    if path.is_dir():
        read_config(path)  # says so where it is no run
        return Actor(path.resolve().name, load_policy(policy_path(path, which)), path)
    saved = load_policy(path)
    folder = path.resolve().parent.parent
    return Actor(path.stem, saved, folder if (folder / "run.json").is_file() else None)


def _told_apart(actors: list[Actor], given: list[One]) -> list[Actor]:
    """The same under as much of their paths as no two have alike, or with numbers."""
    paths = [None if isinstance(one, SavedPolicy) else Path(one).resolve() for one in given]
    names = [actor.name for actor in actors]
    for depth in range(1, 5):
        if len(set(names)) == len(names):
            break
        names = [
            actor.name if path is None else "/".join(path.with_suffix("").parts[-depth:])
            for actor, path in zip(actors, paths, strict=True)
        ]
    if len(set(names)) < len(names):
        names = [f"{number} {actor.name}" for number, actor in enumerate(actors, 1)]
    return [replace(actor, name=name) for actor, name in zip(actors, names, strict=True)]


def swarm(actor: Actor, num: int, seed: int) -> Swarm:
    """Perturbations of a policy with its run's noise, of the size that it has at the end.

    Where the run has no checkpoint or no value function the configured noise is taken, and without
    a run the paper's.

    Raises:
        UserError: if the newest checkpoint cannot be read.
    """
    key = jax.random.key(seed)
    theta = jnp.asarray(actor.saved.theta)
    even = num + num % 2  # of which there are pairs, where the noise is antithetic
    if actor.run is None:
        noise, origin = PerturbationConfig(), "the default noise"
    else:
        config = read_config(actor.run)
        if _has_value(config) and any((actor.run / "checkpoints").glob("[0-9]*")):
            return _learned_swarm(actor.run, key, theta, num)
        noise = getattr(config.method, "perturbation", PerturbationConfig())
        origin = "the run's noise" if hasattr(config.method, "perturbation") else "default noise"
    thetas = perturb(noise, key, theta[None, :], even)[:num]
    return Swarm(np.asarray(thetas, np.float32), f"{origin}: {noise.noise} {noise.scale:g}")


def _has_value(config: Config) -> bool:
    return METHODS[config.method.name].build is not None and config.method.name in ("epvf", "psvf")


def _learned_swarm(run: Path, key: Any, theta: jax.Array, num: int) -> Swarm:
    around = restore(run).around()
    thetas = around.population(key, theta, num + num % 2)[:num]
    return Swarm(np.asarray(thetas, np.float32), "the run's noise at its newest checkpoint")
