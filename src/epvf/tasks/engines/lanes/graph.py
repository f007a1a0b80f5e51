"""A program of scalars: every node is one number, and equal nodes are one node.

Nodes are simplified as they are made: constants fold, neutral elements and signs vanish, products
that exist already in another association are found again. What is simplified holds for finite
numbers: 0 · NaN becomes 0, and the larger of NaN and a number may be the number.
"""

import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

Node: TypeAlias = int
"""The index of a node in its graph; what a node is made of has smaller ones."""

FLOAT, INT, UINT, BOOL = "f", "i", "u", "b"

DTYPES: dict[str, type[np.generic]] = {
    FLOAT: np.float32,
    INT: np.int32,
    UINT: np.uint32,
    BOOL: np.bool_,
}
"""The four kinds of numbers, one 32-bit lane each."""

LEAVES = ("const", "input", "variable", "factor", "half")
"""Nodes that are made of no other; the last two only stand for something, see `linear`."""

_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "lt": operator.lt,
    "le": operator.le,
    "eq": operator.eq,
    "ne": operator.ne,
}
_FOLD: dict[str, Callable[..., Any]] = {
    "abs": np.abs,
    "acos": np.arccos,
    "asin": np.arcsin,
    "atan": np.arctan,
    "ceil": np.ceil,
    "cos": np.cos,
    "exp": np.exp,
    "expm1": np.expm1,
    "floor": np.floor,
    "isfinite": np.isfinite,
    "log": np.log,
    "log1p": np.log1p,
    "round": np.rint,
    "sin": np.sin,
    "sqrt": np.sqrt,
    "tan": np.tan,
    "tanh": np.tanh,
    "trunc": np.trunc,
    "shl": np.left_shift,
    "shr": np.right_shift,
    "bitand": np.bitwise_and,
    "bitor": np.bitwise_or,
    "bitxor": np.bitwise_xor,
    "bitnot": np.bitwise_not,
    "atan2": np.arctan2,
    "pow": np.power,
}


@dataclass
class Loop:
    """Numbers that change from round to round, lane by lane, while a condition holds.

    Attributes:
        variables: their nodes within a round, numbered.
        initial: what they are before the first round.
        condition: whether a lane goes on, of the variables.
        updates: what they are after a round.
    """

    variables: dict[int, Node]
    initial: dict[int, Node]
    condition: Node
    updates: dict[int, Node]


