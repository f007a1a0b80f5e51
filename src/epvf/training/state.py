"""All of a run between two iterations, and what the loop tells of it."""

from typing import NamedTuple, TypeAlias

import jax
import numpy as np

from epvf.config.schema import Config
from epvf.errors import RunFailed
from epvf.methods.base import State

Record: TypeAlias = dict[str, float | int]


class TrainingDiverged(RunFailed):
    """An update of V or of the policy was not finite, and was not applied; or no rollout was."""


class TrainState(NamedTuple):
    """All of a run: restoring it continues the run as if it had never stopped.

    Attributes:
        learner: the method's state; every array has a leading axis over the M seeds.
        iteration: iterations done.
        env_steps: `[M]` int64 on the host, where 4096 x 1000 steps an iteration cannot overflow.
        wall_time: seconds spent training.
    """

    learner: State
    iteration: int
    env_steps: np.ndarray
    wall_time: float


class Report(NamedTuple):
    """News from the loop.

    Attributes:
        state: as of now. Where the loop was told to `donate`, its arrays are gone with the next
            iteration: use them before, or `copied`.
        records: one flat dict per iteration and seed, as in `metrics.jsonl`.
    """

    state: TrainState
    records: list[Record]


def copied(state: TrainState) -> TrainState:
    """The same in arrays of its own, which no iteration takes."""
    return jax.tree.map(lambda leaf: leaf.copy() if hasattr(leaf, "copy") else leaf, state)


def finished(config: Config, state: TrainState) -> bool:
    """Whether the run has all its iterations or env steps (of the seed that has fewest)."""
    left = env_steps_left(config, state)
    return state.iteration >= config.iterations or (left is not None and left <= 0)


def env_steps_left(config: Config, state: TrainState) -> int | None:
    """Of the seed that has taken fewest; None: without limit."""
    return None if config.env_steps is None else config.env_steps - int(state.env_steps.min())


def may_be_last(config: Config, state: TrainState, most: int) -> bool:
    """Whether the next iteration, of at most so many env steps, may use up the run's.

    How many it takes is not known before its episodes have ended, so that several iterations may
    be told so in a row.
    """
    left = env_steps_left(config, state)
    return left is not None and left <= most
