"""The text of a graph as LLVM's intermediate language: one environment in every SIMD lane.

Sums, products and functions are written so that they round alike at any number of lanes, on every
processor that can fuse a product with a sum.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from epvf.tasks.engines.lanes import schedule
from epvf.tasks.engines.lanes.errors import NotLowerable
from epvf.tasks.engines.lanes.graph import BOOL, FLOAT, INT, UINT, Graph, Node, fuse, prune

BLOCK = 100
"""Nodes in a basic block: what LLVM orders and gives registers to at a time."""

_INTRINSICS = ("rint", "fabs", "sqrt", "floor", "ceil", "trunc")
_SIGNED = {"lt": "slt", "le": "sle", "eq": "eq", "ne": "ne"}
_UNSIGNED = {"lt": "ult", "le": "ule", "eq": "eq", "ne": "ne"}
_ORDERED = {"lt": "olt", "le": "ole", "eq": "oeq", "ne": "une"}


@dataclass(frozen=True)
class Lanes:
    """How many lanes, and whether the processor fuses products and sums."""

    width: int
    fused: bool

    @property
    def bytes(self) -> int:
        """Of one number of all lanes."""
        return 4 * self.width


class Writer:
    """Lines of a function's body; the methods write an instruction and return its result."""

    def __init__(self, lanes: Lanes) -> None:
        self.lanes = lanes
        self.lines: list[str] = []
        self.block = "entry"
        self._names = 0
        self._labels = 0
        self.types = {
            FLOAT: _of_all(lanes, "float"),
            INT: _of_all(lanes, "i32"),
            UINT: _of_all(lanes, "i32"),
            BOOL: _of_all(lanes, "i1"),
        }

    def name(self) -> str:
        self._names += 1
        return f"%t{self._names}"

    def line(self, text: str) -> None:
        self.lines.append(text)

    def set(self, text: str) -> str:
        """A new name for the result of an instruction."""
        name = self.name()
        self.lines.append(f"{name} = {text}")
        return name

    # basic blocks

    def label(self) -> str:
        """A new one's name."""
        self._labels += 1
        return f"b{self._labels}"

    def begin(self, label: str) -> None:
        """What follows is in this block."""
        self.lines.append(f"{label}:")
        self.block = label

    def go(self, label: str) -> None:
        """On to another block."""
        self.lines.append(f"br label %{label}")

    def branch(self, condition: str, yes: str, no: str) -> None:
        """On to one of two blocks; `condition` is one truth, not one of every lane."""
        self.lines.append(f"br i1 {condition}, label %{yes}, label %{no}")

    # constants

    def real(self, number: float) -> str:
        with np.errstate(over="ignore"):
            wide = float(np.float32(number))
        bits = struct.unpack("<Q", struct.pack("<d", wide))[0]
        return self._splat("float", f"0x{bits:016X}")

    def whole(self, number: int) -> str:
        return self._splat("i32", str(int(number)))

    def truth(self, value: bool) -> str:
        return self._splat("i1", "true" if value else "false")

    def _splat(self, kind: str, text: str) -> str:
        if self.lanes.width == 1:
            return text
        return "<" + ", ".join([f"{kind} {text}"] * self.lanes.width) + ">"

    # memory

    def load(self, pointer: str, place: int | str, kind: str = FLOAT) -> str:
        """The number of all lanes that is kept at a place of an array."""
        own = self.types[kind]
        at = self.set(f"getelementptr {self.types[INT]}, ptr {pointer}, i64 {place}")
        if kind == BOOL:
            number = self.set(f"load {self.types[INT]}, ptr {at}, align {self.lanes.bytes}")
            return self.set(f"icmp ne {self.types[INT]} {number}, {self.whole(0)}")
        return self.set(f"load {own}, ptr {at}, align {self.lanes.bytes}")

    def store(self, number: str, pointer: str, place: int | str, kind: str = FLOAT) -> None:
        if kind == BOOL:
            number, kind = self.set(f"zext {self.types[BOOL]} {number} to {self.types[INT]}"), INT
        at = self.set(f"getelementptr {self.types[INT]}, ptr {pointer}, i64 {place}")
        self.line(f"store {self.types[kind]} {number}, ptr {at}, align {self.lanes.bytes}")

    # arithmetic

    def floats(self, op: str, *args: str) -> str:
        """An instruction on floats, such as `fadd`."""
        return self.set(f"{op} {self.types[FLOAT]} {', '.join(args)}")

    def ints(self, op: str, *args: str) -> str:
        """An instruction on integers, such as `add`."""
        return self.set(f"{op} {self.types[INT]} {', '.join(args)}")

    def compare(self, op: str, a: str, b: str) -> str:
        return self.set(f"fcmp {op} {self.types[FLOAT]} {a}, {b}")

    def select(self, mask: str, yes: str, no: str, kind: str = FLOAT) -> str:
        own = self.types[kind]
        return self.set(f"select {self.types[BOOL]} {mask}, {own} {yes}, {own} {no}")

    def call(self, name: str, *args: str) -> str:
        """One of LLVM's functions of floats."""
        own, suffix = self.types[FLOAT], _suffix(self.lanes, "f32")
        given = ", ".join(f"{own} {arg}" for arg in args)
        return self.set(f"call {own} @llvm.{name}.{suffix}({given})")

    def fma(self, a: str, b: str, c: str) -> str:
        """ab + c."""
        if self.lanes.fused:
            return self.call("fma", a, b, c)
        return self.floats("fadd", self.floats("fmul", a, b), c)  # LLVM would call a library

    def any(self, mask: str) -> str:
        """Whether a lane's truth holds, as one truth."""
        width = self.lanes.width
        if width == 1:
            return mask
        bits = self.set(f"bitcast {self.types[BOOL]} {mask} to i{width}")
        return self.set(f"icmp ne i{width} {bits}, 0")

    def maximum(self, a: str, b: str) -> str:
        """The larger; NaN of `b` passes."""
        return self.select(self.compare("ogt", a, b), a, b)

    def minimum(self, a: str, b: str) -> str:
        return self.select(self.compare("olt", a, b), a, b)

    def as_int(self, a: str) -> str:
        return self.set(f"bitcast {self.types[FLOAT]} {a} to {self.types[INT]}")

    def as_float(self, a: str) -> str:
        return self.set(f"bitcast {self.types[INT]} {a} to {self.types[FLOAT]}")

    def rounded(self, a: str) -> str:
        """A whole float as an integer."""
        return self.set(f"fptosi {self.types[FLOAT]} {a} to {self.types[INT]}")

    def polynomial(self, x: str, *coefficients: float) -> str:
        """By Horner, the highest power first."""
        total = self.real(coefficients[0])
        for coefficient in coefficients[1:]:
            total = self.fma(total, x, self.real(coefficient))
        return total


