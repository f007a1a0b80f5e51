"""Every primitive against JAX on random arrays, one example a lane."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from epvf.tasks.engines.lanes import NotLowerable, objects
from lane_code import both, lower

WIDTH = objects.target().lanes.width
SPECIAL = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 0.5, -2.5, 1e-3, 87.0, -87.0, 100.0]


def _floats(low: float, high: float, *shape: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.uniform(low, high, (WIDTH, *shape)).astype(np.float32)


def _ints(low: int, high: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, (WIDTH, *shape)).astype(np.int32)


def _close(function, *arrays, rtol=3e-7, atol=0.0) -> None:
    found, expected = both(function, *arrays)
    for x, y in zip(found, expected, strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


UNARY = {
    "abs": (jnp.abs, -3, 3, 0.0),
    "neg": (jnp.negative, -3, 3, 0.0),
    "sign": (jnp.sign, -3, 3, 0.0),
    "floor": (jnp.floor, -9, 9, 0.0),
    "ceil": (jnp.ceil, -9, 9, 0.0),
    "round": (jnp.round, -9, 9, 0.0),
    "round_away": (lax.round, -9, 9, 0.0),
    "sqrt": (jnp.sqrt, 0, 9, 2e-7),
    "rsqrt": (lax.rsqrt, 0.1, 9, 3e-7),
    "square": (jnp.square, -3, 3, 0.0),
    "exp": (jnp.exp, -80, 80, 3e-7),
    "exp2": (jnp.exp2, -9, 9, 2e-6),
    "expm1": (jnp.expm1, -20, 20, 4e-7),
    "log": (jnp.log, 1e-6, 1e6, 4e-7),
    "log1p": (jnp.log1p, -0.9, 9, 1e-6),
    "sin": (jnp.sin, -6, 6, 2e-6),
    "cos": (jnp.cos, -6, 6, 2e-6),
    "tan": (jnp.tan, -1.5, 1.5, 1e-6),
    "tanh": (jnp.tanh, -12, 12, 1e-6),
    "logistic": (jax.nn.sigmoid, -20, 20, 1e-6),
    "atan": (jnp.arctan, -9, 9, 5e-7),
    "asin": (jnp.arcsin, -1, 1, 1e-6),
    "acos": (jnp.arccos, -1, 1, 1e-6),
    "isfinite": (jnp.isfinite, -1, 1, 0.0),
    "integer_pow": (lambda x: x**3 + x**-2 + x**0, 0.1, 3, 1e-6),
    "pow": (lambda x: x**1.7 + x**0.5 + x**4.0, 0.1, 3, 2e-6),
    "elu": (jax.nn.elu, -3, 3, 4e-7),
}


@pytest.mark.parametrize("name", UNARY)
def test_functions_of_one_float(name: str) -> None:
    function, low, high, rtol = UNARY[name]
    _close(function, _floats(low, high, 24), rtol=rtol, atol=1e-7 if rtol else 0.0)


@pytest.mark.parametrize(
    "name",
    ["abs", "exp", "expm1", "floor", "isfinite", "log", "sign", "sqrt", "tanh", "atan", "ceil"],
)
def test_functions_at_zero_infinity_and_nan(name: str) -> None:
    values = np.tile(np.array(SPECIAL, np.float32), (WIDTH, 1))
    _close(UNARY[name][0], values, rtol=1e-6, atol=1e-7)


BINARY = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "rem": lax.rem,
    "mod": jnp.mod,
    "max": jnp.maximum,
    "min": jnp.minimum,
    "atan2": jnp.arctan2,
    "compare": lambda x, y: jnp.stack([x < y, x <= y, x > y, x >= y, x == y, x != y]),
    "clip": lambda x, y: jnp.clip(x, -1.0, y),
    "where": lambda x, y: jnp.where(x > y, x, 0.0) + y,
    "power": lambda x, y: jnp.abs(x) ** y,
}


@pytest.mark.parametrize("name", BINARY)
def test_functions_of_two_floats(name: str) -> None:
    _close(BINARY[name], _floats(-3, 3, 20), _floats(-3, 3, 20, seed=1), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["add", "sub", "mul", "div", "max", "compare", "where"])
def test_functions_of_two_floats_are_exact(name: str) -> None:
    _close(BINARY[name], _floats(-3, 3, 20), _floats(-3, 3, 20, seed=1), rtol=0.0)


INTEGER = {
    "arithmetic": lambda x, y: jnp.stack([x + y, x - y, x * y, -x, jnp.abs(x), jnp.sign(y)]),
    "division": lambda x, y: jnp.stack([lax.div(x, y), lax.rem(x, y), x // y, x % y]),
    "bits": lambda x, y: jnp.stack([x & y, x | y, x ^ y, ~x]),
    "order": lambda x, y: jnp.stack([jnp.maximum(x, y), jnp.minimum(x, y)]),
    "compare": lambda x, y: jnp.stack([x < y, x <= y, x == y, x != y]),
    "shifts": lambda x, y: jnp.stack(
        [x << jnp.abs(y), x >> jnp.abs(y), lax.shift_right_logical(x, jnp.abs(y))]
    ),
    "float": lambda x, y: x.astype(jnp.float32) / y.astype(jnp.float32),
    "bool": lambda x, y: (x > 3) & ~(y > 0) | (x == y) ^ (y != 2),
}


@pytest.mark.parametrize("name", INTEGER)
@pytest.mark.parametrize("unsigned", [False, True])
def test_functions_of_integers(name: str, unsigned: bool) -> None:
    x, y = _ints(-40, 40, 20), _ints(-40, 40, 20, seed=1)
    x[0, :4], y[0, :4] = [2**31 - 1, -(2**31), 5, -7], [3, -1, 0, 0]
    if unsigned:
        if name == "arithmetic":
            pytest.skip("JAX has no sign of unsigned integers' negation to compare with")
        x, y = x.view(np.uint32), y.view(np.uint32)
    _close(INTEGER[name], x, y)


def test_conversions() -> None:
    x = _floats(-9, 9, 12)
    x[0, :4] = [np.nan, 1e20, -1e20, 0.0]
    _close(lambda a: a.astype(jnp.int32), x)
    _close(lambda a: a > 0.5, x)
    _close(lambda a: (a != 0.0).astype(jnp.float32) + a.astype(bool), x)
    _close(lambda a: lax.bitcast_convert_type(a, jnp.int32) + 1, x)
    _close(
        lambda a: lax.bitcast_convert_type(lax.bitcast_convert_type(a, jnp.uint32), jnp.float32), x
    )


REDUCTIONS = {
    "sum": lambda x: x.sum(axis=0),
    "prod": lambda x: x.prod(axis=1),
    "max": lambda x: x.max(),
    "min": lambda x: x.min(axis=(0, 1)),
    "all": lambda x: (x > -2.9).all(axis=0),
    "any": lambda x: (x > 2.0).any(axis=1),
    "argmax": lambda x: x.argmax(axis=0),
    "argmin": lambda x: x.argmin(axis=1),
    "cumsum": lambda x: jnp.cumsum(x, axis=1),
    "cumprod": lambda x: jnp.cumprod(x, axis=0),
    "cummax": lambda x: lax.cummax(x, axis=0, reverse=True),
    "matmul": lambda x: x @ x.T,
    "einsum": lambda x: jnp.einsum("ij,kj->ijk", x, x),
    "batched": lambda x: jnp.einsum("bi,bj->bij", x, x),
}


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions(name: str) -> None:
    _close(REDUCTIONS[name], _floats(-3, 3, 3, 5), rtol=2e-6, atol=2e-6)


def test_the_first_of_equal_extremes_counts() -> None:
    x = np.tile(np.array([1.0, 3.0, 3.0, 1.0], np.float32), (WIDTH, 1))
    found, _ = both(lambda a: (jnp.argmax(a), jnp.argmin(a)), x)
    assert (found[0] == 1).all() and (found[1] == 0).all()


SHAPES = {
    "slice": lambda x: x[1:3, ::2],
    "reverse": lambda x: x[::-1],
    "reshape": lambda x: x.reshape(5, 3).T,
    "concatenate": lambda x: jnp.concatenate([x, 2 * x[:1]]),
    "stack": lambda x: jnp.stack([x, x + 1.0], axis=1),
    "tile": lambda x: jnp.tile(x, (2, 1)),
    "pad": lambda x: lax.pad(x, 7.0, [(1, 2, 1), (-1, 3, 0)]),
    "split": lambda x: jnp.split(x, [1, 3], axis=1),
    "broadcast": lambda x: jnp.broadcast_to(x[:, None], (3, 2, 5)) * 2.0,
    "iota": lambda x: x + jnp.arange(5.0)[None],
    "squeeze": lambda x: x[:, :1].squeeze(1),
    "select_n": lambda x: lax.select_n((x > 0).astype(jnp.int32) + (x > 1), x, 2 * x, 3 * x),
    "nested": lambda x: jax.jit(lambda y: jax.checkpoint(jnp.sin)(y) + jax.nn.relu(y))(x),
    "sort_of_constants": lambda x: x[jnp.sort(jnp.array([2, 0, 1]))],
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name: str) -> None:
    _close(SHAPES[name], _floats(-3, 3, 3, 5), atol=1e-6)


INDEXED = {
    "take": lambda x, i: x[jnp.array([2, 0, 2])],
    "take_fill": lambda x, i: x.at[jnp.array([0, 9])].get(mode="fill", fill_value=-1.0),
    "set": lambda x, i: x.at[jnp.array([2, 0]), 1].set(9.0),
    "add": lambda x, i: x.at[jnp.array([2, 2, 0])].add(x),
    "multiply": lambda x, i: x.at[:, jnp.array([1, 1])].multiply(3.0),
    "minimum": lambda x, i: x.at[1].min(0.0).at[2].max(0.5),
    "drop": lambda x, i: x.at[jnp.array([0, 7])].set(5.0, mode="drop"),
    "take_at": lambda x, i: x[i],
    "take_at_both": lambda x, i: x[i, i + 1],
    "take_along": lambda x, i: jnp.take_along_axis(x, jnp.full((3, 1), i), axis=1),
    "slice_at": lambda x, i: lax.dynamic_slice(x, (i, i), (2, 2)),
    "update_at": lambda x, i: lax.dynamic_update_slice(x, jnp.ones((2, 2)), (i, 1)),
    "set_at": lambda x, i: x.at[i].set(7.0),
    "set_at_chosen": lambda x, i: x.at[jnp.where(i > 1, 2, 0)].add(1.0),
    "fill_at": lambda x, i: x.at[i].get(mode="fill", fill_value=-1.0),
    "vmapped": lambda x, i: jax.vmap(lambda row, k: row[k])(x, jnp.array([0, 3, 1])),
}


@pytest.mark.parametrize("name", INDEXED)
def test_indices(name: str) -> None:
    _close(INDEXED[name], _floats(-3, 3, 3, 5), _ints(-4, 7))


def test_a_primitive_without_a_rule_is_named() -> None:
    with pytest.raises(NotLowerable, match="'sort'"):
        lower(jnp.sort, jnp.zeros(3))


def test_an_index_into_too_much_is_named() -> None:
    with pytest.raises(NotLowerable, match=r"'dynamic_slice'.*1000.*more than 128"):
        lower(lambda x, i: x[i], jnp.zeros(1000), jnp.int32(0))


def test_numbers_that_no_lane_holds_are_named() -> None:
    with pytest.raises(NotLowerable, match="bfloat16"):
        lower(lambda x: x.astype(jnp.bfloat16) + 1, jnp.zeros(3))


def test_a_program_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("epvf.tasks.engines.lanes.scalarise.MAX_NODES", 1000)
    with pytest.raises(NotLowerable, match="more than 1,000 scalar operations"):
        lower(lambda x: x[:, None] * x[None] + jnp.sin(x)[None], jnp.zeros(100))
