"""From a jaxpr to a graph of scalars: every element of every array becomes a node.

What only moves elements about runs in numpy on arrays of nodes. A table tells how each primitive
is computed; one that is not in it, and whose operands are not all constant, cannot be lowered.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from epvf.tasks.engines.lanes import indexing, loops
from epvf.tasks.engines.lanes.errors import NotLowerable
from epvf.tasks.engines.lanes.graph import BOOL, DTYPES, FLOAT, INT, UINT, Graph, Node
from epvf.tasks.engines.lanes.linear import Linear

MAX_NODES = 1_500_000
"""Largest graph, dead nodes included."""

MAX_CHOICES = 128
"""Most elements among which an index that is not constant may choose."""

Arrays: TypeAlias = list[np.ndarray]
"""Arrays of nodes."""
Equation: TypeAlias = Any
"""A `JaxprEqn`, whose variables have shapes and types."""
Rule: TypeAlias = "Callable[[Scalariser, Equation, Arrays], np.ndarray | Arrays]"


class Scalariser:
    """Runs jaxprs on arrays of nodes."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.linear = Linear(graph)

    def closed(self, jaxpr: ClosedJaxpr, args: Arrays) -> Arrays:
        """The outputs of a jaxpr with its constants."""
        return self.run(jaxpr.jaxpr, [self.lift(const) for const in jaxpr.consts], args)

    def run(self, jaxpr: Jaxpr, consts: Arrays, args: Arrays) -> Arrays:
        """The outputs of a jaxpr.

        Raises:
            NotLowerable: if a primitive or a type has no place in a program of lanes, or the graph
                becomes too large.
        """
        known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

        def read(variable: Any) -> np.ndarray:
            if isinstance(variable, Literal):
                aval: Any = variable.aval
                return self.lift(np.asarray(variable.val, aval.dtype))
            return known[variable]

        for equation in jaxpr.eqns:
            results = self._equation(equation, [read(x) for x in equation.invars])
            known.update(zip(equation.outvars, results, strict=True))
        return [read(x) for x in jaxpr.outvars]

    def lift(self, array: Any) -> np.ndarray:
        """An array of constants."""
        array = np.asarray(array)
        kind = kind_of(array.dtype)
        array = array.astype(DTYPES[kind])
        flat = array.ravel().view(np.uint8 if kind == BOOL else np.uint32)
        different, places = np.unique(flat, return_inverse=True)
        numbers = different.view(array.dtype)
        nodes = np.array([self.graph.const(number, kind) for number in numbers], np.int64)
        return nodes[places].reshape(array.shape)

    def constant(self, nodes: np.ndarray, dtype: Any) -> np.ndarray | None:
        """The numbers, if all of them are constant."""
        flat = nodes.ravel().tolist()
        if not all(map(self.graph.is_const, flat)):
            return None
        return np.array([self.graph.value(node) for node in flat], dtype).reshape(nodes.shape)

    def _equation(self, equation: Equation, args: Arrays) -> Arrays:
        name = equation.primitive.name
        rule = RULES.get(name)
        made: Any = None
        if rule is not None:
            made = rule(self, equation, args)
        elif (inner := _inner(equation)) is not None:
            made = self.closed(inner, args)
        else:
            made = self._folded(equation, args)
        if len(self.graph) > MAX_NODES:
            raise NotLowerable(
                f"a step has more than {MAX_NODES:,} scalar operations, at primitive {name!r}"
            )
        return made if isinstance(made, list) else [made]

    def _folded(self, equation: Equation, args: Arrays) -> Arrays:
        """The results of a primitive of constants alone, by JAX."""
        numbers = [
            self.constant(array, variable.aval.dtype)
            for array, variable in zip(args, equation.invars, strict=True)
        ]
        name = equation.primitive.name
        if any(array is None for array in numbers):
            raise NotLowerable(f"primitive {name!r} of JAX has no rule for numbers that vary")
        made = equation.primitive.bind(*map(jnp.asarray, numbers), **equation.params)
        parts = made if equation.primitive.multiple_results else [made]
        return [self.lift(part) for part in parts]


