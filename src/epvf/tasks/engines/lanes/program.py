"""An environment as machine code: its step and what is seen of a state, traced and compiled.

Four functions of arrays in which a number of all lanes lies together:

    observe(state, observation)
    step(state, action, next, outcome)      the outcome: reward, and whether the state is terminal
    tick(outcome, totals, steps, limit)     counts a step and adds its reward, if that is finite;
                                            returns the lanes whose episode is over, as bits
    flush(mode)                             sets how the processor treats denormal numbers
"""

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jaxtyping import Int

from epvf.tasks.base import TaskSpec
from epvf.tasks.engines.environment import Environment, State
from epvf.tasks.engines.lanes import llvm
from epvf.tasks.engines.lanes.errors import NotLowerable
from epvf.tasks.engines.lanes.graph import BOOL, DTYPES, FLOAT, Graph, Node
from epvf.tasks.engines.lanes.llvm import Lanes, Writer
from epvf.tasks.engines.lanes.objects import Code, Target, code, kept
from epvf.tasks.engines.lanes.scalarise import Scalariser, kind_of

FLUSH = 0x9FC0
"""For the control register of x86: denormal numbers count as 0, as in XLA's programs."""


@dataclass(frozen=True)
class Layout:
    """How a state, a pytree, lies in a row of 32-bit numbers."""

    tree: Any
    leaves: tuple[jax.ShapeDtypeStruct, ...]

    @property
    def size(self) -> int:
        """Numbers in a state."""
        return sum(int(np.prod(leaf.shape, dtype=int)) for leaf in self.leaves)

    def pack(self, states: State) -> Int[np.ndarray, "N state"]:
        """The bits of states with a leading axis, a row each."""
        columns = []
        for array, leaf in zip(jax.tree.leaves(states), self.leaves, strict=True):
            own = np.ascontiguousarray(array, DTYPES[kind_of(leaf.dtype)])
            bits = own.astype(np.int32) if own.dtype == bool else own.view(np.int32)
            columns.append(bits.reshape(len(bits), -1))
        return np.concatenate(columns, axis=1) if columns else np.zeros((1, 0), np.int32)

    def unpack(self, rows: Int[np.ndarray, "N state"]) -> State:
        """States from the bits of their rows."""
        arrays, start = [], 0
        for leaf in self.leaves:
            size = int(np.prod(leaf.shape, dtype=int))
            bits = np.ascontiguousarray(rows[:, start : start + size])
            kind = kind_of(leaf.dtype)
            own = bits.astype(bool) if kind == BOOL else bits.view(DTYPES[kind])
            arrays.append(own.astype(leaf.dtype).reshape(len(rows), *leaf.shape))
            start += size
        return jax.tree.unflatten(self.tree, arrays)


class Function(NamedTuple):
    """What is computed of arrays of nodes, by the arrays' names; see `llvm.write`."""

    graph: Graph
    inputs: dict[str, llvm.Slots]
    outputs: dict[str, llvm.Slots]

    def text(self, name: str, lanes: Lanes) -> str:
        """As a function of pointers."""
        return llvm.function(self.graph, lanes, name, self.inputs, self.outputs)


