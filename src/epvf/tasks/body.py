"""The bodies that walk on MuJoCo's C engine, as far as their sizes, models and starts go."""

from collections.abc import Callable
from dataclasses import dataclass

import mujoco
import numpy as np

from epvf.tasks import ant, half_cheetah, hopper
from epvf.tasks.base import TaskSpec


@dataclass(frozen=True)
class Body:
    """What tells one body from another, but for its formulas.

    Attributes:
        name: of the task.
        code: by which compiled loops know it.
        model: of its physics.
        observation_size, action_size: lengths.
        episode_length: longest episode in env steps.
        frame_skip: physics' steps in an env step.
        starts: random generator and N to `[N, nq + nv]` offsets of where episodes start from the
            model's own positions and velocities; None: every episode starts there.
        observed: positions `[nq]` and velocities `[nv]` to the observation, also of columns
            `[nq, N]` and `[nv, N]`; there where `starts` is.
        terminates: whether a step can end the episode, as a fall does.
    """

    name: str
    code: int
    model: Callable[[], mujoco.MjModel]
    observation_size: int
    action_size: int
    episode_length: int
    frame_skip: int = 1
    starts: Callable[[np.random.Generator, int], np.ndarray] | None = None
    observed: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    terminates: bool = True

    def spec(self, episode_length: int | None) -> TaskSpec:
        """The task's sizes on this engine."""
        return TaskSpec(
            name=self.name,
            backend="native",
            observation_size=self.observation_size,
            action_size=self.action_size,
            discrete=False,
            episode_length=self.episode_length if episode_length is None else episode_length,
            deterministic_reset=self.starts is None,
            traceable=False,
            terminates=self.terminates,
        )


ANT = Body("ant", 0, ant.model, ant.OBSERVATION_SIZE, ant.ACTION_SIZE, ant.EPISODE_LENGTH)
HOPPER = Body(
    "hopper",
    1,
    hopper.model,
    hopper.OBSERVATION_SIZE,
    hopper.ACTION_SIZE,
    hopper.EPISODE_LENGTH,
    hopper.FRAME_SKIP,
    hopper.starts,
    hopper.observed,
)
HALF_CHEETAH = Body(
    "halfcheetah",
    2,
    half_cheetah.model,
    half_cheetah.OBSERVATION_SIZE,
    half_cheetah.ACTION_SIZE,
    half_cheetah.EPISODE_LENGTH,
    half_cheetah.FRAME_SKIP,
    half_cheetah.starts,
    half_cheetah.observed,
    terminates=False,
)
