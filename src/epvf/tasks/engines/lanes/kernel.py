"""Programs for an accelerator: a thread is an environment, and a block of threads goes together.

A block has a warp of environments, and more warps that share its work where it can be shared: all
compute the policies' layers, a part of the outputs each, and the first alone steps the physics.
What a block's threads tell each other lies in rows of its room, a number of every environment in
each. Two kernels:

    episodes(theta, starts, ready, sizes; returns, lengths, room)
    segment(theta, states, steps, totals, fresh, sizes; observations, outputs, rewards, flags,
            states, steps, totals, finished, finished_steps, ended, room)

Arrays have the environments as their last axis, so that neighbours read neighbours: `theta` is
`[P, N]`. The same text, with the threads of a host in the place of a device's, checks what it
computes where there is no device (`Block.device`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from epvf.policies.mlp import Policy
from epvf.tasks.engines.lanes import llvm
from epvf.tasks.engines.lanes.graph import BOOL, FLOAT, INT
from epvf.tasks.engines.lanes.llvm import Lanes, Writer
from epvf.tasks.engines.lanes.policy import activated, write_action
from epvf.tasks.engines.lanes.program import Program

LANES = 32
"""Environments of a block: threads of a warp."""

SHARED_BYTES = 48 * 1024
"""What a block's room can have of the memory that its threads share without asking for more."""

SUMS = 16
"""Outputs of a layer that a thread sums at a time."""

TERMINATED, TRUNCATED = 1, 2
"""Bits of a segment's flags."""

Array = tuple[str, bool]
"""The name of a kernel's array, and whether it is written."""

EPISODES: tuple[Array, ...] = (
    ("theta", False),
    ("starts", False),
    ("ready", False),
    ("sizes", False),
    ("returns", True),
    ("lengths", True),
    ("scratch", True),
)
SEGMENT: tuple[Array, ...] = (
    ("theta", False),
    ("before", False),
    ("steps_before", False),
    ("totals_before", False),
    ("fresh", False),
    ("sizes", False),
    ("observations", True),
    ("outputs_out", True),
    ("rewards", True),
    ("flags", True),
    ("after", True),
    ("steps_after", True),
    ("totals_after", True),
    ("finished_after", True),
    ("finished_steps_after", True),
    ("scratch", True),
)


@dataclass(frozen=True)
class Block:
    """Threads that go together.

    Attributes:
        warps: that share the work of a block's environments.
        lanes: threads of a warp, a power of two: environments of a block.
        device: whether they are threads of an accelerator; of the host otherwise.
        fused: whether it fuses products and sums.
    """

    warps: int
    lanes: int = LANES
    device: bool = True
    fused: bool = True