def kind_of(dtype: Any) -> str:
    """The kind of number in an array.

    Raises:
        NotLowerable: if it is none that a lane holds.
    """
    for kind, own in DTYPES.items():
        if dtype == own:
            return kind
    small = {"int8": INT, "int16": INT, "uint8": UINT, "uint16": UINT}.get(str(dtype))
    if small is None:
        raise NotLowerable(
            f"a step has numbers of type {dtype}, but lanes hold float32, int32, uint32 and bool"
        )
    return small


def elementwise(function: Callable[..., Node], *arrays: np.ndarray) -> np.ndarray:
    """Applies a function of nodes to all elements, with broadcasting."""
    if any(array.shape != arrays[0].shape for array in arrays):
        arrays = tuple(np.broadcast_arrays(*arrays))
    columns = [array.ravel().tolist() for array in arrays]
    made = [function(*nodes) for nodes in zip(*columns, strict=True)]
    return np.array(made, np.int64).reshape(arrays[0].shape)


def _inner(equation: Equation) -> ClosedJaxpr | None:
    """The program that a primitive such as `jit` or `custom_jvp_call` runs."""
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = equation.params.get(name)
        if isinstance(inner, ClosedJaxpr):
            return inner
        if isinstance(inner, Jaxpr):
            return ClosedJaxpr(inner, ())
    return None


# rules: of elements


def _graph_rule(method: str) -> Rule:
    def rule(s: Scalariser, e: Equation, args: Arrays) -> np.ndarray:
        return elementwise(getattr(s.graph, method), *args)

    return rule


def _unary_rule(op: str) -> Rule:
    def rule(s: Scalariser, e: Equation, args: Arrays) -> np.ndarray:
        return elementwise(functools.partial(s.graph.unary, op), *args)

    return rule


def _compare_rule(op: str) -> Rule:
    def rule(s: Scalariser, e: Equation, args: Arrays) -> np.ndarray:
        return elementwise(functools.partial(s.graph.compare, op), *args)

    return rule


def _composed_rule(function: Callable[..., Node]) -> Rule:
    def rule(s: Scalariser, e: Equation, args: Arrays) -> np.ndarray:
        return elementwise(functools.partial(function, s.graph), *args)

    return rule


def _bits_rule(logical: str, bitwise: str) -> Rule:
    def function(graph: Graph, a: Node, *others: Node) -> Node:
        if graph.kinds[a] == BOOL:
            made: Node = getattr(graph, logical)(a, *others)
            return made
        if others:
            return graph.binary(bitwise, a, *others)
        return graph.binary("bitxor", a, graph.const(_ONES[graph.kinds[a]], graph.kinds[a]))

    return _composed_rule(function)


_ONES = {INT: -1, UINT: 0xFFFFFFFF}


def _xor(graph: Graph, a: Node, b: Node) -> Node:
    if graph.kinds[a] == BOOL:
        return graph.compare("ne", a, b)
    return graph.binary("bitxor", a, b)


def _shift_left(graph: Graph, a: Node, b: Node) -> Node:
    return graph.binary("shl", a, b)


def _shift_logical(graph: Graph, a: Node, b: Node) -> Node:
    kind = graph.kinds[a]
    made = graph.binary("shr", graph.bitcast(a, UINT), graph.bitcast(b, UINT))
    return graph.bitcast(made, kind)


def _shift_arithmetic(graph: Graph, a: Node, b: Node) -> Node:
    kind = graph.kinds[a]
    made = graph.binary("shr", graph.bitcast(a, INT), graph.bitcast(b, INT))
    return graph.bitcast(made, kind)


def _sign(graph: Graph, a: Node) -> Node:
    kind = graph.kinds[a]
    zero, below = graph.zero(kind), a  # zeros keep their sign, and NaN stays
    if kind != UINT:
        below = graph.select(graph.compare("lt", a, zero), graph.const(-1, kind), a)
    return graph.select(graph.compare("lt", zero, a), graph.one(kind), below)


def _reciprocal_root(graph: Graph, a: Node) -> Node:
    return graph.div(graph.one(FLOAT), graph.unary("sqrt", a))


def _logistic(graph: Graph, a: Node) -> Node:
    one = graph.one(FLOAT)
    return graph.div(one, graph.add(one, graph.unary("exp", graph.neg(a))))


