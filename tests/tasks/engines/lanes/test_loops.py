"""Loops in lanes against JAX: every lane goes its own number of rounds."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from epvf.tasks.engines.lanes import loops, objects
from lane_code import both, lower

WIDTH = objects.target().lanes.width
COUNTS = np.arange(WIDTH, dtype=np.int32) % 7
NUMBERS = np.random.default_rng(0).uniform(0.1, 3.0, (WIDTH, 4)).astype(np.float32)


def _newton(x: jax.Array, n: jax.Array) -> Any:
    """Square roots, in as many steps as are asked for or needed."""

    def goes_on(carry):
        step, root, same = carry
        return (step < n) & (jnp.abs(root * root - x).max() > 1e-6) & ~same.all()

    def advance(carry):
        step, root, _ = carry
        new = 0.5 * (root + x / root)
        return step + 1, new, new == root

    return lax.while_loop(goes_on, advance, (0, jnp.ones(4), jnp.zeros(4, bool)))[:2]


def _fori(x: jax.Array, n: jax.Array) -> jax.Array:
    return lax.fori_loop(0, n, lambda k, total: total * 0.5 + x * k, x)


def _nested(x: jax.Array, n: jax.Array) -> jax.Array:
    """The inner loop's rounds depend on the outer one's, and part of each is needless."""

    def outer(k, carry):
        total, unused = carry
        inner = lax.fori_loop(0, k, lambda j, s: s + x[0] * jnp.sin(x[1]) * j, total)
        return inner + x[2], unused + inner

    return lax.fori_loop(0, n, outer, (x[3], x))[0]


def _swapped(x: jax.Array, n: jax.Array) -> tuple[jax.Array, jax.Array]:
    return lax.fori_loop(0, n, lambda k, pair: (pair[1], pair[0]), (x[0], x[1]))


def _never(x: jax.Array, n: jax.Array) -> jax.Array:
    return lax.while_loop(lambda y: False, lambda y: y + 1.0, x)


def _long_scan(x: jax.Array, n: jax.Array) -> jax.Array:
    return lax.scan(lambda y, _: (0.9 * y + x, None), x * n, None, length=30)[0]


def _short_scan(x: jax.Array, n: jax.Array) -> tuple[jax.Array, jax.Array]:
    return lax.scan(lambda y, z: (y + z, y * n), x[0], x, reverse=True)


def _early_scan(x: jax.Array, n: jax.Array) -> Any:
    """As MJX writes loops that stop: later steps change nothing."""

    def advance(carry, _):
        def change(pair):
            return (pair[0] + 1, pair[1] * 0.5 + x, pair[0] + 1 < n)

        return lax.cond(carry[2], change, lambda pair: (*pair[:2], False), carry), None

    return lax.scan(advance, (0, x, n > 0), None, length=5)[0][:2]


def _branches(x: jax.Array, n: jax.Array) -> jax.Array:
    chosen = lax.switch(n - 1, [lambda y: y, lambda y: 2.0 * y, lambda y: y**2], x)
    return lax.cond(n > 3, jnp.sin, jnp.cos, chosen)


PROGRAMS = [
    _newton, _fori, _nested, _swapped, _never, _long_scan, _short_scan, _early_scan, _branches
]  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS)
def test_loops_are_jaxs(program) -> None:
    found, expected = both(program, NUMBERS, COUNTS)
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("program", [_newton, _nested, _early_scan])
def test_a_lane_does_not_depend_on_its_neighbours(program) -> None:
    compiled = lower(program, NUMBERS[0], COUNTS[0])
    order = np.random.default_rng(1).permutation(WIDTH)
    together = compiled(NUMBERS, COUNTS)
    moved = compiled(NUMBERS[order], COUNTS[order])
    alone = compiled(*(np.repeat(x[5:6], WIDTH, axis=0) for x in (NUMBERS, COUNTS)))
    for x, y, z in zip(together, moved, alone, strict=True):
        np.testing.assert_array_equal(x[order], y)
        np.testing.assert_array_equal(x[5], z[0])


def test_what_may_end_early_is_a_loop_and_what_is_short_is_not() -> None:
    assert "phi" in lower(_early_scan, NUMBERS[0], COUNTS[0]).text
    assert "phi" in lower(_long_scan, NUMBERS[0], COUNTS[0]).text
    assert "phi" not in lower(_short_scan, NUMBERS[0], COUNTS[0]).text


@pytest.mark.parametrize("reverse", [False, True])
def test_large_steps_with_numbers_of_their_own_are_a_loop(reverse, monkeypatch) -> None:
    """As MJX writes the steps of Runge-Kutta."""
    monkeypatch.setattr(loops, "LARGE", 10)
    own = np.array([[0.5, 0.1], [0.5, 0.2], [1.0, 0.3]], np.float32)

    def program(x: jax.Array, n: jax.Array) -> jax.Array:
        def advance(y, row):
            return row[0] * y + row[1] * x, None

        return lax.scan(advance, x * n, own, reverse=reverse)[0]

    found, expected = both(program, NUMBERS, COUNTS)
    np.testing.assert_allclose(found[0], expected[0], rtol=2e-6, atol=1e-6)
    assert "phi" in lower(program, NUMBERS[0], COUNTS[0]).text


def test_what_no_one_needs_is_not_carried_along() -> None:
    text = lower(_nested, NUMBERS[0], COUNTS[0]).text
    assert text.count(" = phi ") == 4  # the two counters and the two totals
