"""The optimizers of V and of the policy, by name."""

from collections.abc import Callable
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float

from epvf.policies.noise import PerturbationConfig, noise_deviation
from epvf.types import Array

Optimizer: TypeAlias = Literal["adam", "sgd"]
PolicyOptimizer: TypeAlias = Literal["adam", "sgd", "normalised"]

_DIRECTIONS: dict[str, Callable[[PerturbationConfig], optax.GradientTransformation]] = {
    "adam": lambda perturbation: optax.scale_by_adam(),
    "sgd": lambda perturbation: optax.identity(),
    "normalised": lambda perturbation: scale_by_noise(perturbation),
}


def make_optimizer(
    name: PolicyOptimizer,
    learning_rate: optax.ScalarOrSchedule,
    weight_decay: float,
    perturbation: PerturbationConfig,
) -> optax.GradientTransformation:
    """The named direction of descent, decoupled weight decay, and a learning rate or schedule.

    `normalised` is for policy centres `[C, P]` only; it measures weights by their `perturbation`.
    """
    return optax.chain(
        _DIRECTIONS[name](perturbation),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(learning_rate),
    )


def decay(first: float, last: float | None, steps: int) -> optax.ScalarOrSchedule:
    """From `first` at count 0 to `last` at count `steps`, exponentially, and no further.

    None: `first`, a constant, of which no optimizer has to count the steps.
    """
    if last is None:
        return first
    return optax.exponential_decay(first, max(steps, 1), last / first, end_value=last)


def scale_by_noise(perturbation: PerturbationConfig) -> optax.GradientTransformation:
    """The gradient g of centres `[C, P]` as `s²g`, in units of s as long as a perturbation is.

    With s the deviation of each weight's noise, `|s g| = sqrt(P)` for each centre.
    """

    def update(gradient: Float[Array, "C P"], centres: Float[Array, "C P"] | None) -> jax.Array:
        deviation = noise_deviation(perturbation, centres)
        scaled = deviation * gradient
        length = jnp.linalg.norm(scaled, axis=-1, keepdims=True)
        return deviation * scaled * (gradient.shape[-1] ** 0.5 / jnp.maximum(length, 1e-12))

    return optax.stateless(update)