class Graph:
    """Nodes, made by the methods named after what they compute.

    Attributes:
        ops, args, kinds: of every node: what it computes, of which nodes, and of which kind it is.
        loops: by the node that stands for the loop.
    """

    def __init__(self) -> None:
        self.ops: list[str] = []
        self.args: list[tuple[Node, ...]] = []
        self.kinds: list[str] = []
        self.loops: dict[Node, Loop] = {}
        self._index: dict[tuple[str, tuple[Any, ...], str], Node] = {}
        self._values: dict[Node, Any] = {}
        self._node("nothing", (), BOOL)  # takes the index 0, so that every other node is true

    def __len__(self) -> int:
        return len(self.ops)

    # leaves

    def const(self, value: Any, kind: str) -> Node:
        """A constant."""
        number = DTYPES[kind](value)
        bits = int(number) if kind == BOOL else int(number.view(np.uint32))
        node = self._node("const", (bits,), kind)
        self._values[node] = number
        return node

    def fresh(self, op: str, kind: str, *about: int) -> Node:
        """A node that equals no other, such as an input or a loop's variable."""
        return self._node(op, (len(self.ops), *about), kind)

    def result(self, loop: Node, number: int, kind: str) -> Node:
        """What a loop's variable of this number is after the loop."""
        return self._node("result", (loop, number), kind)

    def is_const(self, node: Node) -> bool:
        return node in self._values

    def value(self, node: Node) -> Any:
        """The number that a constant is."""
        return self._values[node]

    def zero(self, kind: str) -> Node:
        return self.const(0, kind)

    def one(self, kind: str) -> Node:
        return self.const(1, kind)

    # arithmetic

    def neg(self, a: Node) -> Node:
        op, args, kind = self.ops[a], self.args[a], self.kinds[a]
        if op == "const":
            return self._fold(operator.neg, kind, a)
        if kind == FLOAT:
            if op == "neg":
                return args[0]
            if op == "sub":
                return self.sub(args[1], args[0])
            if op == "select" and self.is_const(args[1]) and self.is_const(args[2]):
                return self.select(args[0], self.neg(args[1]), self.neg(args[2]))
            return self._node("neg", (a,), kind)
        return self.sub(self.zero(kind), a)

    def add(self, a: Node, b: Node) -> Node:
        kind = self.kinds[a]
        if self.is_const(a) and self.is_const(b):
            return self._fold(operator.add, kind, a, b)
        if self._is(a, 0):
            return b
        if self._is(b, 0):
            return a
        if kind != FLOAT:
            return self._push("add", a, b) or self._node("add", _sorted(a, b), kind)
        if self.ops[a] == "neg" and self.ops[b] == "neg":
            return self.neg(self.add(self.args[a][0], self.args[b][0]))
        if self.ops[b] == "neg":
            return self.sub(a, self.args[b][0])
        if self.ops[a] == "neg":
            return self.sub(b, self.args[a][0])
        if a == b:
            return self.mul(self.const(2, kind), a)
        a, b = _sorted(a, b)
        for x, y in ((b, a), (a, b)):
            # a masked sum: one instruction with a mask instead of two
            if self.ops[x] == "select" and self._is(self.args[x][2], 0):
                mask, part, _ = self.args[x]
                return self.select(mask, self._node("add", _sorted(y, part), kind), y)
        return self._node("add", (a, b), kind)

    def sub(self, a: Node, b: Node) -> Node:
        kind = self.kinds[a]
        if self.is_const(a) and self.is_const(b):
            return self._fold(operator.sub, kind, a, b)
        if self._is(b, 0):
            return a
        if a == b:
            return self.zero(kind)
        if kind != FLOAT:
            return self._push("sub", a, b) or self._node("sub", (a, b), kind)
        if self._is(a, 0):
            return self.neg(b)
        if self.ops[b] == "neg":
            return self.add(a, self.args[b][0])
        if self.ops[a] == "neg":
            return self.neg(self.add(self.args[a][0], b))
        return self._node("sub", (a, b), kind)

    def mul(self, a: Node, b: Node) -> Node:
        kind = self.kinds[a]
        if kind == BOOL:
            return self.logical_and(a, b)
        if self.is_const(b):
            a, b = b, a
        if self.is_const(a):
            return self._scaled(a, b)
        if kind != FLOAT:
            return self._push("mul", a, b) or self._node("mul", _sorted(a, b), kind)
        if self.ops[a] == "neg":
            return self.neg(self.mul(self.args[a][0], b))
        if self.ops[b] == "neg":
            return self.neg(self.mul(a, self.args[b][0]))
        for x, y in ((a, b), (b, a)):
            if self.ops[x] == "select":
                mask, yes, no = self.args[x]
                both = self.is_const(yes) and self.is_const(no)
                if both and (self._is(yes, 0) or self._is(no, 0)):
                    return self.select(mask, self.mul(yes, y), self.mul(no, y))
            if self.ops[x] == "mul" and self.is_const(self.args[x][0]):
                return self.mul(self.args[x][0], self.mul(self.args[x][1], y))
        a, b = _sorted(a, b)
        found = self._find("mul", a, b) or self._reassociated(a, b) or self._remasked(a, b)
        return found or self._node("mul", (a, b), kind)

    def div(self, a: Node, b: Node) -> Node:
        kind = self.kinds[a]
        if kind != FLOAT:
            return self._integer_div(a, b)
        if self.is_const(a) and self.is_const(b):
            return self._fold(operator.truediv, kind, a, b)
        if self.is_const(b):  # as XLA does
            return self.mul(self._fold(lambda x: np.float32(1) / x, kind, b), a)
        if self._is(a, 0):
            return a
        if self.ops[b] == "neg":
            return self.neg(self.div(a, self.args[b][0]))
        if self.ops[a] == "neg":
            return self.neg(self.div(self.args[a][0], b))
        return self._node("div", (a, b), kind)

    def rem(self, a: Node, b: Node) -> Node:
        """The remainder with the sign of `a`."""
        kind = self.kinds[a]
        if self.is_const(a) and self.is_const(b) and (kind == FLOAT or self.value(b) != 0):
            return self._fold(np.fmod, kind, a, b)
        if kind == FLOAT:
            return self._float_rem(a, b)
        return self._push("rem", a, b) or self._node("rem", (a, b), kind)

    def power(self, a: Node, exponent: int) -> Node:
        """`a` to a power that is a constant integer."""
        if exponent < 0:
            return self.div(self.one(self.kinds[a]), self.power(a, -exponent))
        if exponent == 0:
            return self.one(self.kinds[a])
        half = self.power(a, exponent // 2)
        square = self.mul(half, half)
        return self.mul(square, a) if exponent % 2 else square

    def maximum(self, a: Node, b: Node) -> Node:
        return self._extreme("max", np.maximum, a, b)

    def minimum(self, a: Node, b: Node) -> Node:
        return self._extreme("min", np.minimum, a, b)

    def unary(self, op: str, a: Node) -> Node:
        """A function of one number, such as `sqrt`."""
        kind = self.kinds[a]
        if self.is_const(a):
            return self._fold(_FOLD[op], kind, a)
        if op == "abs":
            if kind == UINT:
                return a
            if kind == INT:
                return self.select(self.compare("lt", a, self.zero(INT)), self.neg(a), a)
            if self.ops[a] in ("abs", "sqrt"):
                return a
            if self.ops[a] == "neg":
                return self.unary("abs", self.args[a][0])
        return self._node(op, (a,), kind)

    def binary(self, op: str, a: Node, b: Node) -> Node:
        """Shifts, bits, `atan2`: what nothing is known about but its constants."""
        kind = self.kinds[a]
        if self.is_const(a) and self.is_const(b):
            return self._fold(_FOLD[op], kind, a, b)
        return self._node(op, (a, b), kind)

    def is_finite(self, a: Node) -> Node:
        return self._test("isfinite", a)

    def unordered(self, a: Node, b: Node) -> Node:
        """Whether one of the two is NaN."""
        return self._node("unordered", _sorted(a, b), BOOL)

    # choices

    def select(self, mask: Node, yes: Node, no: Node) -> Node:
        if self.is_const(mask):
            return yes if self.value(mask) else no
        if yes == no:
            return yes
        if self.ops[mask] == "not":
            return self.select(self.args[mask][0], no, yes)
        if self.kinds[yes] == BOOL:
            return self._select_bool(mask, yes, no)
        if self.ops[yes] == "select" and self.args[yes][0] == mask:
            yes = self.args[yes][1]
        if self.ops[no] == "select" and self.args[no][0] == mask:
            no = self.args[no][2]
        if yes == no:
            return yes
        return self._node("select", (mask, yes, no), self.kinds[yes])

    def compare(self, op: str, a: Node, b: Node) -> Node:
        """`lt`, `le`, `gt`, `ge`, `eq` or `ne`."""
        if op in ("gt", "ge"):
            return self.compare({"gt": "lt", "ge": "le"}[op], b, a)
        kind = self.kinds[a]
        if self.is_const(a) and self.is_const(b):
            return self._fold(_COMPARE[op], BOOL, a, b)
        if kind == BOOL:
            return self._compare_bool(op, a, b)
        if a == b and kind != FLOAT:
            return self.const(op in ("le", "eq"), BOOL)
        for x, y in ((a, b), (b, a)):
            if self.ops[x] == "select" and self.is_const(y):
                mask, yes, no = self.args[x]
                if kind != FLOAT or (self.is_const(yes) and self.is_const(no)):
                    sides = [(yes, y), (no, y)] if x == a else [(y, yes), (y, no)]
                    return self.select(mask, *(self.compare(op, *side) for side in sides))
        return self._node(op, (a, b), BOOL)

    def logical_not(self, a: Node) -> Node:
        if self.is_const(a):
            return self.const(not self.value(a), BOOL)
        if self.ops[a] == "not":
            return self.args[a][0]
        return self._node("not", (a,), BOOL)

    def logical_and(self, a: Node, b: Node) -> Node:
        for x, y in ((a, b), (b, a)):
            if self.is_const(x):
                return y if self.value(x) else x
        return a if a == b else self._node("and", _sorted(a, b), BOOL)

    def logical_or(self, a: Node, b: Node) -> Node:
        for x, y in ((a, b), (b, a)):
            if self.is_const(x):
                return x if self.value(x) else y
        return a if a == b else self._node("or", _sorted(a, b), BOOL)

    # kinds

    def convert(self, a: Node, kind: str) -> Node:
        """The same number in another kind; floats are cut to integers as `lax` does it."""
        old = self.kinds[a]
        if old == kind:
            return a
        if self.is_const(a):
            return self.const(_converted(self.value(a), kind), kind)
        if kind == BOOL:
            return self.compare("ne", a, self.zero(old))
        if self.ops[a] == "select":
            mask, yes, no = self.args[a]
            return self.select(mask, self.convert(yes, kind), self.convert(no, kind))
        if old == BOOL:
            return self.select(a, self.one(kind), self.zero(kind))
        return self._node("convert", (a,), kind)

    def bitcast(self, a: Node, kind: str) -> Node:
        """The same 32 bits in another kind."""
        if self.kinds[a] == kind:
            return a
        if self.is_const(a):
            return self.const(self.value(a).view(DTYPES[kind]), kind)
        return self._node("bitcast", (a,), kind)

    # how nodes are made

    def _node(self, op: str, args: tuple[Any, ...], kind: str) -> Node:
        key = (op, args, kind)
        node = self._index.get(key)
        if node is None:
            node = self._index[key] = len(self.ops)
            self.ops.append(op)
            self.args.append(args)
            self.kinds.append(kind)
        return node

    def _find(self, op: str, a: Node, b: Node) -> Node | None:
        return self._index.get((op, _sorted(a, b), FLOAT))

    def _is(self, node: Node, number: int) -> bool:
        return node in self._values and self._values[node] == number

    def _fold(self, function: Callable[..., Any], kind: str, *args: Node) -> Node:
        with np.errstate(all="ignore"):
            return self.const(function(*(self._values[arg] for arg in args)), kind)

    def _test(self, op: str, a: Node) -> Node:
        if self.is_const(a):
            return self._fold(_FOLD[op], BOOL, a)
        return self._node(op, (a,), BOOL)

    def _scaled(self, factor: Node, b: Node) -> Node:
        """A constant times `b`."""
        kind = self.kinds[b]
        if self.is_const(b):
            return self._fold(operator.mul, kind, factor, b)
        if self._is(factor, 0):
            return self.zero(kind)
        if self._is(factor, 1):
            return b
        if kind != FLOAT:
            return self._push("mul", factor, b) or self._node("mul", _sorted(factor, b), kind)
        if self._is(factor, -1):
            return self.neg(b)
        op, args = self.ops[b], self.args[b]
        if op == "neg":
            return self.mul(self.neg(factor), args[0])
        if op == "mul" and self.is_const(args[0]):
            return self.mul(self._fold(operator.mul, kind, factor, args[0]), args[1])
        if op == "select" and self.is_const(args[1]) and self.is_const(args[2]):
            return self.select(args[0], self.mul(factor, args[1]), self.mul(factor, args[2]))
        return self._node("mul", (factor, b), kind)

    def _reassociated(self, a: Node, b: Node) -> Node | None:
        """(u v) y that is there as u (v y)."""
        for x, y in ((a, b), (b, a)):
            if self.ops[x] != "mul":
                continue
            for u, v in _both(self.args[x]):
                inner = self._find("mul", v, y)
                found = None if inner is None else self._find("mul", u, inner)
                if found is not None:
                    return found
        return None

    def _remasked(self, a: Node, b: Node) -> Node | None:
        """[p](u v) y that is there as u [p](v y)."""
        zero = self.zero(FLOAT)
        for x, y in ((a, b), (b, a)):
            if self.ops[x] != "select" or self.args[x][2] != zero:
                continue
            mask, product, _ = self.args[x]
            if self.ops[product] != "mul":
                continue
            for u, v in _both(self.args[product]):
                inner = self._find("mul", v, y)
                masked = self._index.get(("select", (mask, inner, zero), FLOAT))
                found = None if masked is None else self._find("mul", u, masked)
                if found is not None:
                    return found
        return None

    def _push(self, op: str, a: Node, b: Node) -> Node | None:
        """An integer operation on a choice of constants as a choice: so that indices stay known."""
        function = getattr(self, op)
        for x, swap in ((a, False), (b, True)):
            other = a if swap else b
            if self.ops[x] != "select" or not self.is_const(other):
                continue
            mask, yes, no = self.args[x]
            if swap:
                return self.select(mask, function(other, yes), function(other, no))
            return self.select(mask, function(yes, other), function(no, other))
        return None

    def _integer_div(self, a: Node, b: Node) -> Node:
        kind = self.kinds[a]
        if self._is(b, 1):
            return a
        if self.is_const(a) and self.is_const(b) and self.value(b) != 0:
            quotient = abs(int(self.value(a))) // abs(int(self.value(b)))
            same = (self.value(a) < 0) == (self.value(b) < 0)
            return self.const(_wrapped(quotient if same else -quotient, kind), kind)
        return self._push("div", a, b) or self._node("div", (a, b), kind)

    def _float_rem(self, a: Node, b: Node) -> Node:
        """Right where the quotient is below 2²³; what its rounding shifts is put back."""
        zero = self.zero(FLOAT)
        size, unit = self.unary("abs", a), self.unary("abs", b)
        rest = self.sub(size, self.mul(self.unary("floor", self.div(size, unit)), unit))
        rest = self.select(self.compare("lt", rest, zero), self.add(rest, unit), rest)
        rest = self.select(self.compare("ge", rest, unit), self.sub(rest, unit), rest)
        return self.select(self.compare("lt", a, zero), self.neg(rest), rest)

    def _extreme(self, op: str, fold: Callable[..., Any], a: Node, b: Node) -> Node:
        kind = self.kinds[a]
        if kind == BOOL:
            return self.logical_or(a, b) if op == "max" else self.logical_and(a, b)
        if self.is_const(a) and self.is_const(b):
            return self._fold(fold, kind, a, b)
        if a == b:
            return a
        if kind != FLOAT:
            return self.select(self.compare("gt" if op == "max" else "lt", a, b), a, b)
        if self.is_const(b):  # the constant first: then NaN of the other passes
            a, b = b, a
        return self._node(op, (a, b), kind)

    def _select_bool(self, mask: Node, yes: Node, no: Node) -> Node:
        if self.is_const(yes):
            if self.value(yes):
                return self.logical_or(mask, no)
            return self.logical_and(self.logical_not(mask), no)
        if self.is_const(no):
            if self.value(no):
                return self.logical_or(self.logical_not(mask), yes)
            return self.logical_and(mask, yes)
        return self.logical_or(
            self.logical_and(mask, yes), self.logical_and(self.logical_not(mask), no)
        )

    def _compare_bool(self, op: str, a: Node, b: Node) -> Node:
        if op == "eq":
            return self.logical_not(self._compare_bool("ne", a, b))
        if op == "lt":
            return self.logical_and(self.logical_not(a), b)
        if op == "le":
            return self.logical_or(self.logical_not(a), b)
        if a == b:
            return self.const(False, BOOL)
        for x, y in ((a, b), (b, a)):
            if self.is_const(x):
                return self.logical_not(y) if self.value(x) else y
        return self._node("xor", _sorted(a, b), BOOL)

    # what hangs together

    def children(self, node: Node) -> Iterable[Node]:
        """What a node is made of; of a loop also what its rounds are made of."""
        op = self.ops[node]
        if op in LEAVES:
            return ()
        if op == "loop":
            loop = self.loops[node]
            return [*loop.initial.values(), loop.condition, *loop.updates.values()]
        if op == "result":
            return self.args[node][:1]
        return self.args[node]

    def live(self, outputs: Iterable[Node]) -> list[Node]:
        """All that these nodes are made of, themselves too, each after what it is made of."""
        seen: set[Node] = set()
        waiting = list(outputs)
        while waiting:
            node = waiting.pop()
            if node not in seen:
                seen.add(node)
                waiting.extend(self.children(node))
        return sorted(seen)

    def __iter__(self) -> Iterator[Node]:
        return iter(range(len(self.ops)))


def fuse(graph: Graph, outputs: Iterable[Node]) -> None:
    """Joins products and sums, in place: `fma` is ab + c, `fms` ab - c, `fnma` c - ab.

    Done here and not by the compiler, so that every processor that can rounds alike. Only a
    product that nothing else needs is joined, so no work is added.
    """
    outputs = list(outputs)
    live = graph.live(outputs)
    uses = dict.fromkeys(live, 0)
    for node in live:
        for part in graph.children(node):
            uses[part] += 1
    for node in outputs:
        uses[node] += 1

    def joins(node: Node) -> bool:
        return graph.ops[node] == "mul" and uses[node] == 1

    for node in live:
        if graph.kinds[node] != FLOAT or graph.ops[node] not in ("add", "sub"):
            continue
        a, b = graph.args[node]
        if joins(b):
            op = "fma" if graph.ops[node] == "add" else "fnma"
            graph.ops[node], graph.args[node] = op, (*graph.args[b], a)
        elif joins(a):
            op = "fma" if graph.ops[node] == "add" else "fms"
            graph.ops[node], graph.args[node] = op, (*graph.args[a], b)


def prune(graph: Graph, outputs: Iterable[Node]) -> None:
    """Drops what loops carry along though nothing needs it, in place."""
    outputs = list(outputs)
    for node in sorted(graph.loops, reverse=True):  # outer loops come after inner ones
        live = graph.live(outputs)
        loop = graph.loops[node]
        results = [graph.args[i] for i in live if graph.ops[i] == "result"]
        needed = {number for owner, number in results if owner == node}
        while True:
            reached = set(
                graph.live([loop.condition, *(loop.updates[number] for number in needed)])
            )
            more = {k for k, variable in loop.variables.items() if variable in reached} | needed
            if more == needed:
                break
            needed = more
        for part in (loop.variables, loop.initial, loop.updates):
            for number in set(part) - needed:
                del part[number]


def _sorted(a: Node, b: Node) -> tuple[Node, Node]:
    return (a, b) if a <= b else (b, a)


def _both(pair: tuple[Node, ...]) -> tuple[tuple[Node, Node], tuple[Node, Node]]:
    u, v = pair
    return (u, v), (v, u)


def _wrapped(number: int, kind: str) -> int:
    number &= 0xFFFFFFFF
    return number - (1 << 32) if kind == INT and number >> 31 else number


def _converted(number: Any, kind: str) -> Any:
    if kind not in (INT, UINT):
        return DTYPES[kind](number)
    if isinstance(number, np.floating):
        info = np.iinfo(np.int32 if kind == INT else np.uint32)
        return 0 if np.isnan(number) else int(np.clip(float(number), info.min, info.max))
    return _wrapped(int(number), kind)
