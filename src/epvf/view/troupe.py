"""Many policies that play in one scene: where their bodies are, and how they do."""

from collections.abc import Sequence
from typing import NamedTuple

import mujoco
import numpy as np
from jaxtyping import Float

from epvf.policies.mlp import Policy
from epvf.tasks.body import Body
from epvf.view.rollouts import BodyRollout, start_of


class Places(NamedTuple):
    """Where the bodies of every robot are: positions (m) and orientations."""

    positions: Float[np.ndarray, "N bodies 3"]
    quaternions: Float[np.ndarray, "N bodies 4"]


class Troupe:
    """Policies `[N, P]` of one architecture, all of which start alike.

    Attributes:
        seconds: of the task's time that have passed.
    """

    def __init__(
        self, body: Body, policy: Policy, thetas: Sequence[np.ndarray], seed: int, most: int
    ) -> None:
        self._model, self.seconds = body.model(), 0.0
        start = start_of(body, seed)
        self._rollouts = [BodyRollout(body, policy, theta, start, most) for theta in thetas]

    @property
    def returns(self) -> Float[np.ndarray, "N"]:
        """So far; NaN where anything was not finite."""
        return np.array([rollout.total for rollout in self._rollouts])

    @property
    def over(self) -> bool:
        """Whether every episode has ended."""
        return all(rollout.over for rollout in self._rollouts)

    def advance(self, seconds: float) -> None:
        """Lets so much of the task's time pass."""
        self.seconds += seconds
        for rollout in self._rollouts:
            while not rollout.over and (rollout.steps + 1) * rollout.interval <= self.seconds:
                rollout.advance()

    def places(self) -> Places:
        """Now."""
        for rollout in self._rollouts:
            mujoco.mj_kinematics(self._model, rollout.data)
        positions = np.stack([rollout.data.xpos for rollout in self._rollouts])
        return Places(positions, np.stack([rollout.data.xquat for rollout in self._rollouts]))
