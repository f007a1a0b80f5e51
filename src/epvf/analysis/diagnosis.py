"""What V knows at a run's newest checkpoint: its gradient, what steps along it gain, its ranking.

Directions are moves in units of the noise, see `neighbourhood`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from epvf.analysis import drawing
from epvf.analysis.neighbourhood import Neighbourhood
from epvf.analysis.restore import restore
from epvf.config.schema import check_seed
from epvf.errors import UserError
from epvf.files import write_json
from epvf.policies.noise import jitter
from epvf.types import Evaluate, Evaluation
from epvf.value.linear_fit import es_line, ridge_line
from epvf.value.targets import spearman, transform

Announce: TypeAlias = Callable[[str], None]

STEPS = (0.03, 0.1, 0.3, 1.0)
DISTANCES = (0.3, 1.0, 2.0)
NORMAL = 1.96
"""Half-width of a 95 % interval in standard errors."""


@dataclass(frozen=True)
class Settings:
    """How much is rolled out.

    Attributes:
        population: N, policies behind the estimates, the gains and the ranking.
        reference: populations behind the reference gradient, all of antithetic pairs.
        steps: lengths of the steps, of which 1 is as long as a typical perturbation.
        distances: of fresh populations from θ, as multiples of the run's noise.
        ridge: penalty of the ridge direction; see `value_update.ridge`.
        seed: of everything random here.
    """

    population: int
    reference: int = 16
    steps: Sequence[float] = STEPS
    distances: Sequence[float] = DISTANCES
    ridge: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.population < 4 or self.population % 2:
            raise UserError(f"population is {self.population}, but must be even and at least 4")
        if self.reference < 2:
            raise UserError(f"reference is {self.reference}, but must be at least 2 populations")
        lengths = [*self.steps, *self.distances, self.ridge]
        if not all(0.0 < number < float("inf") for number in lengths):
            raise UserError("steps, distances and ridge must be finite and greater than 0")
        check_seed(self.seed)


def diagnose(
    run: Path, announce: Announce = lambda message: None, **settings: Any
) -> dict[str, Any]:
    """Measures V at θ of a run's newest checkpoint; of several seeds the first.

    Args:
        run: its folder.
        announce: told what is being rolled out.
        settings: of `Settings`; `population` may be None for as many as the run has environments.

    Returns:
        Plain values: `cosines` with the reference gradient; `gains` of steps along each direction;
        `ranking`, V's rank correlation with the returns of fresh populations; and how sure they
        are.

    Raises:
        UserError: if the folder is no run, has no checkpoint, or its method has no V.
    """
    found = restore(run)
    setup, newest, around = found.setup, found.state, found.around()
    if settings.get("population") is None:
        settings["population"] = setup.config.num_envs
    wanted = Settings(**settings)
    probe = Probe(around, setup.evaluate, wanted, announce)
    return {
        "run": str(run),
        "task": setup.config.task.name,
        "method": setup.config.method.name,
        "update": newest.iteration,
        "env_steps": int(newest.env_steps[0]),
        "population": wanted.population,
        "reference": wanted.reference * wanted.population,
        "targets": around.targets.transform,
        **probe.compare_directions(),
        "gains": probe.gains(),
        "ranking": probe.ranking(),
    }


@dataclass(frozen=True)
class Probe:
    """Rollouts around one seed's θ."""

    around: Neighbourhood
    evaluate: Evaluate
    settings: Settings
    announce: Announce

    @cached_property
    def directions(self) -> dict[str, jax.Array]:
        """Moves `[P]`."""
        return {name: move for name, (move, _) in self._estimates.items()}

    @cached_property
    def _estimates(self) -> dict[str, tuple[jax.Array, int]]:
        """Moves `[P]`, and how many fresh env steps each was estimated from."""
        thetas = self._population(self.around.theta, "estimate")
        evaluation = self.roll_out("estimate", thetas)
        valid, targets = self._ranked(evaluation.returns)
        moves = self.around.moves(thetas)
        steps = int(np.asarray(evaluation.lengths).sum())
        return {
            **self.around.slopes(self.key("slopes")),
            "matched-es": (es_line(moves, targets, valid)[0], steps),
            "ridge": (ridge_line(moves, targets, valid, self.settings.ridge)[0], steps),
            "reference": (self.reference[0] + self.reference[1], self._reference[2]),
            "random": (jax.random.normal(self.key("random"), self.moving.shape) * self.moving, 0),
        }

    def _ranked(self, returns: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Which returns are finite, and targets made of them."""
        valid = jnp.isfinite(returns)
        return valid, transform(self.around.targets, jnp.nan_to_num(returns), valid)

    @cached_property
    def moving(self) -> jax.Array:
        """1 for weights that have noise, `[P]`."""
        return (self.around.deviation > 0.0).astype(jnp.float32)

    @property
    def reference(self) -> tuple[jax.Array, jax.Array]:
        """The ES estimate of the gradient from each half of the antithetic populations, `[P]`."""
        return self._reference[:2]

    @cached_property
    def _reference(self) -> tuple[jax.Array, jax.Array, int]:
        """The same and the env steps of all of them."""
        count = self.settings.reference
        returns, steps = [], 0
        for number, thetas in enumerate(self._antithetic()):
            self.announce(f"reference gradient, population {number + 1}/{count}")
            evaluation = self.roll_out(f"reference {number}", thetas)
            returns.append(evaluation.returns)
            steps += int(np.asarray(evaluation.lengths).sum())
        valid, targets = self._ranked(jnp.concatenate(returns))
        halves = [jnp.zeros_like(self.moving), jnp.zeros_like(self.moving)]
        rows = zip(jnp.split(targets, count), jnp.split(valid, count), strict=True)
        # drawn again rather than kept: 16 populations of the Ant are half a gigabyte
        for number, (thetas, (wanted, known)) in enumerate(
            zip(self._antithetic(), rows, strict=True)
        ):
            halves[number % 2] += es_line(self.around.moves(thetas), wanted, known)[0]
        return halves[0], halves[1], steps

    def compare_directions(self) -> dict[str, Any]:
        """Cosines with the reference, and how far that can be trusted."""
        self.announce("directions")
        found = self.directions
        between = _cosine(*self.reference)
        return {
            "cosines": {
                name: _cosine(found[name], found["reference"])
                for name in found
                if name != "reference"
            },
            "estimated_from_env_steps": {
                name: steps for name, (_, steps) in self._estimates.items()
            },
            # what two halves share bounds what both together share with the truth (Spearman-Brown)
            "reference_halves_cosine": between,
            "reference_reliability": float(np.sqrt(max(2.0 * between / (1.0 + between), 0.0))),
            "cosine_by_chance": float(1.0 / jnp.sqrt(jnp.maximum(self.moving.sum(), 1.0))),
        }

    def gains(self) -> dict[str, Any]:
        """Mean returns at θ, and what is gained by steps along each direction."""
        start = self._returns_at(self.around.theta)
        moved: dict[str, Any] = {"at_theta": {name: _mean(x) for name, x in start.items()}}
        for name, direction in self.directions.items():
            length = jnp.maximum(jnp.linalg.norm(direction), 1e-30)
            unit = direction * jnp.sqrt(self.moving.sum()) / length
            moved[name] = []
            for step in self.settings.steps:
                self.announce(f"gain along {name}, step {step:g}")
                there = self._returns_at(self.around.moved(step * unit))
                moved[name].append(
                    {"step": step} | {kind: _gain(there[kind], start[kind]) for kind in there}
                )
        return moved

    def ranking(self) -> list[dict[str, float]]:
        """V's rank correlation with the returns of fresh populations, by their distance."""
        found = []
        for distance in self.settings.distances:
            self.announce(f"ranking at distance {distance:g}")
            name = f"ranking {distance}"
            thetas = self._population(self.around.theta, name)
            centre = self.around.theta[None, :]
            thetas = centre + distance * (thetas - centre)
            evaluation = self.roll_out(name, thetas)
            predicted = self.around.predicted(self.key(f"{name} V"), thetas, evaluation)
            valid = jnp.isfinite(evaluation.returns)
            rank = spearman(predicted, evaluation.returns, valid)
            error = NORMAL / np.sqrt(max(int(valid.sum()) - 1, 1))
            found.append({"distance": distance, "spearman": float(rank), "error": float(error)})
        return found

    def _population(self, theta: jax.Array, name: str, antithetic: bool = False) -> jax.Array:
        key, num = self.key(name), self.settings.population
        return jnp.asarray(self.around.population(key, theta, num, antithetic))

    def roll_out(self, name: str, thetas: jax.Array) -> Evaluation:
        key = jax.random.fold_in(self.key(name), 1)
        evaluation = self.evaluate(key, np.asarray(thetas))
        returns = jnp.asarray(np.asarray(evaluation.returns, np.float32))
        return evaluation._replace(returns=returns)

    def key(self, name: str) -> jax.Array:
        """A key of its own for everything that is drawn."""
        number = int.from_bytes(name.encode(), "little") % (2**31 - 1)
        return jax.random.fold_in(jax.random.key(self.settings.seed), number)

    def _antithetic(self) -> Iterator[jax.Array]:
        for number in range(self.settings.reference):
            yield self._population(self.around.theta, f"reference {number}", antithetic=True)

    def _returns_at(self, theta: jax.Array) -> dict[str, np.ndarray]:
        """Finite returns of the perturbed population around a policy, and of its own cloud.

        The same noise wherever the policy is.
        """
        learner = self.around.learner
        episodes, relative = learner.eval_episodes, learner.eval_jitter
        clouds = {
            "perturbed": self._population(theta, "gain"),
            "unperturbed": jitter(self.key("cloud"), theta, episodes, relative),
        }
        returns = {name: np.asarray(self.roll_out(name, x).returns) for name, x in clouds.items()}
        return {name: x[np.isfinite(x)] for name, x in returns.items()}


def write(folder: Path, result: dict[str, Any]) -> None:
    """Writes `diagnosis.json` and `diagnosis.png`.

    Raises:
        UserError: if they cannot be written.
    """
    drawing.save(drawing.diagnosis(result), folder / "diagnosis.png")
    write_json(folder / "diagnosis.json", result)


def table(result: dict[str, Any]) -> str:
    """The result as lines of text."""
    gains = result["gains"]
    start = gains["at_theta"]
    steps = [f"{row['step']:g}" for row in gains["value"]]
    lines = [
        f"update {result['update']}, {result['env_steps']} env steps; returns at θ: "
        + ", ".join(f"{name} {_plus(x)}" for name, x in start.items()),
        "",
        f"cosine with the reference gradient ({result['reference']} policies, two halves share "
        f"{result['reference_halves_cosine']:.3f}, chance {result['cosine_by_chance']:.3f})",
        *(f"  {name:<12}{cosine:8.3f}" for name, cosine in result["cosines"].items()),
        "",
        "gain of the perturbed policies after a step of so many perturbations' length (± 95 %)",
        f"  {'':<12}" + "".join(f"{step:>18}" for step in steps),
    ]
    for name in (*result["cosines"], "reference"):
        cells = "".join(f"{_plus(row['perturbed']):>18}" for row in gains[name])
        lines.append(f"  {name:<12}{cells}")
    lines += ["", "V's rank correlation with returns, by distance in units of the noise"]
    lines += [
        f"  {row['distance']:<12g}{row['spearman']:8.3f} ± {row['error']:.3f}"
        for row in result["ranking"]
    ]
    return "\n".join(lines)


def _cosine(a: jax.Array, b: jax.Array) -> float:
    """0 where one of them is nothing."""
    return float(a @ b / jnp.maximum(jnp.linalg.norm(a) * jnp.linalg.norm(b), 1e-30))


def _mean(values: np.ndarray) -> dict[str, float]:
    """Mean, and the half-width of its 95 % interval."""
    if not len(values):
        return {"mean": float("nan"), "error": float("nan")}
    return {
        "mean": float(values.mean()),
        "error": float(NORMAL * values.std() / np.sqrt(len(values))),
    }


def _gain(there: np.ndarray, start: np.ndarray) -> dict[str, float]:
    a, b = _mean(there), _mean(start)
    return {"mean": a["mean"] - b["mean"], "error": float(np.hypot(a["error"], b["error"]))}


def _plus(value: dict[str, float]) -> str:
    return f"{value['mean']:.2f} ± {value['error']:.2f}"