class Thread(Writer):
    """Lines of one thread; arrays of its writer are rows of the block's room."""

    def __init__(self, block: Block, rows: int) -> None:
        super().__init__(Lanes(1, block.fused))
        self.grid = block
        self.active: str | None = None
        self.shared = block.device and rows * block.lanes * 4 <= SHARED_BYTES
        self.far = "ptr addrspace(1)" if block.device else "ptr"
        self.near = "ptr addrspace(3)" if self.shared else self.far

    def at(self, pointer: str, place: int) -> str:
        """The row so many after another."""
        return self.set(f"getelementptr i32, {self.near} {pointer}, i64 {place * self.grid.lanes}")

    def load(self, pointer: str, place: int | str, kind: str = FLOAT) -> str:
        at = self.at(pointer, int(place))
        if kind == BOOL:
            return self.ints("icmp ne", self.set(f"load i32, {self.near} {at}"), "0")
        return self.set(f"load {self.types[kind]}, {self.near} {at}")

    def store(self, number: str, pointer: str, place: int | str, kind: str = FLOAT) -> None:
        if kind == BOOL:
            number, kind = self.set(f"zext i1 {number} to i32"), INT
        at = self.at(pointer, int(place))
        self.line(f"store {self.types[kind]} {number}, {self.near} {at}")

    def any(self, mask: str) -> str:
        """Whether it holds in an environment of the warp whose episode goes on."""
        if self.active is not None:
            mask = self.set(f"and i1 {mask}, {self.active}")
        if not self.grid.device:
            return mask
        return self.set(f"call i1 @llvm.nvvm.vote.any.sync(i32 -1, i1 {mask})")

    def meet(self) -> None:
        """All threads of the block wait for each other."""
        if self.grid.device:
            self.line("call void @llvm.nvvm.barrier.cta.sync.aligned.all(i32 0)")
        else:
            self.set("call i32 %meet(i32 0)")

    def meet_any(self, truth: str) -> str:
        """As `meet`; whether it holds in any thread."""
        if self.grid.device:
            return self.set(f"call i1 @llvm.nvvm.barrier.cta.red.or.aligned.all(i32 0, i1 {truth})")
        number = self.set(f"zext i1 {truth} to i32")
        return self.set(f"icmp ne i32 {self.set(f'call i32 %meet(i32 {number})')}, 0")

    # arrays outside

    def far_at(self, array: str, index: str) -> str:
        return self.set(f"getelementptr i32, {self.far} %{array}, i64 {index}")

    def read(self, array: str, index: str, kind: str = INT) -> str:
        """A number of an array that nothing writes."""
        at = self.far_at(array, index)
        return self.set(f"load {self.types[kind]}, {self.far} {at}, !invariant.load !0")

    def write(self, number: str, array: str, index: str, kind: str = INT) -> None:
        at = self.far_at(array, index)
        self.line(f"store {self.types[kind]} {number}, {self.far} {at}")

    def long(self, op: str, *args: str | int) -> str:
        """An instruction on 64-bit integers."""
        return self.set(f"{op} i64 {', '.join(map(str, args))}")

    def wide(self, number: str) -> str:
        return self.set(f"zext i32 {number} to i64")

    def only_if(self, condition: str) -> "_Only":
        """What is written within is done where it holds."""
        return _Only(self, condition)


class _Only:
    def __init__(self, w: Thread, condition: str) -> None:
        self._w, self._condition = w, condition
        self._end = w.label()

    def __enter__(self) -> None:
        inside = self._w.label()
        self._w.branch(self._condition, inside, self._end)
        self._w.begin(inside)

    def __exit__(self, *error: object) -> None:
        self._w.go(self._end)
        self._w.begin(self._end)


def num_rows(program: Program, policy: Policy) -> int:
    """Rows of a block's room."""
    return sum(_rows(program, policy).values())


def _rows(program: Program, policy: Policy) -> dict[str, int]:
    """Rows of the arrays in a block's room."""
    size, hidden = program.layout.size, max(policy.layer_sizes[1:-1], default=1)
    return {
        "one": max(size, 1),
        "other": max(size, 1),
        "observation": policy.layer_sizes[0],
        "hidden_0": hidden,
        "hidden_1": hidden,
        "outputs": policy.layer_sizes[-1],
        "action": policy.layer_sizes[-1],
        "outcome": 2,
    }


def episodes(program: Program, policy: Policy, block: Block) -> str:
    """A module with the kernel `episodes`: whole episodes of N policies.

    Arrays: theta `[P, N]`; starts `[state, S]` bits of first states, S is N or 1; ready `[N]`
    whether a policy is to be run, else its return is NaN and its length 0; sizes: N, S and the
    longest episode; returns and lengths `[N]`.

    Raises:
        NotLowerable: if the step cannot become such a program.
    """
    return _Episodes(program, policy, block).text("episodes", EPISODES)


def segment(program: Program, policy: Policy, block: Block) -> str:
    """A module with the kernel `segment`: H steps of N environments from where they stand.

    Arrays: theta `[P, N]`; before `[state, N]` bits of states, steps_before and totals_before
    `[N]`; fresh `[state, F]` bits of first states, one of all or, F = H N, one of each step and
    environment; sizes: N, F, the longest episode and H; observations `[H + 1, observation, N]`,
    outputs `[H, A, N]`, rewards and flags `[H, N]`; and `[N]` what environments are afterwards,
    where `finished_steps` is 0 if no episode has ended.

    Raises:
        NotLowerable: if the step cannot become such a program.
    """
    return _Segment(program, policy, block).text("segment", SEGMENT)


