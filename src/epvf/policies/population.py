"""Populations around policy centres, drawn at once or row by row when they are read."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt32

from epvf.policies import scaling
from epvf.policies.mlp import Policy
from epvf.policies.noise import PerturbationConfig, clip_weights, noise_scale, symmetric_uniform
from epvf.types import Array, Population, PRNGKey

ROWS = 1024
"""Policies that are drawn at a time of a population that is not stored."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Perturbed:
    """Populations `[G x num, P]` that are not stored: rows are drawn when they are asked for.

    A row depends on its population's centres and key and on its own number only, so that asking
    again gives the same policies, in any order and company. `population[rows]` is `[k, P]`.

    Attributes:
        centres: `[G, C, P]` of each of G populations.
        keys: `[G]` of their noise, as raw key data `[G, 2]` of uint32.
        num: policies in each of them: rows `c*num/C ... (c+1)*num/C` are those around centre c.
        config: the noise.
    """

    centres: Any  # JAX makes populations of shapes, and with an axis of seeds, too
    keys: Any
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

    def _draw(self, key: UInt32[jax.Array, "2"], number: Int[jax.Array, ""]) -> jax.Array:
        draw = jax.random.normal if self.config.noise == "gaussian" else symmetric_uniform
        return draw(jax.random.fold_in(jax.random.wrap_key_data(key), number), self.shape[1:])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rescaled:
    """A population `[num, P]` that is not stored, of noise that is resized in other coordinates.

    `population[rows]` is `[k, P]`, as of `Perturbed`.

    Attributes:
        inner: around one centre, with noise of the configured size, in the noise's coordinates.
        size: factor on the noise.
        scaler: of the observations that policies of `inner` read standardised; None: they read
            them as they are.
        policy: architecture of the policies.
    """

    inner: Perturbed
    size: Any  # a number, and with an axis of seeds, too
    scaler: Any  # a Scaler or None
    policy: Policy = field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, int]:
        """As of the array that it stands for."""
        return self.inner.shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Int[Array, "k"]) -> jax.Array:
        """Policies `[k, P]` of these rows, for observations as they are."""
        centre = self.inner.centres[0]
        thetas = centre + self.size * (self.inner[rows] - centre)
        if self.scaler is not None:
            thetas = scaling.raw(self.policy, self.scaler, thetas)
        return clip_weights(thetas, self.inner.config.clip)


Undrawn: TypeAlias = Perturbed | Rescaled
"""Populations whose rows are drawn when they are asked for."""


class Recipe(NamedTuple):
    """Populations `[N, P]` for readers that draw them themselves, such as other machines.

    Attributes:
        seeds: one after the other, of numpy arrays.
        rest: `[E, P]` policies that are there already, after them.
    """

    seeds: tuple[Undrawn, ...]
    rest: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """As of the array that it stands for."""
        return self.num_undrawn + len(self.rest), self.rest.shape[1]

    @property
    def num_undrawn(self) -> int:
        """Policies that have to be drawn; they come first."""
        return sum(population.shape[0] for population in self.seeds)


class Some(NamedTuple):
    """Some rows `[k, P]` of a recipe, for engines that draw a policy when they take it up.

    Attributes:
        recipe: whose rows they are.
        rows: `[k]` in ascending order.
    """

    recipe: Recipe
    rows: Int[np.ndarray, "k"]

    @property
    def shape(self) -> tuple[int, int]:
        """As of the array that it stands for."""
        return len(self.rows), self.recipe.shape[1]


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


def drawn(population: Population | Undrawn) -> Any:
    """The array `[N, P]` of a population that may not have been drawn yet."""
    return population[jnp.arange(population.shape[0])] if is_lazy(population) else population


def is_lazy(population: Any) -> TypeGuard[Undrawn]:
    """Whether the rows of a population are drawn when they are asked for."""
    return isinstance(population, Perturbed | Rescaled)


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
