"""How long a run takes on this machine, from its first iterations."""

import math
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from epvf.methods.metrics import total_steps
from epvf.training import compiled, on_host
from epvf.training.loop import init_state
from epvf.training.prepare import Setup
from epvf.training.steps import Announce, Step, most_steps

ENOUGH_SECONDS = 2.0
"""Of iterations, the first not counted, after which no further one is measured."""

LONG_SECONDS = 20.0
"""Of a first iteration that has to do."""

MOST_ITERATIONS = 10


class Pace(NamedTuple):
    """What iterations cost here.

    Attributes:
        startup: seconds until the first iteration begins, most of them compiling.
        rollout: seconds of rollouts in an iteration; where a whole iteration is one program, of
            all of it.
        rest: seconds of an iteration besides.
        env_steps: of an iteration, clouds included, as long as episodes were.
    """

    startup: float
    rollout: float
    rest: float
    env_steps: float


class Expected(NamedTuple):
    """Seconds of a run: as long as its first episodes are, and with all of them at full length."""

    short: float
    long: float


def measure(setup: Setup, announce: Announce = lambda message: None) -> Pace:
    """Runs some iterations of a run that is then forgotten.

    The first one is counted only if it lasts so long that no other follows: it warms up.
    """
    begin = time.perf_counter()
    run = compiled.steps if setup.task.spec.traceable else on_host.steps
    parts: list[tuple[float, float, float]] = []
    wall = 0.0
    for state, metrics, timing in _some(run(setup, init_state(setup), announce)):
        steps = total_steps(metrics["rollout/all_steps"]).sum(axis=1)
        seconds = np.diff(timing.wall, prepend=wall)
        parts += zip(timing.rollout, seconds - timing.rollout, steps, strict=True)
        wall = state.wall_time
    startup = time.perf_counter() - begin - wall
    rollout, rest, env_steps = np.mean(parts[1:] or parts, axis=0)
    return Pace(startup, float(rollout), max(float(rest), 0.0), float(env_steps))


def expect(setup: Setup, pace: Pace) -> Expected:
    """The seconds of a whole run at this pace, start-up included."""
    config = setup.config
    most = config.num_seeds * most_steps(setup)
    longer = max(most / max(pace.env_steps, 1.0), 1.0)
    ends = [
        pace.startup
        + _iterations(setup, most / factor) * (pace.rollout * longer / factor + pace.rest)
        for factor in (longer, 1.0)
    ]
    return Expected(min(ends), max(ends))


def _some(steps: Iterator[Step]) -> Iterator[Step]:
    first = None
    for step in steps:
        yield step
        state = step[0]
        first = state.wall_time if first is None else first
        enough = state.wall_time - first >= ENOUGH_SECONDS or first >= LONG_SECONDS
        if enough or state.iteration >= MOST_ITERATIONS:
            return


def _iterations(setup: Setup, env_steps: float) -> int:
    """How many a run has if each takes so many env steps, of all seeds."""
    config = setup.config
    if config.env_steps is None:
        return config.iterations
    each = env_steps / config.num_seeds
    return min(config.iterations, math.ceil(config.env_steps / max(each, 1.0)))