class _Kernel:
    """What both kernels do: rounds of observing, acting and stepping.

    A round's head and end, in the first warp, are a step of the physics, but for the first round,
    and what is seen of the state after it; then all warps compute the policies' layers.
    """

    carried: ClassVar[dict[str, tuple[str, str]]]
    """What the first warp keeps from round to round: its type and what it is at first."""

    def __init__(self, program: Program, policy: Policy, block: Block) -> None:
        self.program, self.policy, self.block = program, policy, block
        self.w = Thread(block, num_rows(program, policy))

    # to be filled in

    def begin(self) -> None:
        """Before the first round: reads sizes and states."""
        raise NotImplementedError

    def stepped(self) -> dict[str, str]:
        """After a step: what is carried on."""
        raise NotImplementedError

    def seen(self) -> None:
        """After observing."""

    def goes_on(self) -> str:
        """All threads meet: whether there is another round."""
        raise NotImplementedError

    def end(self) -> None:
        """After the last round, in the first warp where there is an environment."""
        raise NotImplementedError

    # the skeleton

    def text(self, name: str, arrays: Sequence[Array]) -> str:
        """The module."""
        w = self.w
        step, observe = self.program.graphs()
        self._places()
        self.begin()
        w.go("start")
        w.begin("start")
        w.go("head")
        w.begin("head")
        phis = len(w.lines)
        w.line("")
        w.branch("%first", "alone", "join")
        w.begin("alone")
        w.line("%begun = icmp ne i32 %round, 0")
        w.branch("%begun", "act", "see")
        w.begin("act")
        write_action(w, self.policy)
        w.active = self.active("")
        llvm.write(w, step.graph, step.inputs, step.outputs)
        after = {"state": "%next", "next": "%state"} | self.stepped()
        acted = w.block
        w.go("see")
        w.begin("see")
        for each, kind in self._kinds().items():
            w.line(f"%{each}_now = phi {kind} [%{each}, %alone], [{after[each]}, %{acted}]")
        w.active = self.active("_now")
        llvm.write(w, observe.graph, {"state_now": observe.inputs["state"]}, observe.outputs)
        self.seen()
        seen = w.block
        w.go("join")
        w.begin("join")
        for each, kind in self._kinds().items():
            w.line(f"%{each}_then = phi {kind} [%{each}, %head], [%{each}_now, %{seen}]")
        w.branch(self.goes_on(), "layers", "over")
        w.begin("layers")
        self._layers()
        w.line("%another = add i32 %round, 1")
        w.lines[phis] = "\n".join(
            ["%round = phi i32 [0, %start], [%another, %" + w.block + "]"]
            + [
                f"%{each} = phi {kind} [{self._first(each)}, %start], [%{each}_then, %{w.block}]"
                for each, kind in self._kinds().items()
            ]
        )
        w.go("head")
        w.begin("over")
        with w.only_if("%mine"):
            self.end()
        w.line("ret void" if self.block.device else "ret i32 0")
        return self._module(name, arrays)

    def active(self, when: str) -> str | None:
        """The truth that holds where the episode goes on; `when` ends the names of what is."""
        return None

    def _kinds(self) -> dict[str, str]:
        near = {"state": self.w.near, "next": self.w.near}
        return near | {each: kind for each, (kind, _) in self.carried.items()}

    def _first(self, each: str) -> str:
        return {"state": "%one", "next": "%other"}.get(each) or self.carried[each][1]

    def _places(self) -> None:
        """Where a thread is, and where its room is."""
        w, lanes = self.w, self.block.lanes
        if self.block.device:
            w.line("%tid = call i32 @llvm.nvvm.read.ptx.sreg.tid.x()")
            w.line("%cta = call i32 @llvm.nvvm.read.ptx.sreg.ctaid.x()")
        w.line(f"%lane = and i32 %tid, {lanes - 1}")
        w.line(f"%warp = lshr i32 %tid, {lanes.bit_length() - 1}")
        w.line("%first = icmp eq i32 %warp, 0")
        self.number("num", 0)
        environment = w.ints("add", w.ints("mul", "%cta", str(lanes)), "%lane")
        w.line(f"%there = icmp ult i32 {environment}, %num_short")
        w.line("%mine = and i1 %there, %first")
        last = w.ints("sub", "%num_short", "1")
        # threads without an environment repeat the last one's work, and write nothing
        nearest = w.select("%there", environment, last, INT)
        w.line(f"%environment = zext i32 {nearest} to i64")
        rows = num_rows(self.program, self.policy) * lanes
        place = "%lane"
        base = "@room"
        if not w.shared:
            place = w.ints("add", w.ints("mul", "%cta", str(rows)), "%lane")
            base = "%scratch"
        w.line(f"%room = getelementptr i32, {w.near} {base}, i64 {w.wide(place)}")
        row = 0
        for array, number in _rows(self.program, self.policy).items():
            w.line(f"%{array} = getelementptr i32, {w.near} %room, i64 {row * lanes}")
            row += number

    def number(self, name: str, place: int) -> None:
        """Reads one of the sizes, as a short and as a long integer."""
        w = self.w
        w.line(f"%{name}_short = add i32 {w.read('sizes', str(place))}, 0")
        w.line(f"%{name} = zext i32 %{name}_short to i64")

    def column(self, row: int | str, index: str = "%environment", stride: str = "%num") -> str:
        """The place of an environment's number in a row of an array outside."""
        w = self.w
        return w.long("add", w.long("mul", stride, row), index)

    def take_state(self, array: str, target: str, stride: str, index: str) -> None:
        """Copies a state from outside into the room."""
        for k in range(self.program.layout.size):
            number = self.w.read(array, self.column(k, index, stride))
            self.w.store(number, target, k, INT)

    def _layers(self) -> None:
        source, place = "%observation", 0
        last = len(self.policy.shapes) - 1
        for number, (fan_in, fan_out) in enumerate(self.policy.shapes):
            target = "%outputs" if number == last else f"%hidden_{number % 2}"
            share = -(-fan_out // self.block.warps)
            for start in range(0, share, SUMS):
                self._sums(
                    f"l{number}_{start}",
                    (source, target),
                    (fan_in, fan_out),
                    (place, share, start, min(SUMS, share - start)),
                    number == last,
                )
            self.w.meet()
            source = target
            place += (fan_in + 1) * fan_out

    def _sums(
        self,
        name: str,
        rows: tuple[str, str],
        shape: tuple[int, int],
        where: tuple[int, int, int, int],
        last: bool,
    ) -> None:
        """Some outputs of a layer, as a loop over its inputs.

        Args:
            name: of the loop.
            rows: of the inputs and of the outputs.
            shape: of the layer.
            where: its place in theta, outputs of a warp, the first of them here, and how many.
            last: whether it is the last layer.
        """
        w, (fan_in, fan_out), (place, share, start, number) = self.w, shape, where
        unrolled = 2 if fan_in % 2 == 0 else 1
        columns = [self._column(share, start + j, fan_out) for j in range(number)]
        weights = [w.far_at("theta", self.column(w.long("add", c, place))) for c in columns]
        biases = [
            w.read("theta", self.column(w.long("add", c, place + fan_in * fan_out)), FLOAT)
            for c in columns
        ]
        row = w.long("mul", "%num", fan_out)
        before, lanes = w.block, self.block.lanes
        w.go(name)
        w.begin(name)
        phis = len(w.lines)
        w.line("")
        totals = sums = [w.name() for _ in range(number)]
        count, offset, pointer = w.name(), w.name(), w.name()
        offsets = [offset]
        for _ in range(unrolled):
            offsets.append(w.long("add", offsets[-1], row))
        loaded = [
            [self._weight(column, offsets[step]) for column in weights] for step in range(unrolled)
        ]
        for step in range(unrolled):
            x = w.load(pointer, step)
            sums = [
                w.fma(x, weight, total) for weight, total in zip(loaded[step], sums, strict=True)
            ]
        further = w.at(pointer, unrolled)
        more = w.ints("add", count, str(unrolled))
        on = w.ints("icmp ult", more, str(fan_in))
        w.branch(on, name, f"{name}_end")
        inputs = [
            ("i32", count, "0", more),
            ("i64", offset, "0", offsets[-1]),
            (w.near, pointer, rows[0], further),
            *(("float", *each) for each in zip(totals, biases, sums, strict=True)),
        ]
        w.lines[phis] = "\n".join(
            f"{each} = phi {kind} [{first}, %{before}], [{later}, %{name}]"
            for kind, each, first, later in inputs
        )
        w.begin(f"{name}_end")
        for column, total in zip(columns, sums, strict=True):
            value = total if last else activated(w, self.policy.activation, total)
            at = w.long("mul", column, lanes)
            at = w.set(f"getelementptr i32, {w.near} {rows[1]}, i64 {at}")
            w.line(f"store float {value}, {w.near} {at}")

    def _column(self, share: int, j: int, fan_out: int) -> str:
        """Which output a warp's is; where a share is too large, the last again."""
        w = self.w
        column = w.ints("add", w.ints("mul", "%warp", str(share)), str(j))
        if share * self.block.warps > fan_out:
            inside = w.ints("icmp ult", column, str(fan_out))
            column = w.select(inside, column, str(fan_out - 1), INT)
        return w.wide(column)

    def _weight(self, column: str, offset: str) -> str:
        w = self.w
        at = w.set(f"getelementptr i32, {w.far} {column}, i64 {offset}")
        return w.set(f"load float, {w.far} {at}, !invariant.load !0")

    def _module(self, name: str, arrays: Sequence[Array]) -> str:
        w, block = self.w, self.block
        given = [
            f"{w.far} noalias {'' if written else 'readonly '}%{array}" for array, written in arrays
        ]
        lines = llvm.declarations(w.lanes)
        if block.device:
            lines += _DEVICE
            head = f"define ptx_kernel void @{name}"
        else:
            given += ["i32 %tid", "i32 %cta", "ptr %meet"]
            head = f"define i32 @{name}"
        if w.shared:
            rows = num_rows(self.program, self.policy)
            kind = f"[{rows * block.lanes} x i32]"
            lines.append(f"@room = internal addrspace(3) global {kind} undef, align 128")
        lines += [f"{head}({', '.join(given)}) #0 {{", "entry:", *w.lines, "}"]
        flush = ' "denormal-fp-math-f32"="preserve-sign,preserve-sign"' if block.device else ""
        lines += [f"attributes #0 = {{ nounwind{flush} }}", "!0 = !{}"]
        return "\n".join(lines)


_DEVICE = (
    "declare i32 @llvm.nvvm.read.ptx.sreg.tid.x()",
    "declare i32 @llvm.nvvm.read.ptx.sreg.ctaid.x()",
    "declare void @llvm.nvvm.barrier.cta.sync.aligned.all(i32)",
    "declare i1 @llvm.nvvm.barrier.cta.red.or.aligned.all(i32, i1)",
    "declare i1 @llvm.nvvm.vote.any.sync(i32, i1)",
)


class _Episodes(_Kernel):
    carried: ClassVar = {
        "total": ("float", "%total_first"),
        "steps": ("i32", "0"),
        "alive": ("i1", "%alive_first"),
    }

    def active(self, when: str) -> str | None:
        return f"%alive{when}"

    def begin(self) -> None:
        w = self.w
        self.number("starts_num", 1)
        self.number("limit", 2)
        w.line("%one_start = icmp eq i32 %starts_num_short, 1")
        w.line("%start_index = select i1 %one_start, i64 0, i64 %environment")
        ready = w.ints("icmp ne", w.read("ready", "%environment"), "0")
        w.line(f"%total_first = select i1 {ready}, float 0.0, float {w.real(float('nan'))}")
        w.line(f"%alive_first = and i1 {ready}, %mine")
        with w.only_if("%first"):
            self.take_state("starts", "%one", "%starts_num", "%start_index")

    def stepped(self) -> dict[str, str]:
        w = self.w
        reward, ended = w.load("%outcome", 0), w.load("%outcome", 1, BOOL)
        finite = w.compare("olt", w.call("fabs", reward), w.real(float("inf")))
        gained = w.select(finite, w.floats("fadd", "%total", reward), w.real(float("nan")))
        steps = w.ints("add", "%steps", "1")
        late = w.ints("icmp sge", steps, "%limit_short")
        failed = w.set(f"xor i1 {finite}, true")
        over = w.set(f"or i1 {w.set(f'or i1 {late}, {failed}')}, {ended}")
        stays = w.set(f"xor i1 {over}, true")
        return {
            "total": w.select("%alive", gained, "%total"),
            "steps": w.select("%alive", steps, "%steps", INT),
            "alive": w.set(f"and i1 %alive, {stays}"),
        }

    def goes_on(self) -> str:
        return self.w.meet_any("%alive_then")

    def end(self) -> None:
        self.w.write("%total_then", "returns", "%environment", FLOAT)
        self.w.write("%steps_then", "lengths", "%environment")


class _Segment(_Kernel):
    carried: ClassVar = {
        "total": ("float", "%total_first"),
        "steps": ("i32", "%steps_first"),
        "finished": ("float", "0.0"),
        "finished_steps": ("i32", "0"),
    }

    def begin(self) -> None:
        w = self.w
        self.number("fresh_num", 1)
        self.number("limit", 2)
        self.number("horizon", 3)
        w.line("%one_start = icmp eq i32 %fresh_num_short, 1")
        for each, array, kind in (
            ("total", "totals_before", FLOAT),
            ("steps", "steps_before", INT),
        ):
            at = w.far_at(array, "%environment")
            w.line(f"%{each}_first = load {w.types[kind]}, {w.far} {at}")
        with w.only_if("%first"):
            self.take_state("before", "%one", "%num", "%environment")

    def stepped(self) -> dict[str, str]:
        w = self.w
        reward, ended = w.load("%outcome", 0), w.load("%outcome", 1, BOOL)
        finite = w.compare("olt", w.call("fabs", reward), w.real(float("inf")))
        gained = w.select(finite, w.floats("fadd", "%total", reward), "%total")
        steps = w.ints("add", "%steps", "1")
        terminal = w.set(f"or i1 {ended}, {w.set(f'xor i1 {finite}, true')}")
        late = w.ints("icmp sge", steps, "%limit_short")
        late = w.set(f"and i1 {late}, {w.set(f'xor i1 {terminal}, true')}")
        over = w.set(f"or i1 {terminal}, {late}")
        step = w.wide(w.ints("sub", "%round", "1"))
        with w.only_if("%there"):
            for j in range(self.policy.layer_sizes[-1]):
                row = w.long("add", w.long("mul", step, self.policy.layer_sizes[-1]), j)
                w.write(w.load("%outputs", j), "outputs_out", self.column(row), FLOAT)
            w.write(reward, "rewards", self.column(step), FLOAT)
            flag = w.select(late, str(TRUNCATED), "0", INT)
            flag = w.select(terminal, str(TERMINATED), flag, INT)
            w.write(flag, "flags", self.column(step))
        each = self.column(step)
        with w.only_if(over):
            index = w.set(f"select i1 %one_start, i64 0, i64 {each}")
            self.take_state("fresh", "%next", "%fresh_num", index)
        return {
            "total": w.select(over, w.real(0.0), gained),
            "steps": w.select(over, "0", steps, INT),
            "finished": w.select(over, gained, "%finished"),
            "finished_steps": w.select(over, steps, "%finished_steps", INT),
        }

    def seen(self) -> None:
        w, size = self.w, self.policy.layer_sizes[0]
        first = w.long("mul", w.wide("%round"), size)
        with w.only_if("%there"):
            for j in range(size):
                place = self.column(w.long("add", first, j))
                w.write(w.load("%observation", j), "observations", place, FLOAT)

    def goes_on(self) -> str:
        self.w.meet()
        return self.w.ints("icmp ult", "%round", "%horizon_short")

    def end(self) -> None:
        w = self.w
        for k in range(self.program.layout.size):
            w.write(w.load("%state_then", k, INT), "after", self.column(k))
        w.write("%steps_then", "steps_after", "%environment")
        w.write("%total_then", "totals_after", "%environment", FLOAT)
        w.write("%finished_then", "finished_after", "%environment", FLOAT)
        w.write("%finished_steps_then", "finished_steps_after", "%environment")
