"""The online loop: propose a population, evaluate it, learn from it, and say what happened.

`iterate` is a generator, so whoever consumes it (a run on disk, a notebook, a test) decides what to
save and when to stop. Where the task can be traced, whole iterations run inside one compiled
program and the host wakes about once a second; otherwise the same functions are compiled apart and
the task is called between them.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from epvf.config.schema import Config
from epvf.errors import UserError
from epvf.methods.base import PolicySearch
from epvf.methods.metrics import INTERNAL, total_steps
from epvf.runtime.devices import over_seeds, placed, state_shardings
from epvf.training import compiled, on_host
from epvf.training.prepare import Setup
from epvf.training.state import Record, Report, TrainingDiverged, TrainState, copied
from epvf.training.steps import Announce, Metrics, Timing, split_seeds

RESETS = 2**31 - 1
"""Folded into a seed's key for where its environments stand first; learners split few keys off."""

GROWTH = 1000.0
"""How many times its least value, or squared returns, the loss of V may be before that is told."""

HOPELESS = 3
"""Iterations without a single finite rollout after which a run ends."""


def init_state(setup: Setup) -> TrainState:
    """The run before its first iteration, one learner a seed."""
    config, search = setup.config, setup.search
    seeds = range(config.seed, config.seed + config.num_seeds)
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    learners = _placed(setup, search.init_state, keys)
    if setup.initial is not None:
        start = partial(search.start_from, theta=jnp.asarray(setup.initial))
        learners = _placed(setup, start, learners)
    if setup.explore is not None:
        # of all seeds together, and with a key that no learner's start and no iteration uses
        reset = partial(setup.explore.reset, jax.random.fold_in(keys[0], RESETS))
        envs = reset(config.num_seeds * config.num_envs)
        learners = learners._replace(envs=split_seeds(envs, config.num_seeds))
    return TrainState(learners, 0, np.zeros(config.num_seeds, np.int64), 0.0)


def _placed(setup: Setup, function: Any, given: Any) -> Any:
    """`function` of every seed, its arrays where the run has them."""
    every = over_seeds(setup.mesh, function)
    shardings = None
    if setup.mesh is not None:
        shape = jax.eval_shape(every, given)
        shardings = state_shardings(setup.mesh, shape, setup.config.num_envs)
    return placed(setup.mesh, every, shardings)(given)


def iterate(
    setup: Setup,
    state: TrainState | None = None,
    announce: Announce = lambda message: None,
    donate: bool = False,
) -> Iterator[Report]:
    """Runs Algorithm 1 (Bohlinger & Peters 2025) to the end, reporting about once a second.

    Args:
        setup: the run, of a method that searches by populations.
        state: where to go on; None: from the start.
        announce: told of long silent phases (compilation).
        donate: whether the next iteration takes the arrays of `state` and of a report for its own.
            That saves a copy of them; then they can be read until it begins, and no longer.

    Raises:
        UserError: if the method is an agent, whose loop is its own (`epvf.training.agents`).
        TrainingDiverged: after an update that was not finite; the last report is still good.
    """
    if setup.method is None:
        raise UserError(
            f"method {setup.config.method.name!r} has a loop of its own: use epvf.train"
        )
    first = init_state(setup) if state is None else state
    hopeless = np.zeros(setup.config.num_seeds, np.int64)
    losses = _Losses(setup.config, announce)
    run = compiled.steps if setup.task.spec.traceable else on_host.steps
    kept = (lambda state: state) if donate else copied
    for state, metrics, timing in run(setup, kept(first), announce):
        yield Report(kept(state), _records(setup.config, state, metrics, timing))
        losses.look(metrics, setup.method)
        _check_health(setup.config, setup.method, metrics)
        hopeless = _hopeless(setup.config, metrics, hopeless)
        if (hopeless >= HOPELESS).any():
            raise TrainingDiverged(
                f"not one of {setup.config.num_envs} policies had a finite rollout in {HOPELESS} "
                "iterations; look at nan/ and at what the task returns, or use a smaller "
                "policy.init_scale or task.episode_length"
            )


class _Losses:
    """Watches the loss of V: one that grows out of all proportion is told while it can be helped.

    Targets that are returns grow with these, so that it is measured by them, too.
    """

    def __init__(self, config: Config, announce: Announce) -> None:
        self._config, self._announce = config, announce
        self._least = np.full(config.num_seeds, np.inf)
        self._told = False

    def look(self, metrics: Metrics, learner: PolicySearch) -> None:
        """At the losses of some iterations, `[I, M]`."""
        if self._told or "loss/value" not in metrics:
            return
        ends = (metrics["rollout/episode_return_min"], metrics["rollout/episode_return_max"])
        sizes = np.fmax(*(np.abs(np.asarray(end, np.float64)) for end in ends))
        for losses, size in zip(np.asarray(metrics["loss/value"]), sizes, strict=True):
            allowed = GROWTH * np.fmax(self._least, np.fmax(1.0, size) ** 2)
            if (seeds := np.flatnonzero(losses > allowed)).size:
                seed, loss = self._config.seed + int(seeds[0]), losses[seeds[0]]
                told = f"the loss of V has grown to {loss:.3g} (seed {seed}): V diverges. "
                self._announce(told + learner.remedy)
                self._told = True
                return
            self._least = np.fmin(self._least, losses)


def _records(config: Config, state: TrainState, metrics: Metrics, timing: Timing) -> list[Record]:
    """Flat records in the order of `metrics.jsonl`: iterations, and seeds within each."""
    steps = total_steps(metrics["rollout/steps"])
    rolled = total_steps(metrics["rollout/all_steps"]).sum(axis=1)
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


def _hopeless(config: Config, metrics: Metrics, before: np.ndarray) -> np.ndarray:
    """For how many iterations in a row no rollout of each seed was finite, `[M]`.

    The longest row within these iterations, or the one that they end with.
    """
    count, most = before.copy(), before.copy()
    for row in metrics["rollout/nonfinite"] >= config.num_envs:
        count = np.where(row, count + 1, 0)
        most = np.maximum(most, count)
    return np.where(most >= HOPELESS, most, count)


def _check_health(config: Config, learner: PolicySearch, metrics: Metrics) -> None:
    healthy = metrics["healthy"].all(axis=0)
    if not healthy.all():
        seeds = [config.seed + int(m) for m in np.flatnonzero(~healthy)]
        raise TrainingDiverged(
            f"an update of V or of the policy was not finite (seed {seeds[0]}); it was not "
            f"applied. {learner.remedy}"
        )
