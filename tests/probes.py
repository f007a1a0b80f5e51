"""Tasks whose returns are formulas of θ, so that what must be learned is known."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from epvf.policies.mlp import Policy
from epvf.tasks.base import TaskSpec
from epvf.types import Evaluate, Evaluation

BASE: dict[str, Any] = {
    "policy.hidden_sizes": [],
    "policy.init": "lecun_uniform",
    "perturbation.noise": "gaussian",
    "perturbation.scale": 0.1,
    "num_envs": 64,
    "buffer.size": 64,
    "value_update.batch_size": 64,
    "value.hidden_sizes": [16],
    "iterations": 1,
    "eval.episodes": 4,
}
"""A small, quick configuration that fits these tasks, as dotted fields."""


KEYS = {
    "steps/update",
    "steps/env",
    "time/wall",
    "time/sps",
    "rollout/episode_return",
    "rollout/episode_return_std",
    "rollout/episode_return_min",
    "rollout/episode_return_max",
    "rollout/episode_length",
    "rollout/nonfinite",
    "eval/episode_return",
    "loss/value",
    "value/spearman",
    "policy/step_norm",
    "policy/clipped_fraction",
    "policy/predicted_gain",
    "policy/realized_gain",
}
"""Of every record in `metrics.jsonl` but its seed."""


@dataclass(frozen=True)
class FormulaTask:
    """Every policy's return is `formula(thetas [N, P]) -> [N]`, in one env step.

    `longest` is how many env steps the task says an episode may take.
    """

    formula: Callable[[Any], Any]
    traceable: bool = True
    longest: int = 1

    @property
    def spec(self) -> TaskSpec:
        return TaskSpec(
            name="formula",
            backend="jax",
            observation_size=3,
            action_size=1,
            discrete=False,
            episode_length=self.longest,
            deterministic_reset=True,
            traceable=self.traceable,
        )

    def evaluator(self, policy: Policy) -> Evaluate:
        xp = jnp if self.traceable else np

        def evaluate(key: Any, thetas: Any) -> Evaluation:
            returns = xp.asarray(self.formula(thetas), xp.float32)
            return Evaluation(returns, xp.ones(thetas.shape[0], xp.int32))

        return evaluate


@dataclass(frozen=True)
class RandomStartTask:
    """Every return is `formula(thetas [N, P], starts [N, 3]) -> [N]`, starts uniform in ±0.05.

    With `tells` false the evaluation does not say which starts they were.
    """

    formula: Callable[[Any, Any], Any]
    traceable: bool = True
    tells: bool = True

    @property
    def spec(self) -> TaskSpec:
        return replace(FormulaTask(lambda t: t, self.traceable).spec, deterministic_reset=False)

    def evaluator(self, policy: Policy) -> Evaluate:
        xp = jnp if self.traceable else np

        def evaluate(key: Any, thetas: Any) -> Evaluation:
            shape = (thetas.shape[0], 3)
            starts = xp.asarray(jax.random.uniform(key, shape, minval=-0.05, maxval=0.05))
            returns = xp.asarray(self.formula(thetas, starts), xp.float32)
            lengths = xp.ones(thetas.shape[0], xp.int32)
            return Evaluation(returns, lengths, starts if self.tells else None)

        return evaluate


def learning_records(values: Any, seed: int, steps: int = 100) -> list[dict[str, Any]]:
    """Of one seed, an iteration a value; every fifth also measured the unperturbed policy."""
    return [
        {
            "steps/update": t + 1,
            "steps/env": (t + 1) * steps,
            "seed": seed,
            "rollout/episode_return": value,
            "eval/episode_return": value if t % 5 == 0 else None,
        }
        for t, value in enumerate(values)
    ]
