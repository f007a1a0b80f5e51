"""Returns of the training episodes, which Brax's agents do not report.

Import this within `brax_compat.tolerated()`.
"""

from collections import deque
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from brax.envs.base import Env, State, Wrapper

from epvf.methods.agents.brax_env import NONFINITE

MIN_EPISODES = 100
"""Over how many of the newest episodes returns are averaged, where there are so many."""

_EPISODES, _SUM, _SQUARES, _LENGTHS, _NONFINITE, _MIN, _MAX = range(7)
_KEY = "tally"


class Tally:
    """The host's side: sums over the episodes that ended, an iteration at a time."""

    def __init__(self) -> None:
        self._parts: deque[np.ndarray] = deque()
        self._newest: jax.Array | None = None

    def see(self, counts: Any) -> None:
        """Takes note of the newest counts, `[D, 7]` of `D` devices, if they are numbers."""
        if isinstance(counts, jax.Array) and not isinstance(counts, jax.core.Tracer):
            self._newest = counts

    def read(self) -> dict[str, float]:
        """Metrics of the newest episodes, NaN before one has ended; once an iteration.

        `rollout/nonfinite` counts the episodes that this iteration ended in a non-finite state.
        """
        new = np.empty((0, 7)) if self._newest is None else np.array(self._newest, np.float64)
        new = new.reshape(-1, 7)
        self._parts.extend(row for row in new if row[_EPISODES])
        self._forget()
        rows = list(self._parts)
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
            "rollout/nonfinite": int(new[:, _NONFINITE].sum()),
        }

    def _forget(self) -> None:
        """Drops the oldest parts as long as the others hold enough episodes."""
        episodes = sum(row[_EPISODES] for row in self._parts)
        while self._parts and episodes - self._parts[0][_EPISODES] >= MIN_EPISODES:
            episodes -= self._parts.popleft()[_EPISODES]


@jax.tree_util.register_pytree_node_class
class Counts:
    """Rides in the state of a batch of environments and shows itself to a `Tally`.

    Brax keeps the state to itself. Whenever it comes out of a compiled function, JAX builds it
    anew from its arrays: that is where the tally sees the counts. A callback from within the
    program would do too, but such programs are not kept in the compilation cache.

    Attributes:
        steps: `[]` since the start.
        running: `[7]` of the iteration under way.
        last: `[7]` of the last whole iteration.
        tally: to show them to.
    """

    def __init__(self, steps: Any, running: Any, last: Any, tally: Tally) -> None:
        self.steps, self.running, self.last, self.tally = steps, running, last, tally

    def tree_flatten(self) -> tuple[tuple[Any, Any, Any], Tally]:
        return (self.steps, self.running, self.last), self.tally

    @classmethod
    def tree_unflatten(cls, tally: Tally, children: tuple[Any, Any, Any]) -> "Counts":
        steps, running, last = children
        tally.see(last)
        return cls(steps, running, last, tally)


class Counted(Wrapper):
    """A batch of environments that counts the episodes that end within `period` steps."""

    def __init__(self, env: Env, tally: Tally, period: int) -> None:
        super().__init__(env)
        self._tally, self._period = tally, period

    def reset(self, rng: jax.Array) -> State:
        state = self.env.reset(rng)
        zero = jnp.zeros((), jnp.int32)
        state.info[_KEY] = Counts(zero, _empty(), _empty(), self._tally)
        return state

    def step(self, state: State, action: jax.Array) -> State:
        # Brax's own wrappers map over everything that a state holds
        info = dict(state.info)
        counts = info.pop(_KEY)
        state = self.env.step(state.replace(info=info), action)
        steps, running = counts.steps + 1, _count(counts.running, state)
        over = steps % self._period == 0
        state.info[_KEY] = Counts(
            steps,
            jnp.where(over, _empty(), running),
            jnp.where(over, running, counts.last),
            self._tally,
        )
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
