"""`while`, `scan` and `cond`: loops in which every lane stops by itself.

A lane keeps its numbers once its own condition is false, and the loop ends when no lane goes on, so
a lane's result never depends on its neighbours. Both branches of a `cond` are computed.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from epvf.tasks.engines.lanes.graph import BOOL, INT, Graph, Loop, Node

UNROLLED = 8
"""Longest `scan` that is written out, unless a step of it can be its last, or is large."""

CHOICES = 100
"""Most numbers among which the steps of a `scan` may choose what is their own."""

LARGE = 2000
"""Nodes that a step of a `scan` may make to be written out more than once."""

Arrays: TypeAlias = list[np.ndarray]


class Runner(Protocol):
    """What traces the bodies of loops."""

    graph: Graph

    def closed(self, jaxpr: Any, args: Arrays) -> Arrays: ...


def while_loop(runner: Runner, params: dict[str, Any], args: Arrays) -> Arrays:
    """`lax.while_loop`."""
    condition, body = params["cond_jaxpr"], params["body_jaxpr"]
    first, second = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    of_condition, of_body, carry = args[:first], args[first:second], args[second:]

    def goes_on(numbers: list[Node]) -> Node:
        return int(runner.closed(condition, of_condition + _shaped(numbers, carry))[0])

    def advance(numbers: list[Node]) -> list[Node]:
        return _flat(runner.closed(body, of_body + _shaped(numbers, carry)))

    return _shaped(_loop(runner.graph, _flat(carry), goes_on, advance), carry)


def scan(runner: Runner, params: dict[str, Any], args: Arrays) -> Arrays:
    """`lax.scan`: as a loop where it is long, or may end early; otherwise written out."""
    num_consts, num_carry = _counts(params)
    rest = args[num_consts:]
    carry, inputs = rest[:num_carry], rest[num_carry:]
    few = sum(x.size for x in inputs) <= CHOICES
    if few and len(params["jaxpr"].out_avals) == num_carry and params["length"] > 1:
        looped = _scan_loop(runner, params, args[:num_consts], carry, inputs)
        if looped is not None:
            return looped
    return _unrolled(runner, params, args)


def cond(runner: Runner, params: dict[str, Any], args: Arrays) -> Arrays:
    """`lax.cond` and `lax.switch`."""
    graph, index, branches = runner.graph, int(args[0]), params["branches"]
    last = len(branches) - 1
    if graph.is_const(index):
        chosen = min(max(int(graph.value(index)), 0), last)
        return runner.closed(branches[chosen], args[1:])
    results = [runner.closed(branch, args[1:]) for branch in branches]
    out = results[last]
    for number in reversed(range(last)):
        # what is out of range goes to the nearest branch
        op = "le" if number == 0 else "eq"
        mask = graph.compare(op, index, graph.const(number, graph.kinds[index]))
        out = [
            _each(lambda yes, no: graph.select(mask, yes, no), yes, no)  # noqa: B023
            for yes, no in zip(results[number], out, strict=True)
        ]
    return out


def _counts(params: dict[str, Any]) -> tuple[int, int]:
    """How many of a scan's arguments are constants, and how many are carried on."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()  # since JAX 0.11
    return len(consts), len(carry)


def _scan_loop(
    runner: Runner, params: dict[str, Any], consts: Arrays, carry: Arrays, inputs: Arrays
) -> Arrays | None:
    """A scan without outputs of its steps as a loop, if that is worth it."""
    graph, jaxpr, length = runner.graph, params["jaxpr"], params["length"]
    ends_early = False
    largest = 0
    made: dict[tuple[Node, ...], list[Node]] = {}

    def advance(numbers: list[Node]) -> list[Node]:
        nonlocal largest
        if (known := made.get(tuple(numbers))) is not None:
            return known
        *inner, count = numbers
        before = len(graph)
        own = [_at(graph, x, count, params["reverse"]) for x in inputs]
        out = _flat(runner.closed(jaxpr, consts + _shaped(inner, carry) + own))
        largest = max(largest, len(graph) - before)
        made[tuple(numbers)] = result = [*out, graph.add(count, graph.one(INT))]
        return result

    def goes_on(numbers: list[Node]) -> Node:
        nonlocal ends_early
        more = graph.compare("lt", numbers[-1], graph.const(length, INT))
        changes = _changes(graph, numbers[:-1], advance(numbers)[:-1])
        ends_early = changes is not None
        return more if changes is None else graph.logical_and(more, changes)

    out = _loop(graph, [*_flat(carry), graph.zero(INT)], goes_on, advance)
    worth_it = largest > LARGE or (not inputs and (ends_early or length > UNROLLED))
    return _shaped(out[:-1], carry) if worth_it else None


