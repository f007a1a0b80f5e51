"""Discrete actions for Brax's PPO, which has only Gaussians of its own.

Import this within `brax_compat.tolerated()`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from brax.training.distribution import IdentityPostprocessor, ParametricDistribution
from jaxtyping import Float, Int, UInt32

from epvf.types import PRNGKey


class Categorical(ParametricDistribution):
    """An index among `num_actions`, with probabilities softmax(logits)."""

    def __init__(self, num_actions: int) -> None:
        super().__init__(num_actions, IdentityPostprocessor(), 0, reparametrizable=False)

    def create_dist(self, parameters: jax.Array) -> "Indices":
        """The distribution of logits `[..., A]`."""
        return Indices(jax.nn.log_softmax(parameters))


class Indices(NamedTuple):
    """What Brax's PPO asks of a distribution, from log probabilities `[..., A]`."""

    log_probabilities: Float[jax.Array, "*batch A"]

    @property
    def loc(self) -> jax.Array:
        """The log probabilities; PPO only reports them."""
        return self.log_probabilities

    @property
    def scale(self) -> jax.Array:
        """The probabilities; PPO only reports them."""
        return jnp.exp(self.log_probabilities)

    def sample(self, seed: PRNGKey | UInt32[jax.Array, "2"]) -> Int[jax.Array, "*batch"]:
        """A random index."""
        return jax.random.categorical(seed, self.log_probabilities)

    def mode(self) -> Int[jax.Array, "*batch"]:
        """The likeliest index."""
        return jnp.argmax(self.log_probabilities, axis=-1)

    def log_prob(self, index: Int[jax.Array, "*batch"]) -> Float[jax.Array, "*batch"]:
        """Logarithm of the probability of an index."""
        return jnp.take_along_axis(self.log_probabilities, index[..., None], axis=-1)[..., 0]

    def entropy(self) -> Float[jax.Array, "*batch"]:
        """In nats."""
        return -jnp.sum(self.scale * self.log_probabilities, axis=-1)

    def kl_divergence(self, old_dist: "Indices") -> Float[jax.Array, "*batch"]:
        """KL(old_dist || self) in nats."""
        ratio = old_dist.log_probabilities - self.log_probabilities
        return jnp.sum(old_dist.scale * ratio, axis=-1)
