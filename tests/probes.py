"""Tasks whose returns are formulas of θ, so that what must be learned is known."""

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epvf.config import schema
from epvf.config.schema import Config
from epvf.methods.base import Parts
from epvf.methods.registry import METHODS, default_settings
from epvf.policies.formats.registry import load_policy
from epvf.policies.mlp import Policy
from epvf.runs.display import PlainDisplay
from epvf.runs.folder import Run, policy_path
from epvf.runs.metrics import read_metrics
from epvf.runs.recorder import Outcome, record
from epvf.tasks.base import Task, TaskSpec
from epvf.training.loop import init_state, iterate
from epvf.training.prepare import make_policy, prepare
from epvf.training.state import Record, Report
from epvf.types import Evaluate, Evaluation

# not by importing it: that prints, which a test of what is printed would see
needs_brax = pytest.mark.skipif(find_spec("brax") is None, reason="needs the extra `baselines`")

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


def config_of(method: Any = "epvf", base: Any = BASE, **delta: Any) -> Config:
    """A method's configuration: of `base` what it reads, and all of `delta`.

    In names of `delta`, `__` stands for a dot.
    """
    start = Config(method=default_settings(method))
    kept = {name: value for name, value in base.items() if schema.reads(method, name)}
    given = {name.replace("__", "."): value for name, value in delta.items()}
    return start.replace(kept | given)


class Compiled:
    """A method whose steps are compiled whole, as in training.

    Compiled one by one, their operations take several times as long.
    """

    def __init__(self, search: Any) -> None:
        self.search = search
        self.propose, self.learn = jax.jit(search.propose), jax.jit(search.learn)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.search, name)


def search_of(config: Config, spec: TaskSpec) -> Any:
    """The method of a configuration, for a task that it need not have been asked to solve."""
    build = METHODS[config.method.name].build
    assert build is not None
    return Compiled(build(Parts(config, spec, make_policy(config, spec))))


def first_state(config: Config, task: Task) -> Any:
    """What the first seed's method knows before the first iteration."""
    return jax.tree.map(lambda x: x[0], init_state(prepare(config, task)).learner)


def reports_of(config: Config, task: Task) -> list[Report]:
    """A whole run; of the states only the last is still there."""
    return list(iterate(prepare(config, task)))


def records_of(config: Config, task: Task) -> list[Record]:
    """The records of a whole run."""
    return [record for report in reports_of(config, task) for record in report.records]


def untimed(records: Any) -> list[Record]:
    """Records without what differs from machine to machine."""
    return [{k: v for k, v in r.items() if not k.startswith("time/")} for r in records]


SILENT = PlainDisplay(io.StringIO())


def recorded(path: Path, config: Config, task: Task | None = None) -> Outcome:
    """A whole run in a new folder."""
    setup = prepare(config, task)
    run = Run.create(path, setup.config, ["epvf"])
    try:
        return record(run, setup, SILENT)
    finally:
        run.close()


def resumed(path: Path, delta: dict[str, Any] | None = None) -> Outcome:
    """A run that goes on from its newest checkpoint, to another end if `delta` says so."""
    run = Run.open(path)
    try:
        if delta is not None:
            run.reconfigure(run.config.replace(delta))
        run.resumed(["epvf", "resume"])
        return record(run, prepare(run.config, initial=run.initial), SILENT)
    finally:
        run.close()


def interrupted_copy(run: Path, copy: Path) -> None:
    """Copies a run as if it had been stopped before its newest checkpoint."""
    shutil.copytree(run, copy)
    info = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(info | {"status": "interrupted"}))
    shutil.rmtree(max((copy / "checkpoints").iterdir()))


def assert_same_run(run: Path, reference: Path) -> list[Record]:
    """Checks that two runs learned the same to the bit; gives their records."""
    ours, theirs = (untimed(read_metrics(path / "metrics.jsonl")) for path in (run, reference))
    assert ours == theirs
    for which in ("best", "last"):
        mine, other = (load_policy(policy_path(path, which)) for path in (run, reference))
        np.testing.assert_array_equal(mine.theta, other.theta)
        assert mine.metadata == other.metadata
    return ours


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