def _of_all(lanes: Lanes, kind: str) -> str:
    """The type of one number of all lanes."""
    return kind if lanes.width == 1 else f"<{lanes.width} x {kind}>"


def _suffix(lanes: Lanes, kind: str) -> str:
    """How the names of LLVM's functions of such numbers end."""
    return kind if lanes.width == 1 else f"v{lanes.width}{kind}"


# functions: rational or polynomial approximations to a few units in the last place


def tanh(w: Writer, x: str) -> str:
    """The rational function that Eigen and XLA use, as `episode.tanh`; to within 3e-7."""
    bound = 7.90531110763549805
    x = w.minimum(w.real(bound), w.maximum(w.real(-bound), x))
    square = w.floats("fmul", x, x)
    above = w.polynomial(
        square,
        -2.76076847742355e-16,
        2.00018790482477e-13,
        -8.60467152213735e-11,
        5.12229709037114e-08,
        1.48572235717979e-05,
        6.37261928875436e-04,
        4.89352455891786e-03,
    )
    below = w.polynomial(
        square,
        1.19825839466702e-06,
        1.18534705686654e-04,
        2.26843463243900e-03,
        4.89352518554385e-03,
    )
    return w.floats("fdiv", w.floats("fmul", x, above), below)


def sine(w: Writer, x: str, shift: int = 0) -> str:
    """sin, or cos by a shift of 1 quarter (Cephes, after Cody & Waite); for |x| up to 1e4."""
    quarters = w.call("rint", w.floats("fmul", x, w.real(2 / math.pi)))
    r = x
    for part in (-1.5703125, -4.83751296997e-4, -7.54978995489e-8):
        r = w.fma(quarters, w.real(part), r)
    number = w.set(f"call {w.types[INT]} {_saturating(w, 'si')}({w.types[FLOAT]} {quarters})")
    number = w.ints("add", number, w.whole(shift))
    square = w.floats("fmul", r, r)
    odd = w.polynomial(square, -1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
    odd = w.fma(w.floats("fmul", odd, square), r, r)
    even = w.polynomial(
        square, 2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2, -0.5, 1.0
    )
    swap = w.ints("icmp ne", w.ints("and", number, w.whole(1)), w.whole(0))
    value = w.as_int(w.select(swap, even, odd))
    sign = w.ints("shl", w.ints("and", number, w.whole(2)), w.whole(30))
    return w.as_float(w.ints("xor", value, sign))


def _reduced(w: Writer, x: str) -> tuple[str, str, str]:
    """k, r and e^r - 1 with x = k ln 2 + r (Cephes)."""
    k = w.call("rint", w.floats("fmul", x, w.real(1 / math.log(2))))
    r = w.fma(k, w.real(-0.693359375), x)
    r = w.fma(k, w.real(2.12194440e-4), r)
    p = w.polynomial(
        r,
        1.9875691500e-4,
        1.3981999507e-3,
        8.3334519073e-3,
        4.1665795894e-2,
        1.6666665459e-1,
        5.0000001201e-1,
    )
    return k, r, w.fma(p, w.floats("fmul", r, r), r)


def _power_of_two(w: Writer, exponent: str) -> str:
    return w.as_float(w.ints("shl", w.ints("add", exponent, w.whole(127)), w.whole(23)))


def exponential(w: Writer, x: str) -> str:
    """exp; 0 where it would be denormal."""
    inside = w.minimum(w.real(89.0), w.maximum(w.real(-89.0), x))
    k, _, p = _reduced(w, inside)
    whole = w.rounded(k)
    half = w.ints("ashr", whole, w.whole(1))
    value = w.floats("fmul", w.floats("fadd", p, w.real(1.0)), _power_of_two(w, half))
    value = w.floats("fmul", value, _power_of_two(w, w.ints("sub", whole, half)))
    return _only_numbers(w, x, w.select(w.compare("olt", x, w.real(-87.33654)), w.real(0.0), value))


def exponential_minus_one(w: Writer, x: str) -> str:
    """expm1; infinite from 88.3 on."""
    inside = w.minimum(w.real(88.3), w.maximum(w.real(-60.0), x))
    k, _, p = _reduced(w, inside)
    scale = _power_of_two(w, w.rounded(k))
    value = w.fma(p, scale, w.floats("fadd", scale, w.real(-1.0)))
    value = w.select(w.compare("ogt", x, w.real(88.3)), w.real(math.inf), value)
    return _only_numbers(w, x, value)


def logarithm(w: Writer, x: str) -> str:
    """log (Cephes)."""
    bits = w.as_int(x)
    exponent = w.ints("sub", w.ints("lshr", bits, w.whole(23)), w.whole(126))
    fraction = w.ints("or", w.ints("and", bits, w.whole(0x7FFFFF)), w.whole(0x3F000000))
    m = w.as_float(fraction)
    small = w.compare("olt", m, w.real(math.sqrt(0.5)))
    e = w.set(f"sitofp {w.types[INT]} {exponent} to {w.types[FLOAT]}")
    e = w.select(small, w.floats("fadd", e, w.real(-1.0)), e)
    m = w.floats("fadd", w.select(small, w.floats("fadd", m, m), m), w.real(-1.0))
    square = w.floats("fmul", m, m)
    p = w.polynomial(
        m,
        7.0376836292e-2,
        -1.1514610310e-1,
        1.1676998740e-1,
        -1.2420140846e-1,
        1.4249322787e-1,
        -1.6668057665e-1,
        2.0000714765e-1,
        -2.4999993993e-1,
        3.3333331174e-1,
    )
    y = w.floats("fmul", w.floats("fmul", p, m), square)
    y = w.fma(e, w.real(-2.12194440e-4), y)
    y = w.fma(square, w.real(-0.5), y)
    value = w.fma(e, w.real(0.693359375), w.floats("fadd", m, y))
    value = w.select(w.compare("oeq", x, w.real(math.inf)), x, value)
    value = w.select(w.compare("oeq", x, w.real(0.0)), w.real(-math.inf), value)
    return w.select(w.compare("uge", x, w.real(0.0)), _only_numbers(w, x, value), w.real(math.nan))


def arctangent(w: Writer, y: str, x: str) -> str:
    """atan2 (Cephes); of two infinities NaN."""
    width, height = w.call("fabs", x), w.call("fabs", y)
    long = w.maximum(w.maximum(width, height), w.real(1e-37))
    t = w.floats("fdiv", w.minimum(width, height), long)
    far = w.compare("ogt", t, w.real(math.tan(math.pi / 8)))
    one = w.real(1.0)
    moved = w.floats("fdiv", w.floats("fsub", t, one), w.floats("fadd", t, one))
    t = w.select(far, moved, t)
    square = w.floats("fmul", t, t)
    p = w.polynomial(
        square, 8.05374449538e-2, -1.38776856032e-1, 1.99777106478e-1, -3.33329491539e-1
    )
    angle = w.fma(w.floats("fmul", p, square), t, t)
    angle = w.select(far, w.floats("fadd", angle, w.real(math.pi / 4)), angle)
    steep = w.compare("ogt", height, width)
    angle = w.select(steep, w.floats("fsub", w.real(math.pi / 2), angle), angle)
    left = w.ints("icmp slt", w.as_int(x), w.whole(0))
    angle = w.select(left, w.floats("fsub", w.real(math.pi), angle), angle)
    sign = w.ints("and", w.as_int(y), w.whole(-(2**31)))
    signed = w.as_float(w.ints("or", w.as_int(angle), sign))
    return w.select(w.compare("uno", x, y), w.real(math.nan), signed)


def _only_numbers(w: Writer, x: str, value: str) -> str:
    """`value`, but NaN where `x` is."""
    return w.select(w.compare("uno", x, x), x, value)


_FUNCTIONS = {
    "tanh": tanh,
    "sin": sine,
    "cos": lambda w, x: sine(w, x, 1),
    "exp": exponential,
    "expm1": exponential_minus_one,
    "log": logarithm,
    "atan2": arctangent,
    "round": lambda w, x: w.call("rint", x),
    "abs": lambda w, x: w.call("fabs", x),
    "sqrt": lambda w, x: w.call("sqrt", x),
    "floor": lambda w, x: w.call("floor", x),
    "ceil": lambda w, x: w.call("ceil", x),
    "trunc": lambda w, x: w.call("trunc", x),
    "add": lambda w, a, b: w.floats("fadd", a, b),
    "sub": lambda w, a, b: w.floats("fsub", a, b),
    "mul": lambda w, a, b: w.floats("fmul", a, b),
    "div": lambda w, a, b: w.floats("fdiv", a, b),
    "neg": lambda w, a: w.floats("fneg", a),
    "max": Writer.maximum,
    "min": Writer.minimum,
    "fma": Writer.fma,
    "fms": lambda w, a, b, c: w.fma(a, b, w.floats("fneg", c)),
    "fnma": lambda w, a, b, c: w.fma(w.floats("fneg", a), b, c),
}
"""What makes a float of floats."""


def _saturating(w: Writer, sign: str) -> str:
    return f"@llvm.fpto{sign}.sat.{_suffix(w.lanes, 'i32')}.{_suffix(w.lanes, 'f32')}"


def declarations(lanes: Lanes) -> list[str]:
    """Of LLVM's functions that graphs and policies need."""
    w = Writer(lanes)
    suffix, own = _suffix(lanes, "f32"), w.types[FLOAT]
    lines = [f"declare {own} @llvm.{name}.{suffix}({own})" for name in _INTRINSICS]
    lines.append(f"declare {own} @llvm.fma.{suffix}({own}, {own}, {own})")
    lines += [f"declare {w.types[INT]} {_saturating(w, sign)}({own})" for sign in ("si", "ui")]
    return lines


def header(lanes: Lanes) -> str:
    """Declarations that the functions of a module need."""
    lines = declarations(lanes)
    wide = '"min-legal-vector-width"="512" "prefer-vector-width"="512"'
    lines.append(f"attributes #0 = {{ nounwind noinline {wide} }}")
    return "\n".join(lines)


def define(name: str, pointers: Sequence[str], lines: Sequence[str]) -> str:
    """A function of arrays that do not overlap; it returns an i32."""
    given = ", ".join(f"ptr noalias %{pointer}" for pointer in pointers)
    return "\n".join([f"define i32 @{name}({given}) #0 {{", "entry:", *lines, "}"])


Slots = Sequence[Node]
"""Nodes that an array holds, one after the other."""


def function(
    graph: Graph, lanes: Lanes, name: str, inputs: dict[str, Slots], outputs: dict[str, Slots]
) -> str:
    """A function that reads arrays of inputs and writes arrays of outputs.

    Changes the graph: use it for nothing else afterwards.

    Raises:
        NotLowerable: if a node stands for something that was not to be used.
    """
    w = Writer(lanes)
    write(w, graph, inputs, outputs)
    w.line("ret i32 0")
    return define(name, [*inputs, *outputs], w.lines)


def write(w: Writer, graph: Graph, inputs: dict[str, Slots], outputs: dict[str, Slots]) -> None:
    """Writes what reads arrays of inputs and writes arrays of outputs, at the end of a block.

    Changes the graph: use it for nothing else afterwards.

    Args:
        w: where to.
        graph: of what is computed.
        inputs, outputs: nodes, by the names of pointers without their `%`.

    Raises:
        NotLowerable: if a node stands for something that was not to be used.
    """
    roots = [node for slots in outputs.values() for node in slots]
    prune(graph, roots)
    fuse(graph, roots)
    body = _Body(graph, w, inputs, outputs)
    body.compute(roots)
    body.finish()


class _Body:
    def __init__(
        self, graph: Graph, w: Writer, inputs: dict[str, Slots], outputs: dict[str, Slots]
    ) -> None:
        self.writer = w
        self._graph = graph
        roots = [node for slots in outputs.values() for node in slots]
        self._nesting = schedule.Nesting(graph, graph.live(roots))
        self._inputs = {
            node: (name, place)
            for name, slots in inputs.items()
            for place, node in enumerate(slots)
        }
        self._wanted: dict[Node, list[tuple[str, int]]] = {}
        for name, slots in outputs.items():
            for place, node in enumerate(slots):
                self._wanted.setdefault(node, []).append((name, place))
        self._known: dict[Node, str] = {}
        self._loaded: dict[Node, str] = {}
        self._written = 0
        self._depth = 0

    def compute(self, roots: Sequence[Node]) -> None:
        """Writes all that the roots need and that is not there yet."""
        missing = [node for node in roots if not self._there(node)]
        for node in schedule.order(missing, self._needs):
            op = self._graph.ops[node]
            if op == "loop":
                self._loop(node)
            elif op != "result":
                self._known[node] = self._instruction(node)
                self._count()
            if self._depth == 0 and node in self._wanted:
                self._store(node)

    def finish(self) -> None:
        """Stores what is no node that was computed."""
        for node in list(self._wanted):
            self._store(node)

    def _store(self, node: Node) -> None:
        for name, place in self._wanted.pop(node):
            self.writer.store(self._text(node), f"%{name}", place, self._graph.kinds[node])

    def _there(self, node: Node) -> bool:
        return node in self._known or self._graph.is_const(node) or node in self._inputs

    def _needs(self, node: Node) -> list[Node]:
        return [part for part in self._nesting.needs(node) if not self._there(part)]

    def _count(self) -> None:
        self._written += 1
        if self._written % BLOCK == 0:
            label = self.writer.label()
            self.writer.go(label)
            self._begin(label)

    def _begin(self, label: str) -> None:
        self.writer.begin(label)
        self._loaded.clear()  # cheaper to read again than to keep

    def _text(self, node: Node) -> str:
        graph, kind = self._graph, self._graph.kinds[node]
        if graph.is_const(node):
            number = graph.value(node)
            if kind == FLOAT:
                return self.writer.real(float(number))
            return self.writer.truth(number) if kind == BOOL else self.writer.whole(number)
        if node in self._inputs:
            if node not in self._loaded:
                name, place = self._inputs[node]
                self._loaded[node] = self.writer.load(f"%{name}", place, kind)
            return self._loaded[node]
        return self._known[node]

    def _instruction(self, node: Node) -> str:
        graph = self._graph
        op, kind = graph.ops[node], graph.kinds[node]
        if op in ("factor", "half"):
            raise NotLowerable(
                "a Cholesky factor is used for something else than solving a system with it"
            )
        parts = graph.args[node]
        args = [self._text(part) for part in parts]
        if op == "select":
            return self.writer.select(args[0], args[1], args[2], kind)
        if kind == BOOL:
            return self._truth(op, graph.kinds[parts[0]], args)
        if op == "convert":
            return self._converted(graph.kinds[parts[0]], kind, args[0])
        if op == "bitcast":
            return self._bitcast(graph.kinds[parts[0]], kind, args[0])
        if kind == FLOAT:
            return _FUNCTIONS[op](self.writer, *args)  # type: ignore[operator]
        return self._whole(op, kind, args, graph.is_const(parts[-1]))

    def _truth(self, op: str, kind: str, args: list[str]) -> str:
        w = self.writer
        if op == "not":
            return w.set(f"xor {w.types[BOOL]} {args[0]}, {w.truth(True)}")
        if op in ("and", "or", "xor"):
            return w.set(f"{op} {w.types[BOOL]} {args[0]}, {args[1]}")
        if op == "isfinite":
            return w.compare("olt", w.call("fabs", args[0]), w.real(math.inf))
        if op == "unordered":
            return w.compare("uno", *args)
        if kind == FLOAT:
            return w.compare(_ORDERED[op], *args)
        return w.ints(f"icmp {(_SIGNED if kind == INT else _UNSIGNED)[op]}", *args)

    def _converted(self, old: str, kind: str, arg: str) -> str:
        w = self.writer
        if kind == FLOAT:
            op = "sitofp" if old == INT else "uitofp"
            return w.set(f"{op} {w.types[old]} {arg} to {w.types[FLOAT]}")
        if old == FLOAT:
            sign = "si" if kind == INT else "ui"
            return w.set(f"call {w.types[INT]} {_saturating(w, sign)}({w.types[FLOAT]} {arg})")
        return arg  # the same bits

    def _bitcast(self, old: str, kind: str, arg: str) -> str:
        if FLOAT not in (old, kind):
            return arg
        return self.writer.as_float(arg) if kind == FLOAT else self.writer.as_int(arg)

    def _whole(self, op: str, kind: str, args: list[str], known: bool) -> str:
        w = self.writer
        if op in ("add", "sub", "mul"):
            return w.ints(op, *args)
        if op.startswith("bit"):
            return w.ints(op.removeprefix("bit"), *args)
        if op in ("shl", "shr"):
            return self._shifted(op, kind, *args)
        return self._divided(op, kind, *args)

    def _shifted(self, op: str, kind: str, a: str, count: str) -> str:
        """0, or all sign, where more bits are shifted than there are."""
        w = self.writer
        inside = w.ints("icmp ult", count, w.whole(32))
        safe = w.select(inside, count, w.whole(31), INT)
        if op == "shr" and kind == INT:
            return w.ints("ashr", a, safe)
        moved = w.ints("shl" if op == "shl" else "lshr", a, safe)
        return w.select(inside, moved, w.whole(0), INT)

    def _divided(self, op: str, kind: str, a: str, b: str) -> str:
        """As JAX where the processor would stop: x / 0 is -1, x % 0 is x, and -x / -1 wraps."""
        w = self.writer
        none = w.ints("icmp eq", b, w.whole(0))
        minus = w.ints("icmp eq", b, w.whole(-1)) if kind == INT else w.truth(False)
        safe = w.select(w.set(f"or {w.types[BOOL]} {none}, {minus}"), w.whole(1), b, INT)
        sign = "s" if kind == INT else "u"
        value = w.ints(f"{sign}{op}", a, safe)
        turned = w.ints("sub", w.whole(0), a) if op == "div" else w.whole(0)
        value = w.select(minus, turned, value, INT)
        return w.select(none, w.whole(-1) if op == "div" else a, value, INT)

    def _loop(self, node: Node) -> None:
        graph, w, loop = self._graph, self.writer, self._graph.loops[node]
        initial = {number: self._text(part) for number, part in loop.initial.items()}
        before, kept = w.block, dict(self._known)
        head, body, end = (w.label() for _ in range(3))
        w.go(head)
        self._begin(head)
        phis = len(w.lines)
        w.line("")
        for variable in loop.variables.values():
            self._known[variable] = w.name()
        names = {number: self._known[part] for number, part in loop.variables.items()}
        self._depth += 1
        self.compute([loop.condition])
        condition = self._text(loop.condition)
        w.branch(w.any(condition), body, end)
        self._begin(body)
        self.compute(list(loop.updates.values()))
        updates = {
            number: w.select(condition, self._text(part), names[number], graph.kinds[part])
            for number, part in loop.updates.items()
        }
        self._depth -= 1
        w.go(head)
        w.lines[phis] = "\n".join(
            f"{names[number]} = phi {w.types[graph.kinds[part]]} "
            f"[{initial[number]}, %{before}], [{updates[number]}, %{w.block}]"
            for number, part in loop.variables.items()
        )
        self._begin(end)
        self._known = kept
        self._known[node] = "loop"
        for number, name in names.items():
            self._known[graph.result(node, number, graph.kinds[loop.variables[number]])] = name
