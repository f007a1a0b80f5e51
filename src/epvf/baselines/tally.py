"""Returns of the training episodes, which Brax's agents do not report.

Import this within `brax_compat.tolerated()`.
"""

from collections import deque
from threading import Lock

import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import Env, State, Wrapper

from epvf.baselines.brax_env import NONFINITE

MIN_EPISODES = 100
"""Over how many of the newest episodes returns are averaged, where there are so many."""

_EPISODES, _SUM, _SQUARES, _LENGTHS, _NONFINITE, _MIN, _MAX = range(7)
_KEY = "tally"


class Tally:
    """The host's side: sums over the episodes that ended, as they arrive."""

    def __init__(self) -> None:
        self._parts: deque[np.ndarray] = deque()
        self._nonfinite = 0
        # XLA calls back from threads of its own
        self._lock = Lock()

    def add(self, part: np.ndarray) -> None:
        """Takes in what `Counted` has counted, `[7]`."""
        row = np.array(part, np.float64)
        with self._lock:
            self._nonfinite += int(row[_NONFINITE])
            if row[_EPISODES]:
                self._parts.append(row)

    def read(self) -> dict[str, float]:
        """Metrics of the newest episodes; NaN before one has ended.

        `rollout/nonfinite` counts the episodes that ended in a non-finite state since the last
        call.
        """
        with self._lock:
            self._forget()
            rows, nonfinite = list(self._parts), self._nonfinite
            self._nonfinite = 0
        episodes = sum(row[_EPISODES] for row in rows)
        mean, squares, length = (
            sum(row[i] for row in rows) / episodes if episodes else np.nan
            for i in (_SUM, _SQUARES, _LENGTHS)
        )
        return {
            "rollout/episode_return": float(mean),
            "rollout/episode_return_std": float(np.sqrt(np.maximum(squares - mean**2, 0.0))),
            "rollout/episode_return_min": float(min((row[_MIN] for row in rows), default=np.nan)),
            "rollout/episode_return_max": float(max((row[_MAX] for row in rows), default=np.nan)),
            "rollout/episode_length": float(length),
            "rollout/nonfinite": nonfinite,
        }

    def _forget(self) -> None:
        """Drops the oldest parts as long as the others hold enough episodes."""
        episodes = sum(row[_EPISODES] for row in self._parts)
        while self._parts and episodes - self._parts[0][_EPISODES] >= MIN_EPISODES:
            episodes -= self._parts.popleft()[_EPISODES]


class Counted(Wrapper):
    """A batch of environments that tells a `Tally` every `period` steps which episodes ended."""

    def __init__(self, env: Env, tally: Tally, period: int) -> None:
        super().__init__(env)
        self._tally, self._period = tally, period

    def reset(self, rng: jax.Array) -> State:
        state = self.env.reset(rng)
        state.info[_KEY] = (jnp.zeros((), jnp.int32), _empty())
        return state

    def step(self, state: State, action: jax.Array) -> State:
        # Brax's own wrappers map over everything that a state holds
        info = dict(state.info)
        steps, counted = info.pop(_KEY)
        state = self.env.step(state.replace(info=info), action)  # type: ignore[attr-defined]
        steps, counted = steps + 1, _count(counted, state)
        due = steps % self._period == 0
        jax.lax.cond(due, lambda: jax.debug.callback(self._tally.add, counted), lambda: None)
        state.info[_KEY] = (steps, jnp.where(due, _empty(), counted))
        return state


def _empty() -> jax.Array:
    """Nothing counted yet, `[7]`."""
    return jnp.array([0, 0, 0, 0, 0, jnp.inf, -jnp.inf], jnp.float32)


def _count(counted: jax.Array, state: State) -> jax.Array:
    """`counted [7]` and the episodes that ended in this step of `[N]` environments."""
    episode, over = state.info["episode_metrics"], state.done > 0
    returns = episode["sum_reward"]
    sums = jnp.stack(
        [
            jnp.sum(jnp.where(over, column, 0.0))
            for column in (
                jnp.ones_like(returns),
                returns,
                jnp.square(returns),
                episode["length"],
                episode[NONFINITE],
            )
        ]
    )
    low = jnp.min(jnp.where(over, returns, jnp.inf))
    high = jnp.max(jnp.where(over, returns, -jnp.inf))
    return jnp.concatenate(
        [
            counted[:_MIN] + sums,
            jnp.minimum(counted[_MIN], low)[None],
            jnp.maximum(counted[_MAX], high)[None],
        ]
    )
