"""A ring of (θ, return) pairs: the replay buffer D of Algorithm 1."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int

from epvf.policies.population import Perturbed, is_lazy
from epvf.runtime.devices import draw_into
from epvf.types import Array, Population, PRNGKey, Returns, Starts

Store: TypeAlias = Literal["weights", "seeds"]


@dataclass(frozen=True)
class BufferConfig:
    """The replay buffer.

    Attributes:
        size: newest pairs (θ, return) that are kept.
        store: what is kept of a θ. `weights`: all of them. `seeds`: its population's centre and
            key, from which it is drawn again when it is read. That takes next to no memory and
            time of its own: for policies and populations so large that storing them is the cost.
    """

    size: int = 4096
    store: Store = "weights"


class Buffer(NamedTuple):
    """The newest `S` pairs. Which row is written next follows from how many were ever added.

    Attributes:
        thetas: `[S, P]`, or the populations that they come from, to draw them again.
        returns: `[S]`; 0 where not valid.
        valid: `[S]`; False for rows not yet written and for non-finite returns.
        starts: `[S, observation]` the start states behind the returns; None for V(θ).
    """

    thetas: Any
    returns: Float[Array, "S"]
    valid: Bool[Array, "S"]
    starts: Starts = None


def empty(size: int, num_parameters: int, starts: Starts = None) -> Buffer:
    """A buffer with room for `size` pairs and none in it; `starts` is the room for start states."""
    return _empty(size, jnp.zeros((size, num_parameters)), starts)


def empty_seeds(size: int, population: Perturbed, starts: Starts = None) -> Buffer:
    """A buffer that keeps centres and keys of whole populations, and draws their policies again.

    `size` must be a multiple of the population's; `population` says what the populations are like.
    """
    generations = size // population.num
    rooms = jax.tree.map(lambda x: jnp.zeros((generations, *x.shape[1:]), x.dtype), population)
    return _empty(size, rooms, starts)


def _empty(size: int, thetas: Any, starts: Starts) -> Buffer:
    return Buffer(thetas, jnp.zeros(size), jnp.zeros(size, dtype=jnp.bool_), starts)


def take(buffer: Buffer, rows: Int[Array, "B"]) -> Buffer:
    """The pairs in these rows, with their policies drawn: `[B, P]`."""
    rest = jax.tree.map(lambda x: x[rows], buffer._replace(thetas=None))
    return rest._replace(thetas=buffer.thetas[rows])


def add(
    buffer: Buffer,
    added: Int[Array, ""],
    thetas: Population | Perturbed | None,
    returns: Returns,
    starts: Starts = None,
) -> Buffer:
    """Writes N pairs after the `added` that were written before; the oldest make room.

    Non-finite returns are stored as not valid, so that they never reach V. Of a population larger
    than the buffer the last `S` rows stay.
    """
    if is_lazy(thetas):
        generation = (added // returns.shape[0]) % len(buffer.thetas.keys)
        kept = _write(buffer.thetas, thetas, generation)
        rest = add(buffer._replace(thetas=None), added, None, returns, starts)
        return rest._replace(thetas=kept)
    size = buffer.returns.shape[0]
    num = returns.shape[0]
    skipped = max(num - size, 0)
    finite = jnp.isfinite(returns)
    rows = Buffer(thetas, jnp.where(finite, returns, 0.0), finite, starts)
    rows = jax.tree.map(lambda x: x[skipped:], rows)
    start = (added + skipped) % size
    if size % (num - skipped) == 0 and skipped == 0:
        # The write never wraps: one contiguous, in-place update.
        return _write(buffer, rows, start)
    index = (start + jnp.arange(num - skipped)) % size
    return jax.tree.map(lambda old, new: old.at[index].set(new), buffer, rows)


def add_apart(
    mesh: Mesh,
    buffer: Buffer,
    added: Int[Array, ""],
    thetas: Perturbed,
    returns: Returns,
    starts: Starts = None,
) -> Buffer:
    """`add` to a buffer of weights that devices share out; each draws the policies that it keeps.

    A population is rolled out by rows, of which the buffer keeps a part on each device only where
    it holds no more than one: otherwise the newest rows would have to be sent.
    """
    rows = _rows_of_places(buffer.returns.shape[0], added, returns.shape[0])
    kept = draw_into(mesh, buffer.thetas, thetas, rows)
    rest = add(buffer._replace(thetas=None), added, None, returns, starts)
    return rest._replace(thetas=kept)


def _rows_of_places(size: int, added: Int[Array, ""], num: int) -> Int[Array, "S"]:
    """Which row of a population of `num` each place of the ring takes; -1: none."""
    skipped = max(num - size, 0)
    rows = (jnp.arange(size) - added - skipped) % size + skipped
    return jnp.where(rows < num, rows, -1)


def _write(old: Any, new: Any, start: Int[Array, ""]) -> Any:
    """Puts the rows of `new` into `old` from row `start` on."""
    return jax.tree.map(
        lambda rooms, rows: jax.lax.dynamic_update_slice_in_dim(rooms, rows, start, axis=0),
        old,
        new,
    )


def sample(key: PRNGKey, filled: Int[Array, ""], size: int, batch_size: int) -> Int[Array, "B"]:
    """Row indices `[batch_size]` of one batch, uniform with replacement over the filled rows."""
    return jax.random.randint(key, (batch_size,), 0, jnp.minimum(filled, size))
