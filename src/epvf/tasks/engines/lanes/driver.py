"""The loops around the compiled functions: which policy runs in which lane, and what it met.

They hold neither Python nor its lock. They are compiled by numba once and kept on disk: the
functions of a program are called by their addresses.
"""

from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from epvf.policies import noise_loops
from epvf.policies.noise_loops import Blocks, blocks, draw
from epvf.runtime.kept import kept
from epvf.tasks.engines.jitted import renamed

ALIGNMENT = 64
_SIZE, _INFINITE = np.int32(0x7FFFFFFF), np.int32(0x7F800000)  # bits of float32 without sign


class Functions(NamedTuple):
    """Addresses of a program's and a policy's functions, see `program` and `policy`."""

    observe: int
    step: int
    tick: int
    flush: int
    act: int


class Room(NamedTuple):
    """What one thread works in; `W` lanes, a number of all of them together.

    Attributes:
        states: `[2, state, W]` bits of the state before a step and after it, in turn.
        observation: `[observation, W]`.
        weights: `[P, W]` in the order of `policy.packing`.
        scratch: `[..., W]` of the policy.
        action: `[action, W]`, bits.
        outputs: `[action, W]` of the policy, before they become the action.
        outcome: `[2, W]` bits of what a step tells, of which `reward` and `ended` are views.
        reward: `[W]`.
        ended: `[W]` 1 where the state is terminal.
        totals, steps: `[W]` of each lane's episode.
        owners: `[W]` whose policy runs in a lane.
        limit: `[1]` longest episode.
        mode: `[1]` of the processor.
        theta: `[P]` a policy that is drawn for a lane.
        blocks: for drawing it.
    """

    states: np.ndarray
    observation: np.ndarray
    weights: np.ndarray
    scratch: np.ndarray
    action: np.ndarray
    outputs: np.ndarray
    outcome: np.ndarray
    reward: np.ndarray
    ended: np.ndarray
    totals: np.ndarray
    steps: np.ndarray
    owners: np.ndarray
    limit: np.ndarray
    mode: np.ndarray
    theta: np.ndarray
    blocks: Blocks


class Journal(NamedTuple):
    """Where a segment is written down; see `Segment` and `Envs`. `states` are bits `[N, state]`."""

    states: np.ndarray
    steps: np.ndarray
    total: np.ndarray
    finished: np.ndarray
    finished_steps: np.ndarray
    observations: np.ndarray
    outputs: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray


def room(
    width: int, state: int, observation: int, weights: int, scratch: int, action: int, limit: int
) -> Room:
    """Room for programs of these sizes."""
    outcome = _aligned((2, width), np.int32)
    return Room(
        states=_aligned((2, state, width), np.int32),
        observation=_aligned((observation, width), np.float32),
        weights=_aligned((weights, width), np.float32),
        scratch=_aligned((scratch, width), np.float32),
        action=_aligned((action, width), np.int32),
        outputs=_aligned((action, width), np.float32),
        outcome=outcome,
        reward=outcome[0].view(np.float32),
        ended=outcome[1],
        totals=_aligned((width,), np.float32),
        steps=_aligned((width,), np.int32),
        owners=np.full(width, -1, np.int64),
        limit=np.full(1, limit, np.int32),
        mode=np.zeros(1, np.int32),
        theta=_aligned((weights,), np.float32),
        blocks=blocks(),
    )


