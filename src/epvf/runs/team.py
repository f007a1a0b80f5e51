"""A run that several processes train: what process 0 is shown of it, and what the others do."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from epvf.files import from_json
from epvf.methods.base import State
from epvf.runs.interrupt import Interrupt
from epvf.runtime import hosts
from epvf.runtime.devices import everywhere
from epvf.training.loop import init_state, iterate
from epvf.training.prepare import Setup
from epvf.training.state import TrainingDiverged, TrainState, finished
from epvf.types import Array


class Seen(NamedTuple):
    """Of a learner's state what a run shows and writes at every report.

    Attributes:
        progress: what every method remembers, of all seeds.
        theta: `[M, P]` the unperturbed policies.
    """

    progress: Any
    theta: Array


def seeing(setup: Setup) -> Callable[[State], Any]:
    """What makes a learner's state visible here, for all processes to call at every report.

    Of one process all of it is there already.
    """
    if not hosts.several():
        return lambda learner: learner
    assert setup.mesh is not None
    centre = jax.vmap(setup.search.centre)
    see = jax.jit(
        lambda learner: Seen(learner.progress, centre(learner)),
        out_shardings=everywhere(setup.mesh),
    )
    return lambda learner: jax.tree.map(np.asarray, see(learner))


def share_state(state: TrainState | None, like: State) -> TrainState | None:
    """Process 0's state, for all processes to call; None: the run begins."""
    if not hosts.several():
        return state
    told = None
    if state is not None:
        told = [state.iteration, state.env_steps.tolist(), state.wall_time]
    told = from_json(hosts.share(json.dumps(told).encode()))
    if told is None:
        return None
    iteration, env_steps, wall_time = told
    leaves, structure = jax.tree.flatten(like)
    given = [None] * len(leaves) if state is None else jax.tree.leaves(state.learner)
    found = []
    for leaf, array in zip(leaves, given, strict=True):
        content = hosts.share(None if array is None else np.asarray(array).tobytes())
        found.append(np.frombuffer(content, leaf.dtype).reshape(leaf.shape))
    learner = jax.tree.unflatten(structure, found)
    return TrainState(learner, iteration, np.asarray(env_steps, np.int64), wall_time)


def follow(setup: Setup) -> int:
    """Trains as process 0 does, which decides, writes and shows; returns the exit code."""
    like = jax.eval_shape(lambda: init_state(setup).learner)
    interrupt = Interrupt(lambda message: None)
    with interrupt.listening():
        state = share_state(None, like)
        if state is not None and finished(setup.config, state):
            return 0
        try:
            return _follow(setup, state, interrupt)
        except TrainingDiverged:
            return 1  # as process 0 says


def _follow(setup: Setup, state: TrainState | None, interrupt: Interrupt) -> int:
    see, healthy, received = seeing(setup), True, 0
    for report in iterate(setup, state, donate=True):
        state = report.state
        healthy = bool(see(state.learner).progress.healthy.all())
        if hosts.agree(0):
            hosts.whole(state.learner)
        if received := hosts.agree(interrupt.received or 0):
            break
    if healthy and state is not None:
        hosts.whole(state.learner)
    over = state is not None and finished(setup.config, state)
    return 0 if over or not received else 128 + received
