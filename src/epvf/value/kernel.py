"""A Gaussian kernel, and features of which a linear function is one in the kernel's space.

Nyström's method (Williams & Seeger 2001, "Using the Nyström method to speed up kernel machines"):
of functions in that space those are reached that are sums of kernels around M landmarks.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from epvf.types import Array

JITTER = 1e-3
"""Added to the landmarks' own kernel of 1: two that are alike would leave it without an inverse."""


def gaussian(
    x: Float[Array, "B F"], z: Float[Array, "M F"], length_scale: float
) -> Float[jax.Array, "B M"]:
    """`exp(-|x - z|^2 / (2 length_scale^2))` of all pairs."""
    # a GPU's short mantissas would leave the kernel of landmarks without a root
    products = jnp.matmul(x, z.T, precision="highest")
    squares = (x**2).sum(axis=1)[:, None] + (z**2).sum(axis=1)[None, :] - 2.0 * products
    return jnp.exp(-jnp.maximum(squares, 0.0) / (2.0 * length_scale**2))


def whitening(landmarks: Float[Array, "M F"], length_scale: float) -> Float[jax.Array, "M M"]:
    """`W`, with which `gaussian(x, landmarks) @ W` are the features of x.

    Of two landmarks the product of features is then their kernel; the squared slope of a linear
    function of features is its squared norm in the kernel's space.
    """
    kernel = gaussian(landmarks, landmarks, length_scale)
    factor = jnp.linalg.cholesky(kernel + JITTER * jnp.eye(landmarks.shape[0]))
    inverse = jax.scipy.linalg.solve_triangular(factor, jnp.eye(landmarks.shape[0]), lower=True)
    return inverse.T
