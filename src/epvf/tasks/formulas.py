"""Functions for a body's formulas that numpy, JAX and numba all take, next to plain operators.

`s.qpos[1] ** 2`, `abs(s.qvel).max()`, `(s.ctrl**2).sum()` and `s.qvel.clip(-10, 10)` need nothing
of this; what is no operator or method of an array is here. The engines tell numba of each.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

UNARY = ("exp", "log", "sqrt", "sin", "cos", "tanh")
BINARY = ("minimum", "maximum", "arctan2")


def exp(x: Any) -> Any:
    """e to the power of x, elementwise."""
    return _library(x).exp(x)


def log(x: Any) -> Any:
    """The natural logarithm, elementwise."""
    return _library(x).log(x)


def sqrt(x: Any) -> Any:
    """The square root, elementwise."""
    return _library(x).sqrt(x)


def sin(x: Any) -> Any:
    """The sine of angles (rad), elementwise."""
    return _library(x).sin(x)


def cos(x: Any) -> Any:
    """The cosine of angles (rad), elementwise."""
    return _library(x).cos(x)


def tanh(x: Any) -> Any:
    """The hyperbolic tangent, elementwise."""
    return _library(x).tanh(x)


def minimum(x: Any, y: Any) -> Any:
    """The smaller of two numbers, elementwise."""
    return _library(x).minimum(x, y)


def maximum(x: Any, y: Any) -> Any:
    """The larger of two numbers, elementwise."""
    return _library(x).maximum(x, y)


def arctan2(x: Any, y: Any) -> Any:
    """The angle (rad) whose sine goes as the first and whose cosine as the second, elementwise."""
    return _library(x).arctan2(x, y)


def where(condition: Any, then: Any, otherwise: Any) -> Any:
    """One number where a scalar condition holds, the other elsewhere."""
    return _library(condition).where(condition, then, otherwise)


def _library(x: Any) -> Any:
    return jnp if isinstance(x, jax.Array) else np
