"""Products of matrices, Cholesky factors and the systems that are solved with them.

A factor is only ever used to solve two triangular systems, one after the other. So it is made as
A = P' L D L' P with a permutation P by which zeros of A stay zeros of L (minimum degree order), and
nodes that stand for entries of LAPACK's factor carry no number: whoever uses them otherwise is told
so when the program is written.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from epvf.tasks.engines.lanes.errors import NotLowerable
from epvf.tasks.engines.lanes.graph import FLOAT, Graph, Node


class Factor(NamedTuple):
    """A = P' L D L' P.

    Attributes:
        order: the row of A that is the k-th of L.
        lower: `[n][n]` entries of L below its diagonal, which is 1.
        inverse: `[n]` 1 / D.
    """

    order: list[int]
    lower: list[list[Node]]
    inverse: list[Node]


class Linear:
    """Linear algebra on arrays of nodes of one graph."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._factors: list[Factor] = []
        self._entries: dict[Node, tuple[int, int, int]] = {}
        self._halves: dict[Node, tuple[int, int, Node]] = {}

    def dot_general(self, a: np.ndarray, b: np.ndarray, numbers: Any) -> np.ndarray:
        """`lax.dot_general`."""
        (a_contract, b_contract), (a_batch, b_batch) = numbers
        a_free = [d for d in range(a.ndim) if d not in (*a_contract, *a_batch)]
        b_free = [d for d in range(b.ndim) if d not in (*b_contract, *b_batch)]
        left = _grouped(a, (a_batch, a_free, a_contract))
        right = _grouped(b, (b_batch, b_free, b_contract))
        kind = self._graph.kinds[int(a.flat[0])] if a.size else FLOAT
        out = np.empty((*left.shape[:2], right.shape[1]), np.int64)
        for batch, i, j in np.ndindex(*out.shape):
            out[batch, i, j] = self._dot(left[batch, i], right[batch, j], kind)
        shape = [a.shape[d] for d in (*a_batch, *a_free)] + [b.shape[d] for d in b_free]
        return out.reshape(shape)

    def _dot(self, a: np.ndarray, b: np.ndarray, kind: str) -> Node:
        graph = self._graph
        total = graph.zero(kind)
        for x, y in zip(a.tolist(), b.tolist(), strict=True):
            total = graph.add(total, graph.mul(x, y))
        return total

    def cholesky(self, a: np.ndarray) -> np.ndarray:
        """Nodes that stand for the lower factor of `[..., n, n]`."""
        if a.ndim > 2:
            return np.stack([self.cholesky(part) for part in a])
        n = len(a)
        number = len(self._factors)
        self._factors.append(self._factor(a))
        out = np.full((n, n), self._graph.zero(FLOAT), np.int64)
        for i in range(n):
            for j in range(i + 1):
                out[i, j] = node = self._graph.fresh("factor", FLOAT)
                self._entries[node] = (number, i, j)
        return out

    def _factor(self, a: np.ndarray) -> Factor:
        graph, n = self._graph, len(a)
        zero = graph.zero(FLOAT)
        symmetric = [[int(a[max(i, j), min(i, j)]) for j in range(n)] for i in range(n)]
        order = _minimum_degree([[x != zero for x in row] for row in symmetric])
        rest = [[symmetric[i][j] for j in order] for i in order]
        lower = [[zero] * n for _ in range(n)]
        inverse = []
        for k in range(n):
            inverse.append(graph.div(graph.one(FLOAT), rest[k][k]))
            below = [i for i in range(k + 1, n) if rest[i][k] != zero]
            for i in below:
                lower[i][k] = graph.mul(rest[i][k], inverse[k])
            for i in below:
                for j in range(k + 1, i + 1):
                    rest[i][j] = graph.sub(rest[i][j], graph.mul(lower[i][k], rest[j][k]))
        return Factor(order, lower, inverse)

    def triangular_solve(self, a: np.ndarray, b: np.ndarray, params: dict[str, Any]) -> np.ndarray:
        """`lax.linalg.triangular_solve` of `[..., n, n]` and `[..., n, m]` or `[..., m, n]`."""
        if a.ndim > 2:
            return np.stack(
                [self.triangular_solve(x, y, params) for x, y in zip(a, b, strict=True)]
            )
        lower, transposed = params["lower"], params["transpose_a"]
        # x A = b is A' x' = b', and what is upper is lower when transposed
        matrix = a if lower else a.T
        backward = (not lower) != transposed
        if not params["left_side"]:
            backward, b = not backward, b.T
        number = self._factor_of(matrix)
        if number is None:
            columns = [self._substitute(matrix, c, backward, params["unit_diagonal"]) for c in b.T]
        else:
            solve = self._second if backward else self._first
            columns = [solve(number, column.tolist()) for column in b.T]
        solved = np.array(columns, np.int64).reshape(b.T.shape)
        return solved.T if params["left_side"] else solved

    def _factor_of(self, matrix: np.ndarray) -> int | None:
        known = self._entries.get(int(matrix[0, 0])) if matrix.size else None
        if known is None:
            return None
        for i in range(len(matrix)):
            for j in range(i + 1):
                if self._entries.get(int(matrix[i, j])) != (known[0], i, j):
                    raise NotLowerable("a Cholesky factor is changed before it solves a system")
        return known[0]

    def _first(self, number: int, b: list[Node]) -> list[Node]:
        """Stands for the solution of L y = b."""
        graph, (order, lower, inverse) = self._graph, self._factors[number]
        y = [b[i] for i in order]
        for k in range(len(y)):
            for i in range(k + 1, len(y)):
                y[i] = graph.sub(y[i], graph.mul(lower[i][k], y[k]))
        halves = []
        for k, (value, scale) in enumerate(zip(y, inverse, strict=True)):
            node = graph.fresh("half", FLOAT)
            self._halves[node] = (number, k, graph.mul(value, scale))
            halves.append(node)
        return halves

    def _second(self, number: int, halves: list[Node]) -> list[Node]:
        """The solution x of A x = b, from what `_first` made of b."""
        graph, (order, lower, _) = self._graph, self._factors[number]
        found = [self._halves.get(half, (-1, -1, -1)) for half in halves]
        if [part[:2] for part in found] != [(number, k) for k in range(len(order))]:
            raise NotLowerable(
                "a Cholesky factor solves one triangular system where two were expected, "
                "one after the other, as jax.scipy.linalg.cho_solve does it"
            )
        y = [part[2] for part in found]
        for k in range(len(y) - 1, -1, -1):
            for i in range(k + 1, len(y)):
                y[k] = graph.sub(y[k], graph.mul(lower[i][k], y[i]))
        x = [0] * len(y)
        for k, row in enumerate(order):
            x[row] = y[k]
        return x

    def _substitute(
        self, lower: np.ndarray, b: np.ndarray, backward: bool, unit: bool
    ) -> list[Node]:
        """The solution of L x = b, or of L' x = b."""
        graph, n = self._graph, len(b)
        x = b.tolist()
        for k in reversed(range(n)) if backward else range(n):
            for i in range(k + 1, n) if backward else range(k):
                entry = int(lower[i, k] if backward else lower[k, i])
                x[k] = graph.sub(x[k], graph.mul(entry, x[i]))
            if not unit:
                x[k] = graph.div(x[k], int(lower[k, k]))
        return x


def _grouped(x: np.ndarray, groups: Sequence[Sequence[int]]) -> np.ndarray:
    """`x` with its dimensions sorted into three."""
    shape = [int(np.prod([x.shape[d] for d in group], dtype=int)) for group in groups]
    return x.transpose([d for group in groups for d in group]).reshape(shape)


def _minimum_degree(pattern: list[list[bool]]) -> list[int]:
    """An order in which few zeros of a symmetric matrix are lost (Tinney & Walker 1967)."""
    n = len(pattern)
    near = [{j for j in range(n) if j != i and pattern[i][j]} for i in range(n)]
    left = set(range(n))
    order = []
    while left:
        row = min(left, key=lambda i: (len(near[i] & left), -i))
        order.append(row)
        left.discard(row)
        around = near[row] & left
        for i in around:
            near[i] |= around - {i}
    return order
