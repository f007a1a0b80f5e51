"""The Ant as a Gymnasium environment: for other libraries, and to compare speeds with theirs."""

from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces
from jaxtyping import Float

from epvf.errors import UserError
from epvf.tasks import ant

_ALARMS = slice(int(mujoco.mjtWarning.mjWARN_BADQPOS), int(mujoco.mjtWarning.mjWARN_BADCTRL) + 1)
"""Warnings of a simulation that is no longer sound."""


class AntEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """One Ant on MuJoCo's C engine, equal to the `native` backend to the bit.

    Observation `[34]` and reward are `ant.transition`'s, actions `[8]` the motors' controls in
    ±1. Every episode starts in the same state; it is terminated when the Ant falls, and truncated
    after `episode_length` steps. The reward of a state that is not finite is NaN.
    """

    metadata = {"render_modes": []}  # noqa: RUF012  # as Gymnasium declares it

    def __init__(self, episode_length: int = ant.EPISODE_LENGTH) -> None:
        """An Ant.

        Args:
            episode_length: longest episode, in steps of 0.01 s.

        Raises:
            UserError: if `episode_length` is not positive.
        """
        if episode_length < 1:
            raise UserError(f"episode_length is {episode_length}, but must be at least 1")
        limit = ant.OBSERVATION_LIMIT
        self.observation_space = spaces.Box(-limit, limit, (ant.OBSERVATION_SIZE,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (ant.ACTION_SIZE,), np.float32)
        self._episode_length = episode_length
        self._model = ant.model()
        self._data = mujoco.MjData(self._model)
        self._num_steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float[np.ndarray, "34"], dict[str, Any]]:
        """Back to the start. Nothing is random there, so that `seed` and `options` do nothing."""
        super().reset(seed=seed)
        mujoco.mj_resetData(self._model, self._data)
        self._num_steps = 0
        return self._transition().observation[0], {}

    def step(
        self, action: Float[np.ndarray, "8"]
    ) -> tuple[Float[np.ndarray, "34"], float, bool, bool, dict[str, Any]]:
        """One control step: observation, reward, terminated, truncated, and nothing more to say."""
        self._data.ctrl[:] = action
        mujoco.mj_step(self._model, self._data)
        self._num_steps += 1
        result = self._transition()
        reward, terminated = float(result.reward[0]), bool(result.terminated[0])
        if self._data.warning.number[_ALARMS].any():
            # MuJoCo went on from a state of its own
            reward, terminated = float("nan"), True
        truncated = self._num_steps >= self._episode_length and not terminated
        return result.observation[0], reward, terminated, truncated, {}

    def _transition(self) -> ant.Transition:
        """Of the present state, with a batch axis of 1."""
        state = (self._data.qpos, self._data.qvel, self._data.ctrl)
        return ant.transition(*(part[None].astype(np.float32) for part in state))