def _log1p(graph: Graph, a: Node) -> Node:
    """By Kahan's correction of what 1 + a loses."""
    if graph.is_const(a):
        return graph.unary("log1p", a)
    one = graph.one(FLOAT)
    sum_ = graph.add(one, a)
    corrected = graph.mul(graph.unary("log", sum_), graph.div(a, graph.sub(sum_, one)))
    return graph.select(graph.compare("eq", sum_, one), a, corrected)


def _exp2(graph: Graph, a: Node) -> Node:
    return graph.unary("exp", graph.mul(graph.const(np.log(2), FLOAT), a))


def _tan(graph: Graph, a: Node) -> Node:
    return graph.div(graph.unary("sin", a), graph.unary("cos", a))


def _atan(graph: Graph, a: Node) -> Node:
    return graph.binary("atan2", a, graph.one(FLOAT))


def _other_side(graph: Graph, a: Node) -> Node:
    """sqrt(1 - a²), exact near 1."""
    one = graph.one(FLOAT)
    return graph.unary("sqrt", graph.mul(graph.sub(one, a), graph.add(one, a)))


def _asin(graph: Graph, a: Node) -> Node:
    return graph.binary("atan2", a, _other_side(graph, a))


def _acos(graph: Graph, a: Node) -> Node:
    return graph.binary("atan2", _other_side(graph, a), a)


def _pow(graph: Graph, a: Node, b: Node) -> Node:
    """Powers; of a variable exponent only of bases that are not negative."""
    if graph.is_const(b):
        exponent = float(graph.value(b))
        if exponent == int(exponent) and abs(exponent) <= 16:
            return graph.power(a, int(exponent))
        if exponent == 0.5:
            return graph.unary("sqrt", a)
    if graph.is_const(a) and graph.is_const(b):
        return graph.binary("pow", a, graph.convert(b, FLOAT))
    return graph.unary("exp", graph.mul(graph.convert(b, FLOAT), graph.unary("log", a)))


def _clamp(graph: Graph, low: Node, x: Node, high: Node) -> Node:
    return graph.minimum(high, graph.maximum(low, x))


def _square(graph: Graph, a: Node) -> Node:
    return graph.mul(a, a)


def _integer_pow(s: Scalariser, e: Equation, args: Arrays) -> np.ndarray:
    return elementwise(lambda a: s.graph.power(a, e.params["y"]), *args)


def _convert(s: Scalariser, e: Equation, args: Arrays) -> np.ndarray:
    kind = kind_of(e.params["new_dtype"])
    return elementwise(lambda a: s.graph.convert(a, kind), *args)


def _bitcast(s: Scalariser, e: Equation, args: Arrays) -> np.ndarray:
    kind = kind_of(e.params["new_dtype"])
    return elementwise(lambda a: s.graph.bitcast(a, kind), *args)


def _round(s: Scalariser, e: Equation, args: Arrays) -> np.ndarray:
    if int(e.params["rounding_method"]) == 1:  # to even
        return elementwise(lambda a: s.graph.unary("round", a), *args)
    half = s.graph.const(0.5, FLOAT)

    def away(a: Node) -> Node:
        size = s.graph.unary("floor", s.graph.add(s.graph.unary("abs", a), half))
        return s.graph.mul(_sign(s.graph, a), size)

    return elementwise(away, *args)


def _select_n(s: Scalariser, e: Equation, args: Arrays) -> np.ndarray:
    graph, (which, *cases) = s.graph, args

    def choose(index: Node, *numbers: Node) -> Node:
        if graph.kinds[index] == BOOL:
            return graph.select(index, numbers[-1], numbers[0])
        chosen = numbers[-1]
        for k in reversed(range(len(numbers) - 1)):
            mask = graph.compare("eq", index, graph.const(k, graph.kinds[index]))
            chosen = graph.select(mask, numbers[k], chosen)
        return chosen

    return elementwise(choose, which, *cases)


# rules: of places


def _slice(s: Scalariser, e: Equation, args: Arrays) -> np.ndarray:
    start, limit = e.params["start_indices"], e.params["limit_indices"]
    strides = e.params["strides"] or (1,) * len(start)
    return args[0][tuple(map(slice, start, limit, strides))]


