"""A task of one's own, in numpy: a cart on a line, to be stopped in the middle.

    epvf train examples/own_task.py:make --iterations 30
    epvf eval RUN

The run is recorded under this name, so that `epvf resume`, `eval`, `compare` and `plot` find the
task again. An installed package would be named `package.module:make`, or offer an entry point of
the group `epvf.tasks` and be known by a plain name.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import epvf

SECONDS = 0.1


class Line:
    """All episodes run side by side, each with its own policy."""

    def __init__(self, episode_length: int) -> None:
        self.spec = epvf.TaskSpec(
            name="line",
            backend="numpy",
            observation_size=2,  # position (m) and velocity (m/s)
            action_size=1,  # acceleration (m/s²), in [-1, 1]
            discrete=False,
            episode_length=episode_length,
            deterministic_reset=False,
            traceable=False,  # called from the host, with numpy arrays
            terminates=False,
        )

    def evaluator(self, policy: epvf.Policy) -> Callable[[Any, np.ndarray], epvf.Evaluation]:
        """`(key, thetas [N, P]) -> Evaluation`: the only thing that training needs."""
        actions = jax.jit(jax.vmap(policy.apply))  # of N policies, each for its own observation

        def evaluate(key: Any, thetas: np.ndarray) -> epvf.Evaluation:
            num, layers = len(thetas), policy.unravel(thetas)
            seen = np.asarray(jax.random.uniform(key, (num, 2), minval=-1.0, maxval=1.0)).copy()
            returns = np.zeros(num, np.float32)
            for _ in range(self.spec.episode_length):
                push = np.asarray(actions(layers, seen))
                seen[:, 1] += SECONDS * push[:, 0]
                seen[:, 0] += SECONDS * seen[:, 1]
                returns += np.exp(-(seen**2).sum(axis=1))
            return epvf.Evaluation(returns, np.full(num, self.spec.episode_length, np.int32))

        return evaluate


def make(episode_length: int = 50) -> Line:
    """What `epvf train examples/own_task.py:make` calls."""
    return Line(episode_length)


if __name__ == "__main__":
    # V(θ): this task's environments cannot wait in the middle of an episode, as V(s, θ) needs
    config = epvf.preset("examples/own_task.py:make", "debug", method="epvf")
    result = epvf.train(config.replace({"iterations": 5}))
    print(f"{result.records[-1]['rollout/episode_return']:.2f} of at most 50")
