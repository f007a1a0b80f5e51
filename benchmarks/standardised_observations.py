"""Are evolution strategies and V(θ) slow on the Ant because its observations differ in size?

    python benchmarks/standardised_observations.py POLICY METHOD SEED OUT.jsonl [FIELD=VALUE ...]

POLICY is the file of a policy that walks: `policies/last.safetensors` of `epvf train ant`. The mean
and deviation of what it observes in whole episodes are given to METHOD, which trains as it does in
`epvf compare ant --env-steps 40e6`, but searches θ of a policy that reads observations standardised
by them. That is more than a method could know when it starts: V(s, θ) has to measure as it goes.
OUT gets a record every half a million env steps, for `benchmarks/figures.py`.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from figures import KEYS

from epvf.config.schema import Config
from epvf.experiments.compare import planned
from epvf.policies import scaling as coordinates
from epvf.policies.formats.registry import load_policy
from epvf.policies.formats.safetensors import SavedPolicy
from epvf.policies.mlp import Policy
from epvf.policies.noise import jitter
from epvf.policies.scaling import Scaler
from epvf.tasks.base import Task, TaskSpec, explorer_of
from epvf.training.loop import iterate
from epvf.training.prepare import prepare
from epvf.types import Evaluate, Evaluation, Population, PRNGKey

ENV_STEPS, EVERY = 40e6, 0.5e6
COPIES = 64
"""Rollouts behind the statistics, of policies with their weights jittered by 1 %."""


@dataclasses.dataclass(frozen=True)
class Standardised:
    """A task whose policies read standardised observations, made of one where they read raw ones.

    Attributes:
        task: which is called from the host.
        scaler: of the observations.
    """

    task: Task
    scaler: Scaler

    @property
    def spec(self) -> TaskSpec:
        """That of the task."""
        return self.task.spec

    def evaluator(self, policy: Policy) -> Evaluate:
        """`Evaluate` of the task, given what acts on raw observations as `thetas` on others."""
        evaluate = self.task.evaluator(policy)
        raw = jax.jit(lambda thetas: coordinates.raw(policy, self.scaler, thetas))

        def standardised(key: PRNGKey, thetas: Population) -> Evaluation:
            return evaluate(key, np.asarray(raw(thetas)))

        return standardised


def measured(task: Task, saved: SavedPolicy) -> Scaler:
    """Mean and deviation of what the policy observes."""
    explore = explorer_of(task, saved.policy, task.spec.episode_length)
    key = jax.random.key(0)
    thetas = np.asarray(jitter(key, saved.theta, COPIES, 0.01))
    seen = np.asarray(explore(key, thetas, explore.reset(key, COPIES)).observations)
    rows = seen.reshape(-1, seen.shape[-1])
    return Scaler(rows.mean(axis=0), rows.std(axis=0) + 1e-3)


def configured(method: str, seed: int, changes: dict[str, Any]) -> Config:
    """That of the comparison, with fields changed."""
    plan = planned("ant", [method], seed + 1, ENV_STEPS, delta={"task.backend": "native"} | changes)
    return plan.arms[seed].config


def run(policy: Path, method: str, seed: int, out: Path, changes: dict[str, Any]) -> None:
    """Trains, and writes what figures need."""
    setup = prepare(configured(method, seed, changes))
    task = setup.task
    standardised = Standardised(task, measured(task, load_policy(policy)))
    due = 0.0
    with out.open("w") as file:
        for report in iterate(prepare(setup.config, standardised), announce=print):
            for record in report.records:
                if record["steps/env"] >= min(due, ENV_STEPS) and "eval/episode_return" in record:
                    due = record["steps/env"] + EVERY
                    kept = {key: record[key] for key in KEYS if key in record}
                    print(json.dumps(kept), file=file, flush=True)


if __name__ == "__main__":
    arguments = [word for word in sys.argv[1:] if "=" not in word]
    if len(arguments) != 4:
        sys.exit(__doc__)
    changes = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    policy, method, seed, out = arguments
    fields = {name: json.loads(value) for name, value in changes.items()}
    run(Path(policy), method, int(seed), Path(out), fields)