@dataclass(frozen=True)
class Program:
    """A task's environment for a processor.

    Attributes:
        environment: its functions.
        spec: the task's numbers.
        target: the processor.
        about: a string that is equal only for environments that compute the same; None: not known.

    Raises:
        NotLowerable: when `code` is first asked for, if the step cannot become such a program.
    """

    environment: Environment
    spec: TaskSpec
    target: Target
    about: str | None = None

    @cached_property
    def layout(self) -> Layout:
        """Of the environment's state."""
        shapes = jax.eval_shape(self.environment.reset, jax.random.key(0))
        leaves, tree = jax.tree.flatten(shapes)
        for leaf in leaves:
            kind_of(leaf.dtype)
        return Layout(tree, tuple(leaves))

    @cached_property
    def code(self) -> Code:
        """The machine code, compiled or from disk."""
        return code(self.fingerprint, lambda: self._text(*self.traced), self.target)

    @property
    def kept(self) -> bool:
        """Whether machine code for the host is on disk, so that nothing needs to be traced."""
        return self.about is not None and kept(self.fingerprint, self.target)

    @property
    def fingerprint(self) -> str:
        """All that decides what the program computes; traced for, where it is not known."""
        if self.about is None:
            return _fingerprint(*self.traced)
        sizes = (self.spec.observation_size, self.spec.action_size, self.spec.discrete)
        return f"{self.about} {sizes}"

    def graphs(self) -> tuple[Function, Function]:
        """The step and what is seen of a state, made anew: writing them changes them.

        Raises:
            NotLowerable: if the step cannot become such a program.
        """
        step, observe = self.traced
        return _step(step, self.layout), _observe(observe)

    @cached_property
    def traced(self) -> tuple[ClosedJaxpr, ClosedJaxpr]:
        """The step and what is seen of a state."""
        return self._trace()

    def _trace(self) -> tuple[ClosedJaxpr, ClosedJaxpr]:
        layout = self.layout
        state = jax.tree.unflatten(layout.tree, layout.leaves)
        action = jax.ShapeDtypeStruct((self.spec.action_size,), jnp.float32)
        if self.spec.discrete:
            action = jax.ShapeDtypeStruct((), jnp.int32)
        with jax.default_matmul_precision("highest"):
            step: Any = jax.make_jaxpr(self.environment.step)(state, action)
            observe: Any = jax.make_jaxpr(self.environment.observe)(state)
        self._check(step, observe)
        return step, observe

    def _check(self, step: ClosedJaxpr, observe: ClosedJaxpr) -> None:
        before = [(leaf.shape, leaf.dtype) for leaf in self.layout.leaves]
        after = [(aval.shape, aval.dtype) for aval in step.out_avals[:-2]]
        if before != after:
            raise NotLowerable(f"a step makes a state of {after} of one of {before}")
        if any(aval.shape for aval in step.out_avals[-2:]):
            raise NotLowerable("a step's reward and end are not single numbers")
        seen = [aval.shape for aval in observe.out_avals]
        if seen != [(self.spec.observation_size,)]:
            raise NotLowerable(f"observations have shapes {seen}, not one row of the task's size")

    def _text(self, step: ClosedJaxpr, observe: ClosedJaxpr) -> str:
        lanes = self.target.lanes
        functions = [
            _step(step, self.layout).text("step", lanes),
            _observe(observe).text("observe", lanes),
        ]
        return "\n".join([llvm.header(lanes), *functions, _tick(lanes), _flush()])


def inputs(graph: Graph, avals: Sequence[Any]) -> list[np.ndarray]:
    """Arrays of nodes for the inputs of a program."""
    arrays = []
    for aval in avals:
        kind = kind_of(aval.dtype)
        size = int(np.prod(aval.shape, dtype=int))
        nodes = [graph.fresh("input", kind) for _ in range(size)]
        arrays.append(np.array(nodes, np.int64).reshape(aval.shape))
    return arrays


def slots(arrays: Sequence[np.ndarray]) -> list[Node]:
    """The nodes of arrays, one after the other."""
    return [node for array in arrays for node in array.ravel().tolist()]


def _step(jaxpr: ClosedJaxpr, layout: Layout) -> Function:
    graph = Graph()
    given = inputs(graph, jaxpr.in_avals)
    *state, reward, over = Scalariser(graph).closed(jaxpr, given)
    reward_node = graph.convert(int(reward), FLOAT)
    reward_node = graph.select(
        _failed(graph, slots(state)), graph.const(np.nan, FLOAT), reward_node
    )
    known = len(layout.leaves)
    return Function(
        graph,
        {"state": slots(given[:known]), "action": slots(given[known:])},
        {"next": slots(state), "outcome": [reward_node, graph.convert(int(over), BOOL)]},
    )


def _failed(graph: Graph, state: Sequence[Node]) -> Node:
    """Whether any number of a state is NaN."""
    numbers = sorted({node for node in state if graph.kinds[node] == FLOAT})
    numbers = [node for node in numbers if not graph.is_const(node)]
    failed = graph.const(False, BOOL)
    for k in range(0, len(numbers), 2):
        pair = numbers[k : k + 2]
        failed = graph.logical_or(failed, graph.unordered(pair[0], pair[-1]))
    return failed


