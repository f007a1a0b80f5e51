"""Systems of linear equations against JAX."""

import jax
import jax.numpy as jnp
import jax.scipy.linalg as linalg
import numpy as np
import pytest

from epvf.tasks.engines.lanes import NotLowerable, objects
from lane_code import both, lower

WIDTH = objects.target().lanes.width
MATRIX = np.random.default_rng(0).normal(size=(WIDTH, 5, 5)).astype(np.float32)
RIGHT = np.random.default_rng(1).normal(size=(WIDTH, 5, 2)).astype(np.float32)


def _positive(a: jax.Array) -> jax.Array:
    return a @ a.T + 3.0 * jnp.eye(5)


def _arrow(a: jax.Array) -> jax.Array:
    """Dense in its first row and column alone, which would fill in if they were taken first."""
    border = jnp.zeros((5, 5)).at[0, 1:].set(a[0, 1:])
    return border + border.T + jnp.diag(9.0 + a[1] ** 2)


@pytest.mark.parametrize("matrix", [_positive, _arrow])
def test_a_positive_system_is_solved(matrix) -> None:
    def solve(a: jax.Array, b: jax.Array) -> jax.Array:
        return linalg.cho_solve(linalg.cho_factor(matrix(a)), b)

    found, expected = both(solve, MATRIX, RIGHT)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4, atol=1e-5)


def test_zeros_stay_zeros() -> None:
    def divisions(text: str) -> int:
        return text.count("fmul") + text.count("@llvm.fma.")

    def solve(a: jax.Array, b: jax.Array) -> jax.Array:
        return linalg.cho_solve(linalg.cho_factor(a), b)

    dense = lower(lambda a, b: solve(_positive(a), b), MATRIX[0], RIGHT[0])
    sparse = lower(lambda a, b: solve(_arrow(a), b), MATRIX[0], RIGHT[0])
    assert divisions(sparse.text) < divisions(dense.text) / 3


@pytest.mark.parametrize("lower_part", [False, True])
@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("unit", [False, True])
def test_triangular_systems(lower_part: bool, transposed: int, unit: bool) -> None:
    def solve(a: jax.Array, b: jax.Array) -> jax.Array:
        a = a + 4.0 * jnp.eye(5)
        return linalg.solve_triangular(a, b, trans=transposed, lower=lower_part, unit_diagonal=unit)

    found, expected = both(solve, MATRIX, RIGHT)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4, atol=1e-4)


def test_batches_and_the_right_side() -> None:
    def solve(a: jax.Array) -> jax.Array:
        stack = jnp.stack([_positive(a), _arrow(a)])
        b = jnp.ones((2, 5, 1)) * a[0, 0]
        factor = jnp.linalg.cholesky(stack)
        half = jax.lax.linalg.triangular_solve(factor, b, left_side=True, lower=True)
        other = jax.lax.linalg.triangular_solve(
            factor, half, left_side=True, lower=True, transpose_a=True
        )
        right = jax.lax.linalg.triangular_solve(a + 4.0 * jnp.eye(5), b[0].T, lower=False)
        return jnp.concatenate([other[0, :, 0], other[1, :, 0], right[0]])

    found, expected = both(solve, MATRIX)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "use",
    [
        lambda a: jnp.linalg.cholesky(_positive(a)).sum(),
        lambda a: linalg.solve_triangular(jnp.linalg.cholesky(_positive(a)), a[0], lower=True),
        lambda a: linalg.solve_triangular(jnp.linalg.cholesky(_positive(a)).T, a[0]),
        lambda a: linalg.cho_solve((2.0 * jnp.linalg.cholesky(_positive(a)), True), a[0]),
    ],
)
def test_another_use_of_a_factor_is_refused(use) -> None:
    with pytest.raises(NotLowerable, match="Cholesky factor"):
        lower(use, MATRIX[0])
