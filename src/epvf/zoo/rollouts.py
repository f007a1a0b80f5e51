"""Rolling out given policies, each several times."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from epvf.config.schema import EvalConfig
from epvf.policies.mlp import Policy
from epvf.policies.noise import jitter
from epvf.tasks import make
from epvf.tasks.base import check_policy

RollOut: TypeAlias = Callable[[Float[np.ndarray, "k P"], int], Float[np.ndarray, "k episodes"]]
"""Returns of policies, so many episodes each; every call starts its episodes anew."""


class Roller:
    """A `RollOut` on a task, that counts its episodes and never uses a key twice.

    Where a task resets deterministically the episodes are those of copies whose weights are
    jittered, as everywhere in the library.
    """

    def __init__(
        self,
        task: str,
        policy: Policy,
        backend: str = "auto",
        episode_length: int | None = None,
        seed: int = 0,
        made: Any = None,
    ) -> None:
        """Makes the task.

        Raises:
            UserError: if there is none of this name, or the policy does not fit it.
        """
        self.task: Any = (
            make(task, backend=backend, episode_length=episode_length) if made is None else made
        )
        check_policy(self.task.spec, policy)
        self._evaluate = self.task.evaluator(policy)
        if self.task.spec.traceable:
            self._evaluate = jax.jit(self._evaluate)
        self._key = jax.random.key(seed)
        self._relative = EvalConfig().jitter if self.task.spec.deterministic_reset else 0.0
        self.episodes = 0

    def __call__(self, thetas: Float[np.ndarray, "k P"], episodes: int) -> np.ndarray:
        """Returns `[k, episodes]`; NaN where the physics was not finite."""
        self._key, key = jax.random.split(self._key)
        cloud_key, rollout_key = jax.random.split(key)
        copies = np.repeat(np.asarray(thetas, np.float32), episodes, axis=0)
        if self._relative:
            keys = jax.random.split(cloud_key, len(thetas))
            copies = np.concatenate([
                np.asarray(jitter(own, jnp.asarray(theta), episodes, self._relative))
                for own, theta in zip(keys, thetas, strict=True)
            ])  # fmt: skip
        found = self._evaluate(rollout_key, copies)
        self.episodes += len(copies)
        returns = np.asarray(found.returns, np.float64)
        return np.where(np.isfinite(returns), returns, np.nan).reshape(len(thetas), episodes)