def _observe(jaxpr: ClosedJaxpr) -> Function:
    graph = Graph()
    given = inputs(graph, jaxpr.in_avals)
    seen = Scalariser(graph).closed(jaxpr, given)
    numbers = [graph.convert(node, FLOAT) for node in slots(seen)]
    return Function(graph, {"state": slots(given)}, {"observation": numbers})


def _tick(lanes: Lanes) -> str:
    w = Writer(lanes)
    whole, truth = w.types["i"], w.types["b"]
    reward, ended = w.load("%outcome", 0), w.load("%outcome", 1, BOOL)
    finite = w.compare("olt", w.call("fabs", reward), w.real(float("inf")))
    gained = w.select(finite, reward, w.real(0.0))
    w.store(w.floats("fadd", w.load("%totals", 0), gained), "%totals", 0)
    steps = w.ints("add", w.load("%steps", 0, "i"), w.whole(1))
    w.store(steps, "%steps", 0, "i")
    limit = w.set("load i32, ptr %limit")
    first = w.set(f"insertelement {whole} poison, i32 {limit}, i32 0")
    zeros = f"<{lanes.width} x i32> zeroinitializer"
    limits = w.set(f"shufflevector {whole} {first}, {whole} poison, {zeros}")
    late = w.ints("icmp sge", steps, limits)
    failed = w.set(f"xor {truth} {finite}, {w.truth(True)}")
    over = w.set(f"or {truth} {late}, {failed}")
    over = w.set(f"or {truth} {over}, {ended}")
    bits = w.set(f"bitcast {truth} {over} to i{lanes.width}")
    mask = w.set(f"zext i{lanes.width} {bits} to i32")
    w.line(f"ret i32 {mask}")
    return llvm.define("tick", ("outcome", "totals", "steps", "limit"), w.lines)


def _flush() -> str:
    """Sets the control register to what an array holds, and what it was into the array."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return llvm.define("flush", ("mode",), ["ret i32 0"])
    lines = [
        "%new = load i32, ptr %mode",
        "%room = alloca i32",
        "call void @llvm.x86.sse.stmxcsr(ptr %room)",
        "%old = load i32, ptr %room",
        "store i32 %old, ptr %mode",
        "store i32 %new, ptr %room",
        "call void @llvm.x86.sse.ldmxcsr(ptr %room)",
        "ret i32 0",
    ]
    declared = [f"declare void @llvm.x86.sse.{name}(ptr)" for name in ("stmxcsr", "ldmxcsr")]
    return "\n".join([*declared, llvm.define("flush", ("mode",), lines)])


def _fingerprint(*programs: ClosedJaxpr) -> str:
    """A digest of all that decides what programs compute."""
    digest = hashlib.sha256(jax.__version__.encode())
    for program in programs:
        for const in program.consts:
            _feed(digest, const)
        _feed_jaxpr(digest, program.jaxpr)
    return digest.hexdigest()


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, ClosedJaxpr):
        for const in value.consts:
            _feed(digest, const)
        _feed_jaxpr(digest, value.jaxpr)
    elif isinstance(value, Jaxpr):
        _feed_jaxpr(digest, value)
    elif isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        digest.update(f"[{len(value)}".encode())
        for part in value:
            _feed(digest, part)
    elif hasattr(value, "__array__"):
        array = np.asarray(value)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    elif not callable(value):  # functions only stand for what another parameter holds
        digest.update(repr(value).encode())


def _feed_jaxpr(digest: Any, jaxpr: Jaxpr) -> None:
    numbers: dict[Any, int] = {}

    def name(variable: Any) -> None:
        if isinstance(variable, Literal):
            aval: Any = variable.aval
            _feed(digest, np.asarray(variable.val, aval.dtype))
        else:
            number = numbers.setdefault(variable, len(numbers))
            digest.update(f"{number}:{variable.aval.str_short()} ".encode())

    def names(*variables: Any) -> None:
        for variable in variables:
            name(variable)

    names(*jaxpr.constvars, *jaxpr.invars)
    for equation in jaxpr.eqns:
        digest.update(equation.primitive.name.encode())
        names(*equation.invars, *equation.outvars)
        for key in sorted(equation.params):
            digest.update(key.encode())
            _feed(digest, equation.params[key])
    names(*jaxpr.outvars)
