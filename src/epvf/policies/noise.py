"""How a population is drawn around the policy centres, and what keeps weights in bounds."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeGuard

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from epvf.types import Array, NonNegative, Population, PRNGKey

ROWS = 1024
"""Policies that are drawn at a time of a population that is not stored."""

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


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Perturbed:
    """Populations `[G x num, P]` that are not stored: rows are drawn when they are asked for.

    A row depends on its population's centres and key and on its own number only, so that asking
    again gives the same policies, in any order and company. `population[rows]` is `[k, P]`.

    Attributes:
        centres: `[G, C, P]` of each of G populations.
        keys: `[G]` of their noise, as raw key data `[G, 2]`.
        num: policies in each of them: rows `c*num/C ... (c+1)*num/C` are those around centre c.
        config: the noise.
    """

    centres: Float[Array, "G C P"]
    keys: Int[Array, "G 2"]
    num: int = field(metadata={"static": True})
    config: PerturbationConfig = field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, int]:
        """As of the array that it stands for."""
        return self.keys.shape[0] * self.num, self.centres.shape[-1]

    @property
    def nbytes(self) -> int:
        """Bytes that are stored of it."""
        return int(self.centres.nbytes + self.keys.nbytes)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Int[Array, "k"]) -> jax.Array:
        """Policies `[k, P]` of these rows."""
        generation, member = rows // self.num, rows % self.num
        num_centres = self.centres.shape[1]
        each = self.num // num_centres
        centre, copy = member // each, member % each
        pairs = each // 2 if self.config.antithetic else each
        numbers = centre * pairs + copy % pairs
        noise = jax.vmap(self._draw)(self.keys[generation], numbers)
        if self.config.antithetic:
            noise = jnp.where((copy < pairs)[:, None], noise, -noise)
        scales = noise_scale(self.config, self.centres)
        thetas = self.centres[generation, centre] + scales[generation, centre] * noise
        return clip_weights(thetas, self.config.clip)

    def _draw(self, key: Int[jax.Array, "2"], number: Int[jax.Array, ""]) -> jax.Array:
        draw = jax.random.normal if self.config.noise == "gaussian" else _symmetric_uniform
        return draw(jax.random.fold_in(jax.random.wrap_key_data(key), number), self.shape[1:])


def perturbed(
    config: PerturbationConfig, key: PRNGKey, centres: Float[Array, "C P"], num: int
) -> Perturbed:
    """A population of `num` policies around centres, not yet drawn.

    `num` must be a multiple of the number of centres C, and with `antithetic` num/C must be even.
    """
    return Perturbed(jnp.asarray(centres)[None], jax.random.key_data(key)[None], num, config)


def perturb(
    config: PerturbationConfig, key: PRNGKey, centres: Float[Array, "C P"], num: int
) -> jax.Array:
    """The policies `[num, P]` of `perturbed`."""
    return jnp.asarray(drawn(perturbed(config, key, centres, num)))


def drawn(population: Population | Perturbed) -> Any:
    """The array `[N, P]` of a population that may not have been drawn yet."""
    return population[jnp.arange(population.shape[0])] if is_lazy(population) else population


def is_lazy(population: Any) -> TypeGuard[Perturbed]:
    """Whether the rows of a population are drawn when they are asked for."""
    return isinstance(population, Perturbed)


def map_rows(
    function: Callable[..., jax.Array], population: Population | Perturbed, rest: Any
) -> jax.Array:
    """`function(thetas [k, P], *rest)` over all rows of a population, an array in one go.

    Of a population that is not stored only `ROWS` policies exist at a time, also when this is
    differentiated: they are drawn once more then.

    Args:
        function: to `[k, ...]`.
        population: `[N, P]`.
        rest: pytree of arrays `[N, ...]`.
    """
    if not is_lazy(population):
        return function(population, *rest)
    num = population.shape[0]
    size = max(k for k in range(1, min(ROWS, num) + 1) if num % k == 0)

    @jax.checkpoint
    def part(chunk: Any) -> jax.Array:
        rows, others = chunk
        return function(population[rows], *others)

    chunks = jax.tree.map(
        lambda x: x.reshape(num // size, size, *x.shape[1:]), (jnp.arange(num), rest)
    )
    results = jax.lax.map(part, chunks)
    return results.reshape(-1, *results.shape[2:])


def sum_rows(
    function: Callable[..., jax.Array], population: Population | Perturbed, rest: Any
) -> jax.Array:
    """The sum of `function(thetas [k, P], *rest)`, a scalar, over parts as in `map_rows`."""
    if not is_lazy(population):
        return function(population, *rest)
    return map_rows(lambda *part: function(*part)[None], population, rest).sum()


def clip_weights(thetas: Float[Array, "*N P"], bound: float | None) -> jax.Array:
    """Clips every weight to [-bound, bound]; None leaves them."""
    return jnp.asarray(thetas) if bound is None else jnp.clip(thetas, -bound, bound)


def jitter(key: PRNGKey, theta: Float[Array, "P"], num: int, relative: float) -> jax.Array:
    """A cloud of `num` copies of θ, every weight times 1 + U(-relative, relative): `[num, P]`.

    Where resets are deterministic the return of one θ is a single chaotic number; the mean over
    such a cloud is what can be compared between policies.
    """
    noise = _symmetric_uniform(key, (num, theta.shape[0]))
    return theta[None, :] * (1.0 + relative * noise)


def _symmetric_uniform(key: PRNGKey, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)
