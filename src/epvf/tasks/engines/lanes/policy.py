"""Policies of lanes: every lane has its own weights.

The weights of a group of lanes lie in the order in which they are read: layer by layer, in blocks
of outputs, first the block's biases, then for every input the block's row.
"""

import numpy as np
from jaxtyping import Int

from epvf.policies.mlp import Policy
from epvf.tasks.engines.lanes import llvm
from epvf.tasks.engines.lanes.graph import INT
from epvf.tasks.engines.lanes.llvm import Lanes, Writer

NAME = "act"


def block_size(lanes: Lanes) -> int:
    """Outputs that are summed at a time: as many as registers hold beside a weight and an input."""
    return 16 if lanes.width == 16 else 8


def packing(policy: Policy, lanes: Lanes) -> Int[np.ndarray, "P"]:
    """The entry of θ that stands at each place of the packed weights."""
    block = block_size(lanes)
    places: list[np.ndarray] = []
    for kernel, bias in policy.unravel(np.arange(policy.num_parameters)):
        for start in range(0, len(bias), block):
            places.append(bias[start : start + block])
            places.append(kernel[:, start : start + block].ravel())
    return np.concatenate(places)


def scratch_size(policy: Policy) -> int:
    """Numbers of all lanes that the function needs room for."""
    return 2 * max(policy.layer_sizes)


def text(policy: Policy, lanes: Lanes) -> str:
    """A module with the function `act(observation, weights, scratch, action, outputs)`.

    The action is an index for `argmax`, the first of equal outputs, and of an output that is NaN
    if there is one.
    """
    w = Writer(lanes)
    place = 0
    source, label = "%observation", "entry"
    last = len(policy.shapes) - 1
    for number, (fan_in, fan_out) in enumerate(policy.shapes):
        target, offset = "%outputs", 0
        if number < last:
            target, offset = "%scratch", (number % 2) * max(policy.layer_sizes)
        for start in range(0, fan_out, block_size(lanes)):
            width = min(block_size(lanes), fan_out - start)
            sums, label = _block(w, f"l{number}_{start}", label, source, fan_in, place, width)
            place += width * (fan_in + 1)
            for j, total in enumerate(sums):
                value = total if number == last else activated(w, policy.activation, total)
                w.store(value, target, offset + start + j)
        if number < last:
            kind = f"<{lanes.width} x i32>"
            source = w.set(f"getelementptr {kind}, ptr %scratch, i64 {offset}")
    write_action(w, policy)
    w.line("ret i32 0")
    pointers = ("observation", "weights", "scratch", "action", "outputs")
    return "\n".join([llvm.header(lanes), llvm.define(NAME, pointers, w.lines)])


def _block(
    w: Writer, name: str, before: str, source: str, fan_in: int, place: int, width: int
) -> tuple[list[str], str]:
    """Sums over the inputs of a layer, for some of its outputs, as a loop; and the label after."""
    own = w.types["f"]
    biases = [w.load("%weights", place + j) for j in range(width)]
    unrolled = 2 if fan_in % 2 == 0 else 1
    loop, end = name, f"{name}_end"
    w.line(f"br label %{loop}")
    w.line(f"{loop}:")
    count, after = f"%{name}_i", f"%{name}_next"
    w.line(f"{count} = phi i64 [0, %{before}], [{after}, %{loop}]")
    totals = [f"%{name}_s{j}" for j in range(width)]
    results = len(w.lines)
    w.lines += [""] * width
    row = w.set(f"mul i64 {count}, {width}")
    row = w.set(f"add i64 {row}, {place + width}")
    rows = w.set(f"getelementptr <{w.lanes.width} x i32>, ptr %weights, i64 {row}")
    sums = totals
    for step in range(unrolled):
        x = w.load(source, w.set(f"add i64 {count}, {step}"))
        sums = [w.fma(x, w.load(rows, step * width + j), total) for j, total in enumerate(sums)]
    for j, (total, bias, result) in enumerate(zip(totals, biases, sums, strict=True)):
        w.lines[results + j] = f"{total} = phi {own} [{bias}, %{before}], [{result}, %{loop}]"
    w.line(f"{after} = add i64 {count}, {unrolled}")
    more = w.set(f"icmp ult i64 {after}, {fan_in}")
    w.line(f"br i1 {more}, label %{loop}, label %{end}")
    w.line(f"{end}:")
    return sums, end


def activated(w: Writer, activation: str, x: str) -> str:
    """What a hidden layer makes of a sum."""
    if activation == "tanh":
        return llvm.tanh(w, x)
    if activation == "relu":
        return w.maximum(w.real(0.0), x)
    above = w.compare("ogt", x, w.real(0.0))
    below = llvm.exponential_minus_one(w, w.minimum(w.real(0.0), x))
    return w.select(above, x, below)


def write_action(w: Writer, policy: Policy) -> None:
    """Writes what reads `%outputs` and writes `%action`; see `text`."""
    size = policy.layer_sizes[-1]
    outputs = [w.load("%outputs", j) for j in range(size)]
    if policy.output == "argmax":
        w.store(_first_largest(w, outputs), "%action", 0, INT)
        return
    for j, x in enumerate(outputs):
        if policy.output == "tanh":
            value = llvm.tanh(w, x)
        else:
            value = w.minimum(w.real(1.0), w.maximum(w.real(-1.0), x))
        w.store(value, "%action", j)


def _first_largest(w: Writer, outputs: list[str]) -> str:
    best, index = outputs[0], w.whole(0)
    for j, x in enumerate(outputs[1:], 1):
        larger = w.compare("ogt", x, best)
        # NaN is the largest, and the first of it counts
        first_nan = w.set(
            f"and {w.types['b']} {w.compare('uno', x, x)}, {w.compare('ord', best, best)}"
        )
        better = w.set(f"or {w.types['b']} {larger}, {first_nan}")
        best = w.select(better, x, best)
        index = w.select(better, w.whole(j), index, INT)
    return index
