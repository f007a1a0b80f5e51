"""`gymnasium:ID`: any environment of Gymnasium, stepped by processes of the host."""

import itertools
import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any

import gymnasium
import jax
import numpy as np
from jaxtyping import Float

from epvf.errors import UserError
from epvf.policies.crowd import Architecture
from epvf.policies.mlp import Policy
from epvf.registry import in_a_line, look_here
from epvf.runtime.processors import num_processors
from epvf.tasks.adapters.ids import unknown_id
from epvf.tasks.adapters.stepping import SEATS, Batch, Leg, Lived, Met
from epvf.tasks.adapters.workers import Sizes, Workers
from epvf.tasks.base import (
    Replay,
    Stepped,
    TaskSpec,
    check_actions,
    check_policy,
    check_population,
)
from epvf.tasks.entry import Engine, TaskEntry
from epvf.types import Array, Envs, Evaluate, Evaluation, Population, PRNGKey, Segment

BACKEND = "gymnasium"

_BARE_STEPS = 200

_SIZES: dict[str, tuple[Any, Sizes]] = {}
"""What environments of a spec were found to be like, so that no process is started again for it."""

_explorers = itertools.count()


@dataclass(frozen=True)
class GymnasiumTask:
    """Environments in `num_threads` processes, which also run the policies.

    Attributes:
        spec: its numbers.
        workers: the processes, started when something is run.
        num_threads: how many.
    """

    spec: TaskSpec
    workers: Workers = field(compare=False)
    num_threads: int

    def evaluator(self, policy: Policy) -> Evaluate:
        """`Evaluate` for policies of this architecture; see `Task.evaluator`.

        Raises:
            UserError: if the policy does not fit, or no environment can be made, reset or stepped.
        """
        check_policy(self.spec, policy)
        self.workers.start()
        return partial(_evaluate, self.workers, policy, self.spec.observation_size)

    def explorer(self, policy: Policy, horizon: int) -> "GymnasiumExplorer":
        """`Explore` for policies of this architecture; see `ExplorableTask.explorer`."""
        check_policy(self.spec, policy)
        self.workers.start()
        return GymnasiumExplorer(self.workers, policy, horizon)

    def replay(self, actions: Float[Array, "T N action"]) -> Replay:
        """Refuses: where episodes start is random; see `ReplayableTask.replay`."""
        check_actions(self.spec, actions)
        raise AssertionError

    def bare_stepper(self, policy: Policy, thetas: Population) -> Callable[[], Stepped]:
        """Steps environments with random actions in as many processes; see `Task.bare_stepper`."""
        workers, num = self.workers, len(thetas)
        shares = [part for part in _shares(num, workers.num) if len(part)]

        def run() -> Stepped:
            start = time.perf_counter()
            tasks = [("bare", (min(SEATS, len(part)), _BARE_STEPS, 0)) for part in shares]
            steps = sum(workers.run(tasks))
            return Stepped(steps, time.perf_counter() - start)

        run()  # makes the environments
        return run


def entry(name: str) -> TaskEntry:
    """The task of an environment's id, as `gymnasium.make` takes it.

    Raises:
        UserError: if there is no such environment.
    """
    spec = _spec(name.partition(":")[2])
    return TaskEntry({BACKEND: Engine(partial(_make, name, spec), ("num_threads",))})


def _spec(asked: str) -> Any:
    package, _, known_as = asked.rpartition(":")
    if package:
        look_here()
        _import(package)
    try:
        spec = gymnasium.spec(known_as)
    except gymnasium.error.NamespaceNotFound:
        raise UserError(
            f"unknown environment {known_as!r} of gymnasium; if another package has it, "
            f"gymnasium:PACKAGE:{known_as} imports that"
        ) from None
    except gymnasium.error.Error:
        raise unknown_id("gymnasium", known_as, gymnasium.registry) from None
    if spec.entry_point is None:
        raise UserError(f"gymnasium:{asked} has no single environment, only a vector of its own")
    return spec


def _import(package: str) -> None:
    try:
        import_module(package)
    except Exception as error:  # whatever a foreign module does when it is imported
        raise UserError(f"cannot import {package!r}: {in_a_line(error)}"[:200]) from None


def _make(
    name: str, spec: Any, episode_length: int | None = None, num_threads: int | None = None
) -> GymnasiumTask:
    length = spec.max_episode_steps if episode_length is None else episode_length
    if length is None:
        raise UserError(
            f"task {name!r} may never end: set task.episode_length, its longest episode in steps"
        )
    make = partial(gymnasium.make, spec, max_episode_steps=length, disable_env_checker=True)
    num = num_processors() if num_threads is None else num_threads
    workers = Workers(name, make, num)
    if name not in _SIZES or _SIZES[name][0] is not spec:
        _SIZES[name] = spec, workers.sizes()
    sizes = _SIZES[name][1]
    task = TaskSpec(
        name=name,
        backend=BACKEND,
        observation_size=sizes.observation,
        action_size=sizes.action,
        discrete=sizes.discrete,
        episode_length=length,
        deterministic_reset=False,
        traceable=False,
    )
    return GymnasiumTask(task, workers, num)


