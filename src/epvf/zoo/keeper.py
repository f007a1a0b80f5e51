"""All that a run rolls out, into a zoo: populations as they are told to the method, and centres.

The method is watched, not the loop: whoever trains calls the same pure functions, which now also
say what they were given.
"""

import dataclasses
import time
from threading import Lock
from typing import Any

import jax
import numpy as np
from jax.experimental import io_callback

from epvf.methods.base import PolicySearch
from epvf.policies.population import Perturbed
from epvf.tasks.body import Body
from epvf.tasks.engines.fingerprint import fingerprint
from epvf.tasks.registry import TASKS
from epvf.training.prepare import Setup
from epvf.training.state import Report
from epvf.types import Evaluation
from epvf.zoo.store import Origin, Outcomes, Rows, Zoo

SECONDS = 10.0
"""How often at most a shard is written."""

MOST_POPULATIONS = 256
"""In a shard."""

MOST_STORED = 64
"""Policies of a population that are kept where only their weights say what they are."""


class Keeper:
    """Adds what a run rolls out to a zoo; leave it as a context to write the rest.

    Of methods that draw their population around centres all policies are kept, as centres and
    keys. Of others 64 of each population are, evenly spaced. Where policies take turns within an
    episode, and of agents, nobody knows a policy's return but that of the unperturbed one, which is
    kept of every method whenever it is measured.
    """

    def __init__(self, zoo: Zoo, setup: Setup, source: str, goes_on: bool = False) -> None:
        """Of a run that begins, or goes on: what it rolled out before and rolls out again is not
        kept twice.
        """
        spec, config = setup.task.spec, setup.config
        self._zoo, self._policy = zoo, setup.policy
        self._origin = Origin(
            spec.name,
            spec.backend,
            task_fingerprint(spec.name),
            spec.episode_length,
            source,
            config.method.name,
            config.seed if config.num_seeds == 1 else -1,
        )
        self._agent_episodes = config.eval.episodes if setup.method is None else 0
        self._noise = getattr(setup.method, "perturbation", None)
        self._lock = Lock()
        self._drawn: list[tuple[np.ndarray, ...]] = []
        self._stored: list[Rows] = []
        self._update, self._written = 0, time.monotonic()
        self._there = _newest(zoo, source) if goes_on else 0

    def watched(self, setup: Setup) -> Setup:
        """The same run, whose method tells this keeper what it is told."""
        if setup.method is None:
            return setup
        return setup._replace(method=_watching(setup.method, self))

    def report(self, report: Report) -> None:
        """Takes note of a report; writes if it is time to."""
        self._update = report.state.iteration
        if self._update <= self._there:
            self._drop_again()
            return
        if self._agent_episodes:
            self._take_agent(report)
        with self._lock:
            many = len(self._drawn) + len(self._stored) >= MOST_POPULATIONS
        if many or time.monotonic() - self._written > SECONDS:
            self.write()

    def write(self) -> None:
        """Writes what has gathered."""
        with self._lock:
            drawn, self._drawn = self._drawn, []
            stored, self._stored = self._stored, []
        origin = self._origin._replace(update=self._update)
        while drawn:
            part, drawn = drawn[:MOST_POPULATIONS], drawn[MOST_POPULATIONS:]
            centres, keys, returns, lengths = (
                np.stack(column) for column in zip(*part, strict=True)
            )
            num = returns.shape[1]
            assert self._noise is not None
            population = Perturbed(centres, keys, num, self._noise)
            told = _outcomes(returns, lengths, 1)
            self._zoo.add_drawn(self._policy, population, told, origin)
        if stored:
            rows = Rows(*(np.concatenate(column) for column in zip(*stored, strict=True)))
            self._zoo.add(self._policy, rows, origin)
        self._written = time.monotonic()

    def __enter__(self) -> "Keeper":
        return self

    def __exit__(self, *_: object) -> None:
        jax.effects_barrier()
        self.write()

    def take_drawn(
        self, iteration: Any, centres: Any, keys: Any, returns: Any, lengths: Any
    ) -> None:
        """A population by its centres `[C, P]` and key `[2]`; its returns and lengths `[N]`."""
        if int(iteration) < self._there:
            return
        row = tuple(np.array(x) for x in (centres, keys, returns, lengths))
        with self._lock:
            self._drawn.append(row)

    def take_stored(self, iteration: Any, thetas: Any, returns: Any, lengths: Any) -> None:
        """Policies `[n, P]`, returns and lengths `[n]`."""
        if int(iteration) < self._there:
            return
        with self._lock:
            self._stored.append(_rows(np.array(thetas), returns, lengths, 1))

    def take_centre(self, theta: Any, returns: Any, lengths: Any) -> None:
        """The unperturbed policy `[P]` and the episodes `[E]` of its copies."""
        values = np.asarray(returns, np.float64)
        mean = [float(np.mean(x)) for x in (values, np.asarray(lengths))]
        with self._lock:
            self._stored.append(_rows(np.array(theta)[None], mean[:1], mean[1:], len(values)))

    def _drop_again(self) -> None:
        """Of unperturbed policies nobody says of which iteration they are."""
        jax.effects_barrier()
        with self._lock:
            self._stored = []

    def _take_agent(self, report: Report) -> None:
        value = report.records[-1].get("eval/episode_return")
        theta = np.asarray(report.state.learner.theta)[0]
        if value is not None and np.isfinite(value):
            length = report.records[-1].get("rollout/episode_length")
            lengths = [float("nan") if length is None else float(length)]
            with self._lock:
                rows = _rows(theta[None], [value], lengths, self._agent_episodes)
                self._stored.append(rows)


