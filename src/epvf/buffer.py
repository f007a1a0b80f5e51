"""A ring of (θ, return) pairs: the replay buffer D of Algorithm 1."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from epvf.types import Array, Population, PRNGKey, Returns, Starts


class Buffer(NamedTuple):
    """The newest `S` pairs. Which row is written next follows from how many were ever added.

    Attributes:
        thetas: `[S, P]`.
        returns: `[S]`; 0 where not valid.
        valid: `[S]`; False for rows not yet written and for non-finite returns.
        starts: `[S, observation]` the start states behind the returns; None for V(θ).
    """

    thetas: Float[Array, "S P"]
    returns: Float[Array, "S"]
    valid: Bool[Array, "S"]
    starts: Starts = None


def empty(size: int, num_parameters: int, starts: Starts = None) -> Buffer:
    """A buffer with room for `size` pairs and none in it; `starts` is the room for start states."""
    return Buffer(
        jnp.zeros((size, num_parameters)),
        jnp.zeros(size),
        jnp.zeros(size, dtype=jnp.bool_),
        starts,
    )


def add(
    buffer: Buffer,
    added: Int[Array, ""],
    thetas: Population,
    returns: Returns,
    starts: Starts = None,
) -> Buffer:
    """Writes N pairs after the `added` that were written before; the oldest make room.

    Non-finite returns are stored as not valid, so that they never reach V. Of a population larger
    than the buffer the last `S` rows stay.
    """
    size = buffer.returns.shape[0]
    num = returns.shape[0]
    skipped = max(num - size, 0)
    finite = jnp.isfinite(returns)
    rows = Buffer(thetas, jnp.where(finite, returns, 0.0), finite, starts)
    rows = jax.tree.map(lambda x: x[skipped:], rows)
    start = (added + skipped) % size
    if size % (num - skipped) == 0 and skipped == 0:
        # The write never wraps: one contiguous, in-place update.
        return jax.tree.map(
            lambda old, new: jax.lax.dynamic_update_slice_in_dim(old, new, start, axis=0),
            buffer,
            rows,
        )
    index = (start + jnp.arange(num - skipped)) % size
    return jax.tree.map(lambda old, new: old.at[index].set(new), buffer, rows)


def sample(key: PRNGKey, filled: Int[Array, ""], size: int, batch_size: int) -> Int[Array, "B"]:
    """Row indices `[batch_size]` of one batch, uniform with replacement over the filled rows."""
    return jax.random.randint(key, (batch_size,), 0, jnp.minimum(filled, size))