def _aligned(shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
    size = int(np.prod(shape)) * 4
    raw = np.zeros(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def _calling(context: Any, address: Any, pointers: Any) -> Any:
    """Calls a function of pointers at an address; it returns an int32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        from llvmlite import ir

        given = cgutils.unpack_tuple(builder, args[1])
        kind = ir.FunctionType(ir.IntType(32), [value.type for value in given])
        return builder.call(builder.inttoptr(args[0], kind.as_pointer()), given)

    return types.int32(address, pointers), generate


def _taking(context: Any, counter: Any) -> Any:
    """Adds 1 to what is at an address, as one act, and returns what was there."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        from llvmlite import ir

        number = ir.IntType(64)
        place = builder.inttoptr(args[0], number.as_pointer())
        return builder.atomic_rmw("add", place, ir.Constant(number, 1), "seq_cst")

    return types.int64(counter), generate


_call: Any = intrinsic(_calling)
_take: Any = intrinsic(_taking)
_jit: Any = partial(njit, nogil=True, error_model="numpy")
_inner = _jit(inline="never")


def _loop(function: Any) -> Any:
    """Kept on disk; under another name where the loops that draw policies have changed."""
    return kept(renamed(function, noise_loops.version(), globals()))


@_inner
def _num_policies(source: Any) -> int:
    return len(source.jobs.numbers) + len(source.rest)


@_inner
def _policy(room: Any, source: Any, i: int) -> Any:
    """`[P]`, drawn if it was not there."""
    num_drawn = len(source.jobs.numbers)
    if i >= num_drawn:
        return source.rest[i - num_drawn]
    draw(room.theta, i, source, room.blocks)
    return room.theta


@_inner
def _load_policy(room: Any, lane: int, packing: Any, theta: Any) -> None:
    weights = room.weights
    for k in range(len(packing)):
        weights[k, lane] = theta[packing[k]]


@_inner
def _load_state(room: Any, side: int, lane: int, state: Any) -> None:
    states = room.states
    for k in range(len(state)):
        states[side, k, lane] = state[k]


@_inner
def _load_policies(room: Any, packing: Any, source: Any, first: int, number: int) -> None:
    """Puts policies that follow each other into the first lanes."""
    num_drawn = len(source.jobs.numbers)
    for lane in range(number):
        if first + lane < num_drawn:
            draw(room.theta, first + lane, source, room.blocks)
            _load_policy(room, lane, packing, room.theta)
    there = max(num_drawn - first, 0)
    if there >= number:
        return
    for k in range(len(packing)):
        place = packing[k]
        for lane in range(there, number):
            room.weights[k, lane] = source.rest[first + lane - num_drawn, place]


@_inner
def _finite(theta: Any) -> bool:
    """By the bits: the largest of integers is found in SIMD code, a sum of floats is not."""
    bits = theta.view(np.int32)
    largest = np.int32(0)
    for k in range(len(bits)):
        largest = max(largest, bits[k] & _SIZE)
    return bool(largest < _INFINITE)


@_inner
def _act(functions: Functions, room: Any, side: int) -> None:
    """What is seen of the states, and what the policies do about it."""
    seen = room.observation.ctypes.data
    _call(functions.observe, (room.states[side].ctypes.data, seen))
    _call(
        functions.act,
        (
            seen,
            room.weights.ctypes.data,
            room.scratch.ctypes.data,
            room.action.ctypes.data,
            room.outputs.ctypes.data,
        ),
    )


@_inner
def _step(functions: Functions, room: Any, side: int) -> int:
    """Steps all lanes and returns those whose episode is over, as bits."""
    outcome = room.outcome.ctypes.data
    before, after = room.states[side].ctypes.data, room.states[1 - side].ctypes.data
    _call(functions.step, (before, room.action.ctypes.data, after, outcome))
    return _call(
        functions.tick,
        (outcome, room.totals.ctypes.data, room.steps.ctypes.data, room.limit.ctypes.data),
    )


@_inner
def _refill(
    room: Any, side: int, lane: int, packing: Any, source: Any, starts: Any, queue: Any
) -> bool:
    """Starts the next policy in a lane; whether there was one. One that is not finite is none."""
    while True:
        i = _take(queue.ctypes.data)
        if i >= _num_policies(source):
            room.owners[lane] = -1
            return False
        theta = _policy(room, source, i)
        if _finite(theta):
            break
    _load_policy(room, lane, packing, theta)
    _load_state(room, side, lane, starts[i % len(starts)])
    room.owners[lane], room.steps[lane], room.totals[lane] = i, 0, 0.0
    return True


@_loop
def run_episodes(
    functions: Functions,
    room: Room,
    mode: int,
    packing: Any,
    source: Any,
    starts: Any,
    queue: Any,
    stop: Any,
    returns: Any,
    lengths: Any,
) -> int:
    """Runs policies from a queue until none is left, or it is stopped; returns rounds of steps.

    Args:
        mode: for the processor; 0 leaves it as it is.
        packing: `[P]`, see `policy.packing`.
        source: `[N, P]` policies, see `noise_loops.Source`.
        starts: `[N or 1, state]` bits of first states.
        queue: `[1]` the next policy.
        stop: `[1]` ends all episodes where they are, once it is true.
        returns, lengths: `[N]`, filled with what became of policies that could be run.
    """
    width = len(room.steps)
    room.mode[0] = mode
    if mode:
        _call(functions.flush, (room.mode.ctypes.data,))
    running = 0
    for lane in range(width):
        if _refill(room, 0, lane, packing, source, starts, queue):
            running |= 1 << lane
    side = rounds = 0
    while running and not stop[0]:
        _act(functions, room, side)
        over = _step(functions, room, side) & running
        side = 1 - side
        rounds += 1
        if over:
            for lane in range(width):
                if over >> lane & 1:
                    i, reward = room.owners[lane], room.reward[lane]
                    lengths[i] = room.steps[lane]
                    returns[i] = room.totals[lane] if np.isfinite(reward) else np.nan
                    if not _refill(room, side, lane, packing, source, starts, queue):
                        running &= ~(1 << lane)
    if mode:
        _call(functions.flush, (room.mode.ctypes.data,))
    return rounds


@_inner
def _write_observations(room: Any, first: int, number: int, step: int, observations: Any) -> None:
    seen = room.observation
    for lane in range(number):
        row = observations[first + lane, step]
        for k in range(len(row)):
            row[k] = seen[k, lane]


@_inner
def _write_step(room: Any, side: int, i: int, lane: int, step: int, journal: Any) -> bool:
    """Writes down a lane's step; whether its episode is over."""
    for k in range(journal.outputs.shape[2]):
        journal.outputs[i, step, k] = room.outputs[k, lane]
    reward = room.reward[lane]
    terminal = room.ended[lane] != 0 or not np.isfinite(reward)
    late = room.steps[lane] >= room.limit[0] and not terminal
    journal.rewards[i, step] = reward
    journal.terminated[i, step] = terminal
    journal.truncated[i, step] = late
    return terminal or late


@_inner
def _run_segment(
    functions: Functions, room: Any, packing: Any, source: Any, fresh: Any, first: int, journal: Any
) -> None:
    num, horizon = journal.rewards.shape
    number = min(len(room.steps), num - first)
    _load_policies(room, packing, source, first, number)
    for lane in range(number):
        i = first + lane
        _load_state(room, 0, lane, journal.states[i])
        room.steps[lane], room.totals[lane] = journal.steps[i], journal.total[i]
    side = 0
    for step in range(horizon):
        _act(functions, room, side)
        _write_observations(room, first, number, step, journal.observations)
        _step(functions, room, side)
        side = 1 - side
        for lane in range(number):
            i = first + lane
            if _write_step(room, side, i, lane, step, journal):
                journal.finished[i] = room.totals[lane]
                journal.finished_steps[i] = room.steps[lane]
                room.totals[lane], room.steps[lane] = 0.0, 0
                start = fresh[(step * num + i) % len(fresh)]
                for k in range(len(start)):
                    room.states[side, k, lane] = start[k]
    _call(functions.observe, (room.states[side].ctypes.data, room.observation.ctypes.data))
    _write_observations(room, first, number, horizon, journal.observations)
    for lane in range(number):
        i = first + lane
        journal.steps[i], journal.total[i] = room.steps[lane], room.totals[lane]
        for k in range(journal.states.shape[1]):
            journal.states[i, k] = room.states[side, k, lane]


@_loop
def run_segments(
    functions: Functions,
    room: Room,
    mode: int,
    packing: Any,
    source: Any,
    fresh: Any,
    queue: Any,
    stop: Any,
    journal: Journal,
) -> None:
    """Runs groups of policies from a queue for a segment each, until none is left.

    Args as of `run_episodes`; `fresh` are `[H N or 1, state]` first states of what follows an
    episode that ends in a step.
    """
    width = len(room.steps)
    room.mode[0] = mode
    if mode:
        _call(functions.flush, (room.mode.ctypes.data,))
    while not stop[0]:
        first = _take(queue.ctypes.data) * width
        if first >= _num_policies(source):
            break
        _run_segment(functions, room, packing, source, fresh, first, journal)
    if mode:
        _call(functions.flush, (room.mode.ctypes.data,))


@_loop
def run_actions(
    functions: Functions,
    room: Room,
    mode: int,
    actions: Any,
    starts: Any,
    queue: Any,
    stop: Any,
    observations: Any,
    rewards: Any,
    ended: Any,
) -> None:
    """Steps groups of environments through given actions `[T, N, A]`, bits.

    What is observed goes into `[N, T, observation]`, rewards and ends into `[N, T]`; nothing of
    it if these are empty.
    """
    width = len(room.steps)
    num_steps, num, size = actions.shape
    written = len(rewards) > 0
    room.mode[0] = mode
    if mode:
        _call(functions.flush, (room.mode.ctypes.data,))
    while not stop[0]:
        first = _take(queue.ctypes.data) * width
        if first >= num:
            break
        number = min(width, num - first)
        for lane in range(number):
            start = starts[(first + lane) % len(starts)]
            for k in range(len(start)):
                room.states[0, k, lane] = start[k]
        side = 0
        for step in range(num_steps):
            for lane in range(number):
                for k in range(size):
                    room.action[k, lane] = actions[step, first + lane, k]
            _step(functions, room, side)
            side = 1 - side
            if written:
                seen = room.observation.ctypes.data
                _call(functions.observe, (room.states[side].ctypes.data, seen))
                _write_observations(room, first, number, step, observations)
                for lane in range(number):
                    rewards[first + lane, step] = room.reward[lane]
                    ended[first + lane, step] = room.ended[lane] != 0
    if mode:
        _call(functions.flush, (room.mode.ctypes.data,))
