"""Which of a run's policies to look at, what V says of them, and where ∇V leads."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from epvf.analysis.neighbourhood import Neighbourhood
from epvf.analysis.restore import has_value, restore
from epvf.analysis.trained_value import TrainedValue, value_around
from epvf.errors import UserError
from epvf.policies.formats.registry import load_policy
from epvf.runs.folder import is_taken, policy_path, trail_path
from epvf.runs.trail import Points, read_trail
from epvf.view.cast import Actor, swarm

NEWEST, BEST = "newest", "best"
PARTS = tuple(2.0**-i for i in range(14))
"""Of a typical perturbation's length, as far as V is looked at along its gradient."""


@dataclass(frozen=True)
class Choices:
    """The policies of a run, or the only one of a file.

    Attributes:
        actor: a policy, and the run that it is of.
    """

    actor: Actor

    def names(self) -> list[str]:
        """Of the policies that there are now: the newest, the best, and those of the past."""
        if self.actor.run is None:
            return [self.actor.name]
        return [NEWEST, BEST, *(f"update {update}" for update in self._trail.updates)]

    def theta(self, name: str) -> Float[np.ndarray, "P"]:
        """The policy of that name; of several seeds the first one's.

        Raises:
            UserError: if it cannot be read (any more).
        """
        run = self.actor.run
        if run is None:
            return self.actor.saved.theta
        if name in (NEWEST, BEST):
            return load_policy(policy_path(run, "last" if name == NEWEST else "best")).theta
        thetas, updates = self._trail
        at = np.flatnonzero(updates == int(name.removeprefix("update ")))
        if not len(at):
            raise UserError(f"the run does not hold {name} any more; choose another")
        return thetas[at[0], 0]

    def stamp(self) -> tuple[float, ...]:
        """Changes whenever a run has written policies."""
        if self.actor.run is None:
            return ()
        files = (policy_path(self.actor.run, "last"), trail_path(self.actor.run))
        return tuple(file.stat().st_mtime for file in files if file.exists())

    @property
    def live(self) -> bool:
        """Whether the run trains now."""
        return self.actor.run is not None and is_taken(self.actor.run)

    def perturbed(self, theta: np.ndarray, num: int, seed: int) -> Float[np.ndarray, "N P"]:
        """Policies around one, with its run's noise."""
        if not num:
            return np.zeros((0, len(theta)), np.float32)
        if self.value is None:
            actor = replace(self.actor, saved=self.actor.saved._replace(theta=theta))
            return swarm(actor, num, seed).thetas
        even = num + num % 2
        drawn = self._around.population(jax.random.key(seed), jnp.asarray(theta), even)
        return np.asarray(drawn, np.float32)[:num]

    @cached_property
    def value(self) -> TrainedValue | None:
        """V at the newest checkpoint; None where the run has none."""
        if self.actor.run is None or not has_value(self.actor.run):
            return None
        return value_around(self._around, "")

    def predicted(self, thetas: Float[np.ndarray, "N P"]) -> Float[np.ndarray, "N"] | None:
        """What V says of policies; None where there is no V."""
        return None if self.value is None else self.value(thetas)

    def uphill(self, lengths: float) -> Float[np.ndarray, "P"]:
        """The move along ∇V at the checkpoint; 1 leads to where V is highest on that line.

        0 where there is no V.
        """
        if self.value is None or not lengths:
            return np.zeros_like(self.actor.saved.theta)
        unit, moved = self._slope
        return np.asarray(moved(jnp.float32(lengths) * unit) - self._around.theta)

    @cached_property
    def _slope(self) -> tuple[jax.Array, Callable[[Any], jax.Array]]:
        """A move along ∇V to where V is highest, and what makes policies of moves.

        That lies far nearer than perturbations do, of which each moves many weights a little in
        directions that matter to nobody.
        """
        around, value = self._around, self.value
        assert value is not None

        def of(move: jax.Array) -> jax.Array:
            return value.average(around.moved(move)[None])[0]

        slope = jax.grad(of)(jnp.zeros_like(around.theta))
        length = jnp.sqrt((around.deviation > 0.0).sum())
        unit = slope * length / jnp.maximum(jnp.linalg.norm(slope), 1e-30)
        moved = jax.jit(around.moved)
        thetas = np.stack([np.asarray(moved(jnp.float32(part) * unit)) for part in PARTS])
        return jnp.float32(PARTS[int(np.argmax(value(thetas)))]) * unit, moved

    @cached_property
    def _around(self) -> Neighbourhood:
        assert self.actor.run is not None
        return restore(self.actor.run).around()

    @property
    def _trail(self) -> Points:
        assert self.actor.run is not None
        file = trail_path(self.actor.run)
        if not file.exists():
            return Points(np.zeros((0, 1, 1), np.float32), np.zeros(0, np.int64))
        return read_trail(file)


def choices(what: Path) -> Choices:
    """Of a run's folder or a policy file.

    Raises:
        UserError: if it is neither.
    """
    from epvf.view.cast import cast

    (actor,) = cast(what, "last" if what.is_dir() else "best")
    return Choices(actor)
