"""How well one policy does."""

import jax
import jax.numpy as jnp
import numpy as np

from epvf.policies.noise import jitter
from epvf.types import Array, Evaluate, Evaluation


def evaluate_theta(
    evaluate: Evaluate, key: jax.Array, theta: Array, episodes: int, relative: float
) -> Evaluation:
    """Rolls θ `[P]` out `episodes` times: over random resets, or as a cloud of jittered copies."""
    cloud_key, rollout_key = jax.random.split(key)
    thetas = jitter(cloud_key, jnp.asarray(theta), episodes, relative)
    return evaluate(rollout_key, np.asarray(thetas))
