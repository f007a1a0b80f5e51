"""Policies that play while one watches: stepped to a time, then looked at."""

from collections.abc import Callable
from typing import Any, Protocol

import gymnasium
import mujoco
import numpy as np

from epvf.analysis.evaluation import act, scaled
from epvf.policies.mlp import Policy
from epvf.tasks.body import ALARMS, Body, State, state_of, transition

SLACK = 1e-9
"""Of a step: times that are whole numbers of steps but for rounding count as such."""


class Rollout(Protocol):
    """An episode under way.

    Attributes:
        total: return so far.
        steps: env steps so far.
        over: whether the episode has ended.
    """

    total: float
    steps: int
    over: bool

    @property
    def interval(self) -> float:
        """Seconds of an env step."""
        ...

    def advance(self) -> None:
        """One env step."""
        ...


def play_until(rollout: Rollout, seconds: float) -> None:
    """Goes on until so many seconds of the episode have passed, or it is over."""
    while not rollout.over and (rollout.steps + 1) * rollout.interval <= seconds + SLACK:
        rollout.advance()


class BodyRollout:
    """A policy in a body on MuJoCo's C engine.

    Where physics, action or reward are not finite, the episode is over and its return NaN.

    Attributes:
        data: MuJoCo's, of which only positions are to be read.
    """

    def __init__(
        self, body: Body, policy: Policy, theta: np.ndarray, start: np.ndarray, most: int
    ) -> None:
        model = body.model()
        self.data = mujoco.MjData(model)
        self.total, self.steps, self.over = 0.0, 0, False
        self._body, self._model, self._policy, self._most = body, model, policy, most
        self._layers = policy.unravel(np.asarray(theta, np.float32))
        self.data.ctrl[:] = body.actions.offset
        if len(start):
            self.data.qpos += start[: model.nq]
            self.data.qvel += start[model.nq : model.nq + model.nv]
        self._command = start[model.nq + model.nv :] if body.command_size else None
        if body.derived:
            mujoco.mj_forward(model, self.data)
        self._state = self._look(None)
        self._observation = transition(body, self._state).observation

    @property
    def interval(self) -> float:
        return self._body.step_seconds

    def advance(self) -> None:
        action = act(self._policy, self._layers, self._observation)
        self.steps += 1
        if not np.isfinite(action).all():
            self.total, self.over = float("nan"), True
            return
        self.data.ctrl[:] = self._body.actions(np.asarray(action, np.float64))
        for _ in range(self._body.frame_skip):
            mujoco.mj_step(self._model, self.data)
        if "cfrc_ext" in self._body.reads:
            mujoco.mj_rnePostConstraint(self._model, self.data)
        self._state = self._look(self._state)
        seen = transition(self._body, self._state)
        self._observation = seen.observation
        failed = bool(self.data.warning.number[ALARMS].any())
        self.total += float("nan") if failed else float(seen.reward)
        self.over = failed or bool(seen.terminated) or self.steps >= self._most

    def _look(self, before: State | None) -> State:
        return state_of(self.data, self._body.derived, before, self._command)


class GymnasiumRollout:
    """A policy in an environment of Gymnasium that draws itself."""

    def __init__(
        self,
        environment: gymnasium.Env[Any, Any],
        policy: Policy,
        theta: np.ndarray,
        seed: int,
        most: int,
    ) -> None:
        self.environment = environment
        self.total, self.steps, self.over = 0.0, 0, False
        self._policy, self._most = policy, most
        self._layers = policy.unravel(np.asarray(theta, np.float32))
        self._observation, _ = environment.reset(seed=seed)

    @property
    def interval(self) -> float:
        return 1.0 / float(self.environment.metadata["render_fps"])

    def advance(self) -> None:
        action = scaled(self.environment, act(self._policy, self._layers, self._observation))
        self._observation, reward, terminated, truncated, _ = self.environment.step(action)
        self.steps += 1
        self.total += float(reward)
        self.over = bool(terminated or truncated) or self.steps >= self._most


def start_of(body: Body, seed: int) -> np.ndarray:
    """Offsets `[nq + nv]` of where an episode starts, and its command behind them.

    `[0]` where every episode starts alike.
    """
    starts: Callable[..., Any] | None = body.starts
    if starts is None:
        return np.zeros(0)
    return np.concatenate(starts(np.random.default_rng(seed), 1), axis=1)[0]
