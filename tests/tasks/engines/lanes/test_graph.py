"""Nodes: what folds, what is one, and what is joined."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from epvf.tasks.engines.lanes.graph import BOOL, FLOAT, INT, Graph, fuse


def _inputs(graph: Graph, number: int) -> list[int]:
    return [graph.fresh("input", FLOAT) for _ in range(number)]


def test_equal_nodes_are_one() -> None:
    graph = Graph()
    a, b, c = _inputs(graph, 3)
    assert graph.add(a, b) == graph.add(b, a)
    assert graph.mul(graph.mul(a, b), c) == graph.mul(a, graph.mul(b, c))
    assert graph.sub(a, b) != graph.sub(b, a)
    assert graph.fresh("input", FLOAT) != graph.fresh("input", FLOAT)


def test_what_is_neutral_vanishes() -> None:
    graph = Graph()
    a, b = _inputs(graph, 2)
    zero, one, two = (graph.const(number, FLOAT) for number in (0.0, 1.0, 2.0))
    assert graph.add(a, zero) == graph.mul(one, a) == graph.div(a, one) == a
    assert graph.mul(a, zero) == graph.sub(a, a) == zero
    assert graph.neg(graph.neg(a)) == a
    assert graph.add(a, graph.neg(b)) == graph.sub(a, b)
    assert graph.mul(graph.neg(a), graph.neg(b)) == graph.mul(a, b)
    assert graph.mul(two, graph.mul(two, a)) == graph.mul(graph.const(4.0, FLOAT), a)
    mask = graph.compare("lt", a, b)
    assert graph.select(graph.logical_not(mask), a, b) == graph.select(mask, b, a)
    assert graph.logical_and(mask, mask) == graph.logical_or(mask, graph.const(False, BOOL)) == mask


def test_zero_has_a_sign_and_nan_is_one_constant() -> None:
    graph = Graph()
    assert graph.const(0.0, FLOAT) != graph.const(-0.0, FLOAT)
    assert graph.const(np.nan, FLOAT) == graph.const(np.nan, FLOAT)
    assert graph.const(1, INT) != graph.const(1.0, FLOAT)


@given(st.integers(-(2**31), 2**31 - 1), st.integers(-(2**31), 2**31 - 1))
def test_integers_fold_as_the_processor_computes_them(x: int, y: int) -> None:
    graph = Graph()
    a, b = graph.const(x, INT), graph.const(y, INT)
    with np.errstate(over="ignore"):
        assert graph.value(graph.add(a, b)) == np.int32(x) + np.int32(y)
        assert graph.value(graph.mul(a, b)) == np.int32(x) * np.int32(y)
    assert bool(graph.value(graph.compare("lt", a, b))) == (x < y)


def test_a_product_that_is_needed_once_joins_its_sum() -> None:
    graph = Graph()
    a, b, c, d = _inputs(graph, 4)
    joined = graph.add(graph.mul(a, b), c)
    shared = graph.mul(c, d)
    apart = graph.add(shared, a)
    taken = graph.sub(d, graph.mul(a, c))
    fuse(graph, [joined, shared, apart, taken])
    assert [graph.ops[node] for node in (joined, apart, taken)] == ["fma", "add", "fnma"]
    assert graph.args[joined] == (a, b, c) and graph.args[taken] == (a, c, d)