def _newest(zoo: Zoo, source: str) -> int:
    """The update up to which a zoo has what a run rolled out."""
    return max((e.origin.update for e in zoo.entries() if e.origin.source == source), default=0)


def task_fingerprint(name: str) -> str:
    """Of the formulas of a body of ours; empty for other tasks."""
    if name not in TASKS:
        return ""
    task: Any = TASKS[name]
    return fingerprint(task) if isinstance(task, Body) else ""


def _rows(thetas: np.ndarray, returns: Any, lengths: Any, episodes: int) -> Rows:
    return Rows(np.asarray(thetas, np.float32), *_outcomes(returns, lengths, episodes))


def _outcomes(returns: Any, lengths: Any, episodes: int) -> Outcomes:
    values = np.asarray(returns, np.float32).ravel()
    return Outcomes(
        np.where(np.isfinite(values), values, np.float32(np.nan)),
        np.asarray(lengths, np.float32).ravel(),
        np.full(len(values), episodes, np.int32),
    )


def _watching(search: PolicySearch, keeper: Keeper) -> PolicySearch:
    """A method of the same kind that tells what it is told."""
    kind: Any = type(search)

    class Watching(kind):
        def learn(self, state: Any, iteration: Any, thetas: Any, evaluation: Any) -> Any:
            if isinstance(evaluation, Evaluation):
                self._keep(self.population(state, iteration), evaluation, iteration)
            return super().learn(state, iteration, thetas, evaluation)

        def record_centre(self, state: Any, evaluation: Any) -> Any:
            copies = slice(self.eval_episodes)  # some methods evaluate others beside them
            told = (evaluation.returns[copies], evaluation.lengths[copies])
            io_callback(keeper.take_centre, None, self.centre(state), *told)
            return super().record_centre(state, evaluation)

        def _keep(self, population: Any, evaluation: Evaluation, iteration: Any) -> None:
            returns, lengths = evaluation.returns, evaluation.lengths
            if isinstance(population, Perturbed):
                drawn = (population.centres[0], population.keys[0], returns, lengths)
                io_callback(keeper.take_drawn, None, iteration, *drawn)
                return
            step = max(1, returns.shape[0] // MOST_STORED)
            some = (population[::step], returns[::step], lengths[::step])
            io_callback(keeper.take_stored, None, iteration, *some)

    fields = {item.name: getattr(search, item.name) for item in dataclasses.fields(search)}
    made: PolicySearch = Watching(**fields)
    return made