def _reshape(s: Scalariser, e: Equation, args: Arrays) -> np.ndarray:
    return args[0].reshape(e.outvars[0].aval.shape)


def _broadcast(s: Scalariser, e: Equation, args: Arrays) -> np.ndarray:
    return indexing.broadcast_in_dim(args[0], e.params["shape"], e.params["broadcast_dimensions"])


def _transpose(s: Scalariser, e: Equation, args: Arrays) -> np.ndarray:
    return args[0].transpose(e.params["permutation"])


def _rev(s: Scalariser, e: Equation, args: Arrays) -> np.ndarray:
    return np.flip(args[0], e.params["dimensions"])


def _concatenate(s: Scalariser, e: Equation, args: Arrays) -> np.ndarray:
    return np.concatenate(args, e.params["dimension"])


def _stack(s: Scalariser, e: Equation, args: Arrays) -> np.ndarray:
    return np.stack(args, e.params.get("axis", e.params.get("dimension", 0)))


def _tile(s: Scalariser, e: Equation, args: Arrays) -> np.ndarray:
    return np.tile(args[0], e.params["reps"])


def _split(s: Scalariser, e: Equation, args: Arrays) -> Arrays:
    ends = np.cumsum(e.params["sizes"])[:-1]
    return list(np.split(args[0], ends, e.params["axis"]))


def _pad(s: Scalariser, e: Equation, args: Arrays) -> np.ndarray:
    return indexing.pad(args[0], int(args[1]), e.params["padding_config"])


def _iota(s: Scalariser, e: Equation, args: Arrays) -> np.ndarray:
    shape, dimension = e.params["shape"], e.params["dimension"]
    line = np.arange(shape[dimension]).astype(e.params["dtype"])
    return indexing.broadcast_in_dim(s.lift(line), shape, (dimension,))


def _same(s: Scalariser, e: Equation, args: Arrays) -> Arrays:
    return args


def _gather(s: Scalariser, e: Equation, args: Arrays) -> np.ndarray:
    operand, indices = args
    kind = kind_of(e.invars[0].aval.dtype)
    fill = e.params.get("fill_value")
    if fill is None:
        fill = {FLOAT: np.nan, INT: np.iinfo(np.int32).min, UINT: 0xFFFFFFFF, BOOL: True}[kind]
    filling = s.graph.const(fill, kind)
    mode, sizes = e.params["mode"], e.params["slice_sizes"]

    def take(numbers: np.ndarray) -> np.ndarray:
        dims = e.params["dimension_numbers"]
        return indexing.gather(operand, numbers, dims, sizes, mode, filling)

    return _indexed(s, e, indices, operand.shape, take)


def _dynamic_slice(s: Scalariser, e: Equation, args: Arrays) -> np.ndarray:
    operand, *starts = args
    sizes = e.params["slice_sizes"]
    indices = np.array([int(start) for start in starts], np.int64)

    def take(numbers: np.ndarray) -> np.ndarray:
        return indexing.dynamic_slice(operand, numbers.tolist(), sizes)

    return _indexed(s, e, indices, operand.shape, take)


def _dynamic_update_slice(s: Scalariser, e: Equation, args: Arrays) -> np.ndarray:
    operand, update, *starts = args
    indices = np.array([int(start) for start in starts], np.int64)

    def put(numbers: np.ndarray) -> np.ndarray:
        return indexing.dynamic_update_slice(operand, update, numbers.tolist())

    return _indexed(s, e, indices, operand.shape, put)


def _scatter_rule(method: str | None) -> Rule:
    def rule(s: Scalariser, e: Equation, args: Arrays) -> np.ndarray:
        operand, indices, updates = args

        def combine(old: Any, new: Any) -> Any:
            return new if method is None else getattr(s.graph, method)(int(old), int(new))

        def put(numbers: np.ndarray) -> np.ndarray:
            dims, mode = e.params["dimension_numbers"], e.params["mode"]
            return indexing.scatter(operand, numbers, updates, dims, mode, combine)

        return _indexed(s, e, indices, operand.shape, put)

    return rule


