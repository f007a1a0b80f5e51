"""What says how good a policy is without a simulator: V of a run or of a zoo, and baselines."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from safetensors import safe_open
from safetensors.numpy import save

from epvf.analysis.trained_value import Pairs, TrainedValue, load_value
from epvf.errors import UserError
from epvf.files import from_json, one_line, write_atomically
from epvf.policies.formats.safetensors import UNREADABLE
from epvf.policies.mlp import Policy
from epvf.runs.folder import read_config
from epvf.training.offline import Fitted, OfflineConfig, value_of
from epvf.value.linear_fit import ridge_line
from epvf.value.v_theta import Frame

FORMAT = "epvf-value/1"
PART = 4096
"""Policies that are predicted at a time."""

SEEN = 4096
"""Policies that V has seen, of which distances are taken and baselines made, at most."""

PROJECTED = 256
"""Dimensions in which distances are taken (Johnson & Lindenstrauss 1984: within some 6 %)."""

NEIGHBOURS = 5
PENALTIES = (0.1, 1.0, 10.0, 100.0, 1000.0)


class Predicted(NamedTuple):
    """What V says of policies.

    Attributes:
        mean: `[n]` in units of `Predictor.units`.
        spread: `[n]` deviation between the ensemble's members; NaN of a single V.
    """

    mean: Float[np.ndarray, "n"]
    spread: Float[np.ndarray, "n"]


@dataclass(frozen=True)
class Predictor:
    """V as a function of weights, from wherever it was learned.

    Attributes:
        name: of its run or file.
        task: that it speaks of; empty where nobody knows.
        policy: the architecture that it reads.
        units: of predictions.
        pairs: what it learned from, at most `SEEN` policies; None where nobody knows.
        members: `[n, P]` to `[members, n]`, traceable by JAX.
    """

    name: str
    task: str
    policy: Policy
    units: str
    pairs: Pairs | None
    members: Callable[[Any], Any]

    def __call__(self, thetas: Float[np.ndarray, "n P"]) -> Predicted:
        """Predictions of policies, in parts of one size, so that they are compiled once."""
        means, spreads = [], []
        for begin in range(0, len(thetas), PART):
            some = thetas[begin : begin + PART]
            size = min(PART, 1 << (len(some) - 1).bit_length())
            padded = np.zeros((size, thetas.shape[1]), np.float32)
            padded[: len(some)] = some
            found = np.asarray(self._compiled(padded), np.float64)[:, : len(some)]
            means.append(found.mean(axis=0))
            spreads.append(found.std(axis=0, ddof=1) if len(found) > 1 else found[0] * np.nan)
        return Predicted(np.concatenate(means), np.concatenate(spreads))

    def check(self, task: str, policy: Policy, where: str) -> None:
        """Checks that V speaks of such policies.

        Raises:
            UserError: if they are of another task or architecture.
        """
        if self.task and task != self.task:
            raise UserError(f"V of {self.name} is of task {self.task!r}, but {where} of {task!r}")
        if policy != self.policy:
            raise UserError(
                f"V of {self.name} reads policies {self.policy.describe()}, but {where} has "
                f"{policy.describe()}"
            )

    @cached_property
    def _compiled(self) -> Any:
        return jax.jit(self.members)


def load_predictor(path: Path) -> Predictor:
    """V of a run, or of a file that `epvf zoo fit` wrote.

    Of a run of several seeds each seed's V is a member.

    Raises:
        UserError: if it is neither, or the run has no V of policies.
    """
    return _of_run(path) if path.is_dir() else _of_file(path)


def save_fitted(
    path: Path, policy: Policy, task: str, fitted: Fitted, config: OfflineConfig, pairs: Pairs
) -> None:
    """Writes an ensemble, and what it learned from (at most `SEEN` policies), atomically."""
    leaves, _ = jax.tree.flatten(fitted.params)
    step = max(1, -(-len(pairs.returns) // SEEN))
    tensors = {f"params{i:03}": np.ascontiguousarray(leaf) for i, leaf in enumerate(leaves)} | {
        "centre": np.ascontiguousarray(fitted.centre, np.float32),
        "scale": np.ascontiguousarray(fitted.scale, np.float32),
        "seen": np.ascontiguousarray(pairs.thetas[::step], np.float32),
        "returns": np.ascontiguousarray(pairs.returns[::step], np.float32),
    }
    metadata = {
        "format": FORMAT,
        "task": task,
        "policy": json.dumps(asdict(policy)),
        "config": json.dumps(asdict(config)),
        "mean": repr(fitted.mean),
        "deviation": repr(fitted.deviation),
    }
    write_atomically(path, save(tensors, metadata=metadata))


def fitted_predictor(
    name: str,
    task: str,
    policy: Policy,
    config: OfflineConfig,
    fitted: Fitted,
    pairs: Pairs | None,
) -> Predictor:
    """An ensemble as a predictor of returns."""
    value = value_of(policy, config)
    frame = Frame(jnp.asarray(fitted.centre), jnp.asarray(fitted.scale))
    params = jax.tree.map(jnp.asarray, fitted.params)

    def members(thetas: Any) -> Any:
        predict = partial(value, thetas=thetas, frame=frame)
        return fitted.mean + fitted.deviation * jax.vmap(predict)(params)

    return Predictor(name, task, policy, "return", _thinned(pairs), members)


def _of_run(run: Path) -> Predictor:
    config = read_config(run)
    seeds = range(config.seed, config.seed + config.num_seeds)
    values = [load_value(run, seed) for seed in seeds]
    first = values[0]

    def members(thetas: Any) -> Any:
        return jnp.stack([value.average(thetas) for value in values])

    return Predictor(
        str(run), config.task.name, first.policy, first.units, _pairs_of(values), members
    )


def _pairs_of(values: list[TrainedValue]) -> Pairs | None:
    try:
        found = [value.buffer() for value in values]
    except UserError:  # V(s, θ) keeps none
        return None
    return _thinned(Pairs(*(np.concatenate(column) for column in zip(*found, strict=True))))


def _thinned(pairs: Pairs | None) -> Pairs | None:
    if pairs is None:
        return None
    step = max(1, -(-len(pairs.returns) // SEEN))
    return Pairs(pairs.thetas[::step], pairs.returns[::step])


def _of_file(path: Path) -> Predictor:
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise UserError(
                    f"{path} has format {metadata.get('format')!r:.40}, but V has {FORMAT!r}; "
                    "epvf zoo fit writes one"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except UNREADABLE as error:
        raise UserError(f"cannot read V {path}: {one_line(error)}") from error
    try:
        return _assembled(path, metadata, tensors)
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} is not a whole {FORMAT} file: {one_line(error):.80}") from error


def _assembled(path: Path, metadata: dict[str, str], tensors: dict[str, Any]) -> Predictor:
    asked = from_json(metadata["policy"])
    policy = Policy(tuple(asked.pop("layer_sizes")), **asked)
    told = from_json(metadata["config"])
    config = OfflineConfig(**told | {"hidden_sizes": tuple(told["hidden_sizes"])})
    like = jax.eval_shape(value_of(policy, config).init, jax.random.key(0))
    leaves, tree = jax.tree.flatten(like)
    found = [tensors[f"params{i:03}"] for i in range(len(leaves))]
    for leaf, array in zip(leaves, found, strict=True):
        if array.shape != (config.members, *leaf.shape):
            raise ValueError(f"V has {array.shape}, not {(config.members, *leaf.shape)}")
    for name in ("centre", "scale"):
        if tensors[name].shape != (policy.num_parameters,):
            raise ValueError(f"{name} has another size")
    fitted = Fitted(
        jax.tree.unflatten(tree, found),
        tensors["centre"],
        tensors["scale"],
        float(metadata["mean"]),
        float(metadata["deviation"]),
        np.zeros(0, np.int64),
        0,
    )
    pairs = Pairs(tensors["seen"], tensors["returns"])
    if pairs.thetas.shape != (len(pairs.returns), policy.num_parameters):
        raise ValueError("what it has seen has another size")
    return fitted_predictor(str(path), metadata["task"], policy, config, fitted, pairs)


class Neighbours:
    """Distances from policies to those that V has seen, and the returns of the nearest.

    Weights count in units of their deviation over what was seen, and a distance in units of what
    lies between one that was seen and the nearest other: 1 is as near as usual.
    """

    def __init__(self, pairs: Pairs, seed: int = 0) -> None:
        thetas, returns = np.asarray(pairs.thetas, np.float32), np.asarray(pairs.returns)
        size = thetas.shape[1]
        deviation = thetas.std(axis=0)
        typical = float(np.sqrt((deviation**2).mean())) or 1.0
        self._centre = thetas.mean(axis=0)
        matrix = np.eye(size, dtype=np.float32)
        if size > PROJECTED:
            draw = np.random.default_rng(seed)
            matrix = draw.standard_normal((size, PROJECTED), np.float32) / np.sqrt(PROJECTED)
        self._matrix = (matrix / np.maximum(deviation, 0.1 * typical)[:, None]).astype(np.float32)
        self._seen = (thetas - self._centre) @ self._matrix
        self._returns = returns
        own = self._distances(self._seen)
        np.fill_diagonal(own, np.inf)
        self.usual = max(float(np.sqrt(np.median(own.min(axis=1)))), 1e-12)

    def __call__(self, thetas: Float[np.ndarray, "n P"]) -> tuple[np.ndarray, np.ndarray]:
        """Distance `[n]` to the nearest, and the mean return `[n]` of the nearest five."""
        near, told = [], []
        for begin in range(0, len(thetas), PART):
            some = (thetas[begin : begin + PART] - self._centre) @ self._matrix
            squared = self._distances(some)
            count = min(NEIGHBOURS, squared.shape[1])
            nearest = np.argpartition(squared, count - 1, axis=1)[:, :count]
            near.append(np.sqrt(squared.min(axis=1)) / self.usual)
            told.append(self._returns[nearest].mean(axis=1))
        return np.concatenate(near), np.concatenate(told)

    def _distances(self, rows: np.ndarray) -> np.ndarray:
        """Squared `[n, seen]`."""
        own, theirs = (rows**2).sum(axis=1), (self._seen**2).sum(axis=1)
        return np.maximum(own[:, None] + theirs[None, :] - 2.0 * rows @ self._seen.T, 0.0)


class Ridge:
    """Ridge regression of returns on weights, with the penalty that a fifth of the pairs likes."""

    def __init__(self, pairs: Pairs, seed: int = 0) -> None:
        thetas, returns = (
            np.asarray(pairs.thetas, np.float32),
            np.asarray(pairs.returns, np.float64),
        )
        self._mean, deviation = thetas.mean(axis=0), thetas.std(axis=0)
        self._scale = np.maximum(deviation, 0.1 * (float(np.sqrt((deviation**2).mean())) or 1.0))
        x = (thetas - self._mean) / self._scale
        order = np.random.default_rng(seed).permutation(len(x))
        test, learned = order[: len(x) // 5], order[len(x) // 5 :]
        errors = {}
        for penalty in PENALTIES:
            slope, intercept = self._line(x[learned], returns[learned], penalty)
            errors[penalty] = float(((x[test] @ slope + intercept - returns[test]) ** 2).mean())
        self.penalty = min(errors, key=lambda penalty: errors[penalty])
        self._slope, self._intercept = self._line(x, returns, self.penalty)

    def __call__(self, thetas: Float[np.ndarray, "n P"]) -> np.ndarray:
        """Predicted returns `[n]`."""
        return ((thetas - self._mean) / self._scale) @ self._slope + self._intercept

    @staticmethod
    def _line(x: np.ndarray, returns: np.ndarray, penalty: float) -> tuple[np.ndarray, float]:
        valid = jnp.ones(len(x), bool)
        slope, intercept = ridge_line(
            jnp.asarray(x), jnp.asarray(returns, jnp.float32), valid, penalty
        )
        return np.asarray(slope), float(intercept)
