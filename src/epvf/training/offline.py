"""V(θ) from pairs (θ, return) that are there already: an ensemble, with its own error.

"Completely off-policy or offline learning" (Bohlinger & Peters 2025, section 2). Members differ in
their start, in the order of their batches and in which pairs they see how often; a tenth of the
pairs is held out, on which training stops and the error is measured.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int

from epvf.errors import RunFailed, UserError
from epvf.policies.mlp import Policy
from epvf.policies.noise import PerturbationConfig
from epvf.types import Array
from epvf.value.factory import make_value
from epvf.value.representations import RepresentationConfig, RepresentationName
from epvf.value.v_theta import Frame, ValueConfig, ValueFunction

LEAST = 20
"""Pairs, of which anything could be learned and held out."""

PATIENCE = 8
"""Epochs without a smaller error on what is held out, after which training stops."""


@dataclass(frozen=True)
class OfflineConfig:
    """How V is fitted to a given set of pairs.

    Attributes:
        members: networks in the ensemble.
        representation: what V sees of a policy. By weights V knows nothing of policies of another
            run, whose units are others; by actions it does on some tasks (docs/zoo.md).
        num_probing_states: at which `probing` asks for actions.
        hidden_sizes: of each network.
        epochs: passes over the pairs, at most.
        batch_size: pairs a step.
        learning_rate: of Adam.
        weight_decay: decoupled.
        held_out: fraction of the pairs.
        seed: of everything random here.
    """

    members: int = 5
    representation: RepresentationName = "probing"
    num_probing_states: int = 64
    hidden_sizes: tuple[int, ...] = (128, 128)
    epochs: int = 60
    batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 1e-3
    held_out: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("members", "epochs", "batch_size", "num_probing_states"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, but must be at least 1")
        if self.representation == "kernel":
            raise UserError(
                "representation 'kernel' is not learned by gradient, as an ensemble is; use "
                "'probing', which sees actions, too"
            )
        if not 0.0 < self.held_out < 0.9:
            raise UserError(f"held_out is {self.held_out}, but must be between 0 and 0.9")
        if not 0.0 < self.learning_rate < 1.0 or self.weight_decay < 0.0:
            raise UserError("learning_rate must be in (0, 1), weight_decay 0 or more")


class Fitted(NamedTuple):
    """An ensemble of V(θ).

    Attributes:
        params: of all members, with a leading axis over them.
        centre, scale: `[P]`, by which V sees weights: (θ - centre) / scale.
        mean, deviation: of the returns, which are standardised for V.
        held_out: rows of the pairs that nothing was learned from.
        epochs: passes that were taken.
    """

    params: Any
    centre: Float[np.ndarray, "P"]
    scale: Float[np.ndarray, "P"]
    mean: float
    deviation: float
    held_out: Int[np.ndarray, "h"]
    epochs: int


def value_of(policy: Policy, config: OfflineConfig) -> ValueFunction:
    """The network of one member."""
    return make_value(
        policy,
        ValueConfig(hidden_sizes=config.hidden_sizes, precision="float32"),
        RepresentationConfig(
            name=config.representation,
            num_probing_states=config.num_probing_states,
            probing_init="normal",
        ),
        PerturbationConfig(),
    )


def fit_value(
    policy: Policy,
    thetas: Float[np.ndarray, "N P"],
    returns: Float[np.ndarray, "N"],
    episodes: Int[np.ndarray, "N"],
    config: OfflineConfig,
) -> Fitted:
    """Fits an ensemble to pairs, by whatever means they came about.

    Args:
        policy: the architecture of all.
        thetas: the policies.
        returns: undiscounted, the mean over `episodes`; rows that are not finite are left out.
        episodes: of each return: those of more weigh up to twice as much.
        config: how.

    Raises:
        UserError: if there are too few pairs.
        RunFailed: if V diverges.
    """
    draw = np.random.default_rng(config.seed)
    usable = np.flatnonzero(np.isfinite(returns) & np.isfinite(thetas).all(axis=1))
    if len(usable) < LEAST:
        raise UserError(f"there are {len(usable)} policies with known returns, but V needs {LEAST}")
    order = draw.permutation(usable)
    count = max(1, round(config.held_out * len(order)))
    held_out, learned = np.sort(order[:count]), np.sort(order[count:])
    mean, deviation = float(returns[learned].mean()), float(returns[learned].std())
    deviation = max(deviation, 1e-6)
    centre, scale = _frame(thetas[learned])
    value = value_of(policy, config)
    targets = (returns - mean) / deviation
    weight = np.where(episodes > 0, 2.0 * episodes / (episodes + 1.0), 1.0)
    trainer = _Trainer(value, Frame(jnp.asarray(centre), jnp.asarray(scale)), config)
    columns = [jnp.asarray(x, jnp.float32) for x in (thetas, targets, weight)]
    params, epochs = trainer.train(draw, columns, learned, held_out)
    return Fitted(params, centre, scale, mean, deviation, held_out, epochs)


@dataclass(frozen=True)
class _Trainer:
    value: ValueFunction
    frame: Frame
    config: OfflineConfig

    @property
    def optimizer(self) -> optax.GradientTransformation:
        return optax.adamw(self.config.learning_rate, weight_decay=self.config.weight_decay)

    def train(
        self, draw: np.random.Generator, columns: list[Any], learned: Any, held_out: Any
    ) -> tuple[Any, int]:
        """The parameters with the smallest error on what is held out, and the epochs taken."""
        config = self.config
        keys = jax.random.split(jax.random.key(config.seed), config.members)
        params = jax.vmap(self.value.init)(keys)
        states = jax.vmap(self.optimizer.init)(params)
        epoch, error = jax.jit(self._epoch), jax.jit(self._error)
        shown = [draw.choice(learned, len(learned)) for _ in range(config.members)]
        test = [column[jnp.asarray(held_out)] for column in columns]
        best, best_error, since, taken = params, np.inf, 0, 0
        for _ in range(config.epochs):
            taken += 1
            rows = np.stack([_batches(draw.permutation(one), config.batch_size) for one in shown])
            params, states = epoch(params, states, columns, jnp.asarray(rows))
            found = float(error(params, *test))
            if not np.isfinite(found):
                raise RunFailed("V diverged; lower --learning-rate")
            if found < best_error:
                best, best_error, since = params, found, 0
            else:
                since += 1
                if since >= PATIENCE:
                    break
        return jax.tree.map(np.asarray, best), taken

    def _epoch(self, params: Any, states: Any, columns: Any, rows: Any) -> Any:
        """One pass of all members over their batches `[E, steps, B]`."""

        def member(params: Any, state: Any, own: Any) -> Any:
            def step(carry: Any, batch: Any) -> Any:
                params, state = carry
                some = [column[batch] for column in columns]
                gradient = jax.grad(self._loss)(params, *some)
                updates, state = self.optimizer.update(gradient, state, params)
                return (optax.apply_updates(params, updates), state), None

            return jax.lax.scan(step, (params, state), own)[0]

        return jax.vmap(member)(params, states, rows)

    def _loss(self, params: Any, thetas: Array, targets: Array, weight: Array) -> jax.Array:
        return (weight * (self.value(params, thetas, self.frame) - targets) ** 2).mean()

    def _error(self, params: Any, thetas: Array, targets: Array, weight: Array) -> jax.Array:
        """Of the ensemble's mean."""
        predict = partial(self.value, thetas=thetas, frame=self.frame)
        mean = jax.vmap(predict)(params).mean(axis=0)
        return (weight * (mean - targets) ** 2).mean()


def _frame(thetas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each weight; of one that hardly varies the others' typical one."""
    centre, scale = thetas.mean(axis=0), thetas.std(axis=0)
    typical = float(np.sqrt((scale**2).mean())) or 1.0
    return centre, np.maximum(scale, 0.1 * typical).astype(np.float32)


def _batches(rows: np.ndarray, size: int) -> np.ndarray:
    """Rows `[steps, B]`, the rest left out; of fewer than a batch all."""
    size = min(size, len(rows))
    return rows[: len(rows) // size * size].reshape(-1, size)
