"""Noise on the policy's parameters: its size, clouds around θ, and the bounds of weights."""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Float

from epvf.types import Array, NonNegative, PRNGKey

Noise: TypeAlias = Literal["scaled_uniform", "gaussian"]


@dataclass(frozen=True)
class PerturbationConfig:
    """Exploration noise on the policy's parameters (Bohlinger & Peters 2025, section 3).

    Attributes:
        noise: `scaled_uniform`: U(-scale*|w|, scale*|w|) for each weight w, so that noise follows
            the weight's magnitude and never flips its sign for scale < 1. `gaussian`: N(0, scale^2)
            for every weight alike.
        scale: size of the noise; the paper's 0.3 (Ant) or 1.0 (CartPole).
        floor: smallest |w| that `scaled_uniform` reckons with. At 0 (the paper) a zero weight gets
            no noise at all, so biases that start at zero stay unexplored.
        clip: perturbed weights are clipped to [-clip, clip]; None leaves them (the paper).
        antithetic: draw the noise in pairs +e, -e.
    """

    noise: Noise = "scaled_uniform"
    scale: NonNegative = 0.3
    floor: NonNegative = 0.0
    clip: float | None = None
    antithetic: bool = False


def noise_scale(config: PerturbationConfig, centres: Float[Array, "*C P"]) -> jax.Array:
    """Half-width (uniform) or standard deviation (Gaussian) of each weight's noise, `[..., P]`."""
    if config.noise == "gaussian":
        return jnp.full_like(centres, config.scale)
    return config.scale * jnp.maximum(jnp.abs(centres), config.floor)


def noise_deviation(config: PerturbationConfig, centres: Float[Array, "*C P"]) -> jax.Array:
    """Standard deviation of each weight's noise, `[..., P]`; 0 where a weight gets none."""
    scale = noise_scale(config, centres)
    return scale if config.noise == "gaussian" else scale / math.sqrt(3.0)


def clip_weights(thetas: Float[Array, "*N P"], bound: float | None) -> jax.Array:
    """Clips every weight to [-bound, bound]; None leaves them."""
    return jnp.asarray(thetas) if bound is None else jnp.clip(thetas, -bound, bound)


def jitter(key: PRNGKey, theta: Float[Array, "P"], num: int, relative: float) -> jax.Array:
    """A cloud of `num` copies of θ, every weight times 1 + U(-relative, relative): `[num, P]`.

    Where resets are deterministic the return of one θ is a single chaotic number; the mean over
    such a cloud is what can be compared between policies.
    """
    noise = symmetric_uniform(key, (num, theta.shape[0]))
    return theta[None, :] * (1.0 + relative * noise)


def symmetric_uniform(key: PRNGKey, shape: tuple[int, ...]) -> jax.Array:
    """U(-1, 1), as the scaled noise is drawn."""
    return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)