def _at(graph: Graph, rows: np.ndarray, count: Node, reverse: bool) -> np.ndarray:
    """The row of a step."""
    rows = rows[::-1] if reverse else rows
    if graph.is_const(count):
        return rows[int(graph.value(count))]
    chosen = rows[-1]
    for number in reversed(range(len(rows) - 1)):
        mask = graph.compare("eq", count, graph.const(number, INT))
        chosen = _each(lambda yes, no: graph.select(mask, yes, no), rows[number], chosen)  # noqa: B023
    return chosen


def _changes(graph: Graph, before: Sequence[Node], after: Sequence[Node]) -> Node | None:
    """The one condition under which a step changes anything, if there is one."""
    found: set[Node | None] = set()
    for old, new in zip(before, after, strict=True):
        if old != new:
            found.add(_changed_if(graph, old, new))
    return found.pop() if len(found) == 1 else None


def _changed_if(graph: Graph, old: Node, new: Node) -> Node | None:
    """The mask outside of which `new` is `old`."""
    op, args = graph.ops[new], graph.args[new]
    if op == "select" and args[2] == old:
        return args[0]
    if op == "select" and args[1] == old:
        return graph.logical_not(args[0])
    if op == "and" and old in args:  # what is false stays so
        return old
    if op == "or":
        for chosen, kept in (args, args[::-1]):
            if (
                graph.ops[kept] != "and"
                or graph.ops[chosen] != "and"
                or old not in graph.args[kept]
            ):
                continue
            other = next((node for node in graph.args[kept] if node != old), old)
            mask = graph.logical_not(other)
            if mask in graph.args[chosen]:
                return mask
    return None


def _unrolled(runner: Runner, params: dict[str, Any], args: Arrays) -> Arrays:
    num_consts, num_carry = _counts(params)
    consts, carry = args[:num_consts], args[num_consts : num_consts + num_carry]
    inputs = args[num_consts + num_carry :]
    steps = range(params["length"])
    outputs: list[Arrays] = []
    for step in reversed(steps) if params["reverse"] else steps:
        out = runner.closed(params["jaxpr"], consts + carry + [x[step] for x in inputs])
        carry, made = out[: len(carry)], out[len(carry) :]
        outputs.append(made)
    if params["reverse"]:
        outputs.reverse()
    if not outputs:
        avals = params["jaxpr"].out_avals[len(carry) :]
        return carry + [np.zeros((0, *aval.shape), np.int64) for aval in avals]
    return carry + [np.stack(column) for column in zip(*outputs, strict=True)]


def _loop(
    graph: Graph,
    initial: list[Node],
    goes_on: Callable[[list[Node]], Node],
    advance: Callable[[list[Node]], list[Node]],
) -> list[Node]:
    """What the numbers are after the loop.

    At first none is taken to vary; one that a round changes does, and the body is traced anew,
    until nothing else changes. So what stays is known, and folds.
    """
    variables: dict[int, Node] = {}
    while True:
        numbers = [variables.get(k, node) for k, node in enumerate(initial)]
        condition = goes_on(numbers)
        if graph.is_const(condition) and not graph.value(condition):
            return initial
        updates = advance(numbers)
        changed = [k for k, node in enumerate(updates) if node != numbers[k]]
        new = [k for k in changed if k not in variables]
        if not new:
            break
        for k in new:
            variables[k] = graph.fresh("variable", graph.kinds[initial[k]])
    if not variables:
        return initial
    places = sorted(variables)
    node = graph.fresh("loop", BOOL)
    graph.loops[node] = Loop(
        {k: variables[k] for k in places},
        {k: initial[k] for k in places},
        condition,
        {k: updates[k] for k in places},
    )
    out = list(initial)
    for k in places:
        out[k] = graph.result(node, k, graph.kinds[initial[k]])
    return out


def _each(function: Callable[..., Node], *arrays: np.ndarray) -> np.ndarray:
    columns = [array.ravel().tolist() for array in arrays]
    made = [function(*numbers) for numbers in zip(*columns, strict=True)]
    return np.array(made, np.int64).reshape(arrays[0].shape)


def _flat(arrays: Arrays) -> list[Node]:
    return [node for array in arrays for node in np.ravel(array).tolist()]


def _shaped(numbers: Sequence[Node], like: Arrays) -> Arrays:
    out, start = [], 0
    for array in like:
        part = numbers[start : start + array.size]
        out.append(np.array(part, np.int64).reshape(array.shape))
        start += array.size
    return out