def _indexed(
    s: Scalariser,
    e: Equation,
    indices: np.ndarray,
    shape: Sequence[int],
    function: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """A function of indices; where these vary, a choice among what it is for each they may be."""
    numbers = s.constant(indices, np.int64)
    if numbers is not None:
        return function(numbers)
    graph = s.graph
    variable = next(node for node in indices.ravel().tolist() if not graph.is_const(node))

    def given(node: Node) -> np.ndarray:
        return _indexed(s, e, np.where(indices == variable, node, indices), shape, function)

    def choose(mask: Node, yes: np.ndarray, no: np.ndarray) -> np.ndarray:
        return elementwise(lambda a, b: graph.select(mask, a, b), yes, no)

    if graph.ops[variable] == "select":
        mask, yes, no = graph.args[variable]
        return choose(mask, given(yes), given(no))
    room, kind = max(shape), graph.kinds[variable]
    varying = {node for node in indices.ravel().tolist() if not graph.is_const(node)}
    if room ** len(varying) > MAX_CHOICES:
        raise NotLowerable(
            f"primitive {e.primitive.name!r} is given indices that vary, into an array of shape "
            f"{list(shape)}: more than {MAX_CHOICES} cases"
        )
    # outside: an index below 0 and one past the end
    out = choose(
        graph.compare("lt", variable, graph.zero(kind)),
        given(graph.const(-1, INT)),
        given(graph.const(room, INT)),
    )
    for number in range(room):
        mask = graph.compare("eq", variable, graph.const(number, kind))
        out = choose(mask, given(graph.const(number, INT)), out)
    return out


# rules: of many elements


def _reduce_rule(method: str, empty: Any = None) -> Rule:
    def rule(s: Scalariser, e: Equation, args: Arrays) -> np.ndarray:
        axes = tuple(e.params["axes"])
        rest = [d for d in range(args[0].ndim) if d not in axes]
        rows = args[0].transpose([*rest, *axes])
        rows = rows.reshape([*(args[0].shape[d] for d in rest), -1])
        function = getattr(s.graph, method)
        out = np.empty(rows.shape[:-1], np.int64)
        for at in np.ndindex(*out.shape):
            numbers = rows[at].tolist()
            if not numbers:
                numbers = [s.graph.const(empty, kind_of(e.invars[0].aval.dtype))]
            out[at] = functools.reduce(function, numbers)
        return out

    return rule


def _cumulative_rule(method: str) -> Rule:
    def rule(s: Scalariser, e: Equation, args: Arrays) -> np.ndarray:
        out = args[0].copy()
        rows = np.moveaxis(out, e.params["axis"], 0)
        rows = rows[::-1] if e.params["reverse"] else rows
        for k in range(1, len(rows)):
            rows[k] = elementwise(getattr(s.graph, method), rows[k - 1], rows[k])
        return out

    return rule


def _arg_rule(op: str) -> Rule:
    """The index of the first extreme."""

    def rule(s: Scalariser, e: Equation, args: Arrays) -> np.ndarray:
        graph = s.graph
        rows = np.moveaxis(args[0], e.params["axes"][0], -1)
        kind = kind_of(e.params["index_dtype"])
        out = np.empty(rows.shape[:-1], np.int64)
        for at in np.ndindex(*out.shape):
            best, *others = rows[at].tolist()
            index = graph.zero(kind)
            for k, number in enumerate(others, 1):
                better = graph.compare(op, number, best)
                best = graph.select(better, number, best)
                index = graph.select(better, graph.const(k, kind), index)
            out[at] = index
        return out

    return rule


def _dot_general(s: Scalariser, e: Equation, args: Arrays) -> np.ndarray:
    a, b = args
    return s.linear.dot_general(a, b, e.params["dimension_numbers"])


def _cholesky(s: Scalariser, e: Equation, args: Arrays) -> np.ndarray:
    return s.linear.cholesky(args[0])


def _triangular_solve(s: Scalariser, e: Equation, args: Arrays) -> np.ndarray:
    a, b = args
    return s.linear.triangular_solve(a, b, e.params)


def _loop_rule(function: Callable[..., Arrays]) -> Rule:
    def rule(s: Scalariser, e: Equation, args: Arrays) -> Arrays:
        return function(s, e.params, args)

    return rule


RULES: dict[str, Rule] = {
    "abs": _unary_rule("abs"),
    "acos": _composed_rule(_acos),
    "add": _graph_rule("add"),
    "add_any": _graph_rule("add"),
    "and": _bits_rule("logical_and", "bitand"),
    "argmax": _arg_rule("gt"),
    "argmin": _arg_rule("lt"),
    "asin": _composed_rule(_asin),
    "atan": _composed_rule(_atan),
    "atan2": _composed_rule(lambda graph, a, b: graph.binary("atan2", a, b)),
    "bitcast_convert_type": _bitcast,
    "broadcast_in_dim": _broadcast,
    "ceil": _unary_rule("ceil"),
    "cholesky": _cholesky,
    "clamp": _composed_rule(_clamp),
    "concatenate": _concatenate,
    "cond": _loop_rule(loops.cond),
    "convert_element_type": _convert,
    "copy": _same,
    "copy_p": _same,
    "cos": _unary_rule("cos"),
    "cummax": _cumulative_rule("maximum"),
    "cummin": _cumulative_rule("minimum"),
    "cumprod": _cumulative_rule("mul"),
    "cumsum": _cumulative_rule("add"),
    "div": _graph_rule("div"),
    "dot_general": _dot_general,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "eq": _compare_rule("eq"),
    "exp": _unary_rule("exp"),
    "exp2": _composed_rule(_exp2),
    "expand_dims": _reshape,
    "expm1": _unary_rule("expm1"),
    "floor": _unary_rule("floor"),
    "gather": _gather,
    "ge": _compare_rule("ge"),
    "gt": _compare_rule("gt"),
    "integer_pow": _integer_pow,
    "iota": _iota,
    "is_finite": _graph_rule("is_finite"),
    "le": _compare_rule("le"),
    "log": _unary_rule("log"),
    "log1p": _composed_rule(_log1p),
    "logistic": _composed_rule(_logistic),
    "lt": _compare_rule("lt"),
    "max": _graph_rule("maximum"),
    "min": _graph_rule("minimum"),
    "mul": _graph_rule("mul"),
    "ne": _compare_rule("ne"),
    "neg": _graph_rule("neg"),
    "not": _bits_rule("logical_not", "bitnot"),
    "optimization_barrier": _same,
    "or": _bits_rule("logical_or", "bitor"),
    "pad": _pad,
    "pow": _composed_rule(_pow),
    "reduce_and": _reduce_rule("logical_and", True),
    "reduce_max": _reduce_rule("maximum"),
    "reduce_min": _reduce_rule("minimum"),
    "reduce_or": _reduce_rule("logical_or", False),
    "reduce_prod": _reduce_rule("mul", 1),
    "reduce_sum": _reduce_rule("add", 0),
    "rem": _graph_rule("rem"),
    "reshape": _reshape,
    "rev": _rev,
    "round": _round,
    "rsqrt": _composed_rule(_reciprocal_root),
    "scan": _loop_rule(loops.scan),
    "scatter": _scatter_rule(None),
    "scatter-add": _scatter_rule("add"),
    "scatter-max": _scatter_rule("maximum"),
    "scatter-min": _scatter_rule("minimum"),
    "scatter-mul": _scatter_rule("mul"),
    "scatter_add": _scatter_rule("add"),
    "scatter_max": _scatter_rule("maximum"),
    "scatter_min": _scatter_rule("minimum"),
    "scatter_mul": _scatter_rule("mul"),
    "select_n": _select_n,
    "shift_left": _composed_rule(_shift_left),
    "shift_right_arithmetic": _composed_rule(_shift_arithmetic),
    "shift_right_logical": _composed_rule(_shift_logical),
    "sign": _composed_rule(_sign),
    "sin": _unary_rule("sin"),
    "slice": _slice,
    "split": _split,
    "sqrt": _unary_rule("sqrt"),
    "square": _composed_rule(_square),
    "squeeze": _reshape,
    "stack": _stack,
    "stop_gradient": _same,
    "sub": _graph_rule("sub"),
    "tan": _composed_rule(_tan),
    "tanh": _unary_rule("tanh"),
    "tile": _tile,
    "transpose": _transpose,
    "triangular_solve": _triangular_solve,
    "while": _loop_rule(loops.while_loop),
    "xor": _composed_rule(_xor),
}
"""How each primitive is computed, by its name in JAX."""
