"""The online loop: propose a population, evaluate it, learn from it, and say what happened.

`iterate` is a generator, so whoever consumes it (a run on disk, a notebook, a test) decides what to
save and when to stop. Where the task can be traced, whole iterations run inside one compiled
program and the host wakes about once a second; otherwise the same functions are compiled apart and
the task is called between them.
"""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from epvf.config.schema import Config
from epvf.errors import UserError
from epvf.methods.base import PolicySearch
from epvf.methods.metrics import INTERNAL
from epvf.training import compiled, on_host
from epvf.training.prepare import Setup
from epvf.training.state import Record, Report, TrainingDiverged, TrainState
from epvf.training.steps import Announce, Metrics, Timing, split_seeds


def init_state(setup: Setup) -> TrainState:
    """The run before its first iteration, one learner a seed."""
    config, search = setup.config, setup.search
    seeds = range(config.seed, config.seed + config.num_seeds)
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    learners = jax.jit(jax.vmap(search.init_state))(keys)
    if setup.initial is not None:
        start = partial(search.start_from, theta=jnp.asarray(setup.initial))
        learners = jax.jit(jax.vmap(start))(learners)
    if setup.explore is not None:
        # of all seeds together, and with keys that no iteration uses
        reset = partial(setup.explore.reset, jax.random.fold_in(keys[0], 1))
        envs = reset(config.num_seeds * config.num_envs)
        learners = learners._replace(envs=split_seeds(envs, config.num_seeds))
    return TrainState(learners, 0, np.zeros(config.num_seeds, np.int64), 0.0)


def iterate(
    setup: Setup, state: TrainState | None = None, announce: Announce = lambda message: None
) -> Iterator[Report]:
    """Runs Algorithm 1 (Bohlinger & Peters 2025) to the end, reporting about once a second.

    Args:
        setup: the run, of a method that searches by populations.
        state: where to go on; None: from the start.
        announce: told of long silent phases (compilation).

    Raises:
        UserError: if the method is an agent, whose loop is its own (`epvf.training.agents`).
        TrainingDiverged: after an update that was not finite; the last report is still good.
    """
    if setup.method is None:
        raise UserError(
            f"method {setup.config.method.name!r} has a loop of its own: use epvf.train"
        )
    first = init_state(setup) if state is None else state
    run = compiled.steps if setup.task.spec.traceable else on_host.steps
    for state, metrics, timing in run(setup, first, announce):
        yield Report(state, _records(setup.config, state, metrics, timing))
        _check_health(setup.config, setup.method, metrics)


def _records(config: Config, state: TrainState, metrics: Metrics, timing: Timing) -> list[Record]:
    """Flat records in the order of `metrics.jsonl`: iterations, and seeds within each."""
    steps = metrics["rollout/steps"].astype(np.int64)
    rolled = metrics["rollout/all_steps"].astype(np.int64).sum(axis=1)
    num, seeds = steps.shape
    totals = state.env_steps[None, :] - steps.sum(axis=0)[None, :] + steps.cumsum(axis=0)
    records = []
    for i in range(num):
        for m in range(seeds):
            record: Record = {
                "steps/update": state.iteration - num + i + 1,
                "steps/env": int(totals[i, m]),
                "time/wall": float(timing.wall[i]),
                "time/sps": float(rolled[i] / max(timing.rollout[i], 1e-9)),
            }
            for name, values in metrics.items():
                if name not in INTERNAL:
                    record[name] = values[i, m].item()
            if seeds > 1:
                record["seed"] = config.seed + m
            records.append(record)
    return records


def _check_health(config: Config, learner: PolicySearch, metrics: Metrics) -> None:
    healthy = metrics["healthy"].all(axis=0)
    if not healthy.all():
        seeds = [config.seed + int(m) for m in np.flatnonzero(~healthy)]
        raise TrainingDiverged(
            f"an update of V or of the policy was not finite (seed {seeds[0]}); it was not "
            f"applied. {learner.remedy}"
        )
