"""The Ant as a Gymnasium environment: for other libraries, and to compare speeds with theirs."""

from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces
from jaxtyping import Float

from epvf.errors import UserError
from epvf.tasks import ant
from epvf.tasks.body import ALARMS, State, transition


class AntEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """One Ant on MuJoCo's C engine, equal to the `native` backend to the bit.

    Observation `[34]` and reward are `ant.observe`'s and `ant.reward`'s, actions `[8]` the motors'
    controls in ±1. Every episode starts in the same state; it is terminated when the Ant falls,
    and truncated after `episode_length` steps. The reward of a state that is not finite is NaN.
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
        return self._transition()[0], {}

    def step(
        self, action: Float[np.ndarray, "8"]
    ) -> tuple[Float[np.ndarray, "34"], float, bool, bool, dict[str, Any]]:
        """One control step: observation, reward, terminated, truncated, and nothing more to say."""
        self._data.ctrl[:] = action
        mujoco.mj_step(self._model, self._data)
        self._num_steps += 1
        observation, reward, terminated = self._transition()
        if self._data.warning.number[ALARMS].any():
            # MuJoCo went on from a state of its own
            reward, terminated = float("nan"), True
        truncated = self._num_steps >= self._episode_length and not terminated
        return observation, reward, terminated, truncated, {}

    def _transition(self) -> tuple[Float[np.ndarray, "34"], float, bool]:
        """Observation, reward and termination of the present state.

        `transition` by the formulas it is made of: on arrays this small the library's functions
        would cost several times as much as the physics.
        """
        data = self._data
        state = State(data.qpos, data.qvel, data.ctrl, data.qpos, data.time)
        observation = np.hstack(ant.observe(state))
        if not np.isfinite(observation).all():
            result = transition(ant.BODY, state)
            observation = result.observation.astype(np.float32)
            return observation, float(result.reward), bool(result.terminated)
        limit = ant.OBSERVATION_LIMIT
        seen = observation.clip(-limit, limit).astype(np.float32)
        return seen, float(ant.reward(state)), bool(ant.terminated(state))