def _evaluate(
    workers: Workers, policy: Policy, observation_size: int, key: PRNGKey, thetas: Population
) -> Evaluation:
    """One episode of every policy; `key` and its row decide how the policy's environment starts."""
    thetas = np.ascontiguousarray(thetas, np.float32)
    check_population(policy, thetas)
    num = len(thetas)
    queue = _Queue(thetas, _rng(key), observation_size, workers.num)
    seats = min(SEATS, math.ceil(num / workers.num))
    task = ("episodes", (_architecture(policy), seats))
    for lived in workers.run([task] * min(workers.num, num), queue.next):
        queue.note(lived)
    return Evaluation(queue.returns, queue.lengths, queue.starts)


class _Queue:
    """Policies that wait, and what became of the others."""

    def __init__(
        self,
        thetas: Float[np.ndarray, "N P"],
        rng: np.random.Generator,
        observation_size: int,
        num_workers: int,
    ) -> None:
        num = len(thetas)
        self.returns = np.full(num, np.nan, np.float32)
        self.lengths = np.zeros(num, np.int32)
        self.starts = np.zeros((num, observation_size), np.float32)
        self._thetas, self._seeds = thetas, _seeds(rng, num)
        self._num_workers = num_workers
        self._given = 0

    def next(self, lived: list[Lived]) -> Batch | None:
        """Fewer and fewer, so that no process ends long after the others."""
        self.note(lived)
        first, left = self._given, len(self._thetas) - self._given
        if not left:
            return None
        part = slice(first, first + min(SEATS, max(1, left // (2 * self._num_workers))))
        self._given = min(part.stop, len(self._thetas))
        rows = range(first, self._given)
        return Batch(rows, self._thetas[part], self._seeds[part])

    def note(self, lived: list[Lived]) -> None:
        """Writes down what became of policies."""
        for one in lived:
            self.returns[one.row] = one.total
            self.lengths[one.row] = one.length
            self.starts[one.row] = one.start


class GymnasiumExplorer:
    """`Explore` on processes, which keep the environments of their rows between calls.

    An environment cannot be copied, so what `Envs.state` holds of each is the number of the call
    that left it where it is. Where that is no longer so, as after a run was resumed, a new episode
    begins.
    """

    def __init__(self, workers: Workers, policy: Policy, horizon: int) -> None:
        self.policy = policy
        self.horizon = horizon
        self._workers = workers
        self._number = next(_explorers)
        # of another process, or of another explorer, none is in the same place
        self._serial = secrets.randbelow(2**29) + 1

    def reset(self, key: PRNGKey, num: int) -> Envs:
        """See `Explore.reset`; where episodes start is decided when they are run."""
        zero, count = np.zeros(num, np.float32), np.zeros(num, np.int32)
        return Envs(count, count, zero, np.full(num, np.nan, np.float32), count)

    def __call__(self, key: PRNGKey, thetas: Population, envs: Envs) -> Segment:
        """See `Explore`; `key` decides how environments start that were not used before."""
        thetas = np.ascontiguousarray(thetas, np.float32)
        check_population(self.policy, thetas)
        self._serial += 1
        architecture = _architecture(self.policy)
        tasks = [
            ("explore", (self._number, architecture, leg))
            for leg in self._legs(thetas, _seeds(_rng(key), len(thetas)), envs)
        ]
        met = Met(*map(np.concatenate, zip(*self._workers.run(tasks), strict=True)))
        state = np.full(len(thetas), self._serial, np.int32)
        now = Envs(state, met.steps, met.total, met.finished, met.finished_steps)
        parts = met.observations, met.outputs, met.rewards, met.terminated, met.truncated
        return Segment(*parts, now)

    def _legs(self, thetas: np.ndarray, seeds: np.ndarray, envs: Envs) -> list[Leg]:
        serials, steps, total, finished, finished_steps = map(np.asarray, envs)
        return [
            Leg(
                thetas[part],
                seeds[part],
                serials[part],
                self._serial,
                steps[part],
                total[part],
                finished[part],
                finished_steps[part],
                self.horizon,
            )
            for part in _shares(len(thetas), self._workers.num)
            if len(part)
        ]


def _shares(num: int, num_workers: int) -> list[np.ndarray]:
    """The rows of each process."""
    return np.array_split(np.arange(num), num_workers)


def _architecture(policy: Policy) -> Architecture:
    return Architecture(policy.shapes, policy.activation, policy.output)


def _rng(key: PRNGKey) -> np.random.Generator:
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel().tolist())


def _seeds(rng: np.random.Generator, num: int) -> np.ndarray:
    return rng.integers(0, 2**31 - 1, num)
