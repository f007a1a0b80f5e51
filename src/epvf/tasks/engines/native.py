"""Tasks on MuJoCo's C engine, on the host's threads."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeAlias

import jax
import numpy as np
from jaxtyping import Bool, Float
from mujoco import batch

from epvf.errors import UserError
from epvf.policies.mlp import Policy
from epvf.runtime.processors import num_processors
from epvf.tasks.base import (
    Replay,
    Stepped,
    TaskSpec,
    check_actions,
    check_policy,
    check_population,
    run_once,
)
from epvf.tasks.body import Body
from epvf.tasks.engines.episode import (
    NOWHERE,
    UNSEEN,
    Episode,
    ReplayRows,
    SegmentRows,
    check_compiles,
    kept_size,
    state_size,
)
from epvf.types import Among, Array, Envs, Evaluate, Evaluation, Population, PRNGKey, Segment

SAMPLES = 20
"""States kept of an episode of full length, for stepping them without policies."""

_HUGE = 1e9  # a control that MuJoCo still takes


@dataclass(frozen=True)
class NativeTask:
    """A body on `num_threads` threads of the host."""

    body: Body
    spec: TaskSpec
    num_threads: int

    takes_rows: ClassVar[bool] = True
    """Whether its `Evaluate` and `Explore` can be asked for some rows of a population."""

    def evaluator(self, policy: Policy) -> Evaluate:
        """`Evaluate` for policies of this architecture; see `Task.evaluator`."""
        check_policy(self.spec, policy)
        return NativeEvaluator(self.body, policy, self.spec.episode_length, self.num_threads)

    def explorer(self, policy: Policy, horizon: int) -> "NativeExplorer":
        """`Explore` for policies of this architecture; see `ExplorableTask.explorer`."""
        check_policy(self.spec, policy)
        length = self.spec.episode_length
        return NativeExplorer(self.body, policy, length, self.num_threads, horizon)

    def warm_up(self, policy: Policy, horizon: int | None) -> None:
        """Compiles what training with this architecture needs; see `run_once`."""
        run_once(self, policy, horizon)

    def replay(self, actions: Float[Array, "T N action"]) -> Replay:
        """Open-loop rollouts from the reset state; see `ReplayableTask.replay`."""
        actions = np.asarray(actions, np.float32)
        check_actions(self.spec, actions)
        policy = Policy((self.spec.observation_size, self.spec.action_size), output="clip")
        shelf = _Shelf(actions, self.spec.observation_size)
        _work(shelf, policy, self.body, min(self.num_threads, actions.shape[1]))
        return shelf.replay

    def bare_stepper(self, policy: Policy, thetas: Population) -> Callable[[], Stepped]:
        """Physics alone, for comparison: `mujoco.batch` on all threads, with random controls.

        The states are those which these policies visit, since contacts and joint limits decide
        what a step costs.
        """
        evaluator = NativeEvaluator(self.body, policy, self.spec.episode_length, self.num_threads)
        states = evaluator.visited_states(thetas)
        return _bare_stepper(self.body, states, len(thetas), self.num_threads)


def make(
    body: Body, episode_length: int | None = None, num_threads: int | None = None
) -> NativeTask:
    """The task, on all processors that this process may use unless told otherwise.

    Raises:
        UserError: if there are no such threads, or numba cannot compile a formula.
    """
    if num_threads is None:
        num_threads = num_processors()
    if num_threads < 1:
        raise UserError(f"num_threads is {num_threads}, but must be at least 1")
    check_compiles(body)
    return NativeTask(body, body.spec("native", episode_length, traceable=False), num_threads)


@dataclass(frozen=True)
class NativeEvaluator:
    """`Evaluate` on threads, each with a simulation of its own.

    A thread takes one policy after the other from a common queue and stays with it to its end, so
    that finished policies cost nothing and returns are the same to the bit at any number of
    threads.
    """

    body: Body
    policy: Policy
    episode_length: int
    num_threads: int

    def __call__(
        self, key: PRNGKey | None, thetas: Population, among: Among | None = None
    ) -> Evaluation:
        """Evaluates the population; `key` decides where episodes start, if that is random.

        `thetas` may be some rows of a larger population, `among` which: they do then as they would
        in its midst.
        """
        starts = _starts(self.body, key, len(thetas), among)
        job = self._run(thetas, starts)
        return Evaluation(job.returns, job.lengths, job.seen if starts.size else None)

    def visited_states(self, thetas: Population) -> Float[np.ndarray, "M state"]:
        """MuJoCo's integration states along the way, up to `SAMPLES` a policy."""
        starts = _starts(self.body, jax.random.key(0), len(thetas))
        return np.concatenate(self._run(thetas, starts, num_samples=SAMPLES).visited)

    def _run(self, thetas: Population, starts: "_Starts", num_samples: int = 0) -> "_Job":
        thetas = np.ascontiguousarray(thetas, np.float32)
        check_population(self.policy, thetas)
        samples = (num_samples, state_size(self.body))
        job = _Job(thetas, self.episode_length, starts, self.policy.layer_sizes[0], samples)
        _work(job, self.policy, self.body, min(self.num_threads, len(thetas)))
        return job


@dataclass(frozen=True)
class NativeExplorer:
    """`Explore` on threads, each with a simulation of its own that it puts into a waiting state.

    Between calls a state is kept in float32, as the numbers of JAX tasks are, so that it can be
    part of a learner's state.
    """

    body: Body
    policy: Policy
    episode_length: int
    num_threads: int
    horizon: int

    def reset(self, key: PRNGKey | None, num: int) -> Envs:
        """See `Explore.reset`; where episodes start is decided when they are run."""
        zero, count = np.zeros(num, np.float32), np.zeros(num, np.int32)
        state = np.zeros((num, kept_size(self.body)), np.float32)
        return Envs(state, count, zero, np.full(num, np.nan, np.float32), count)

    def __call__(
        self, key: PRNGKey | None, thetas: Population, envs: Envs, among: Among | None = None
    ) -> Segment:
        """See `Explore`; `key` decides where episodes start, if that is random.

        `thetas` and `envs` may be some rows of larger ones; see `NativeEvaluator`.
        """
        thetas = np.ascontiguousarray(thetas, np.float32)
        check_population(self.policy, thetas)
        starts = _starts(self.body, key, len(thetas), among)
        sizes = self.policy.layer_sizes[0], self.policy.layer_sizes[-1]
        tour = _Tour(thetas, self.episode_length, starts, envs, self.horizon, sizes)
        _work(tour, self.policy, self.body, min(self.num_threads, len(thetas)))
        return tour.segment


_Starts: TypeAlias = np.ndarray
"""`[N, offsets]` of where the episodes of each policy start."""


def _starts(body: Body, key: PRNGKey | None, num: int, among: Among | None = None) -> _Starts:
    if body.starts is None or key is None:
        return np.broadcast_to(NOWHERE, (num, 0))
    words = np.asarray(jax.random.key_data(key)).ravel().tolist()
    total = num if among is None else among.total
    starts = np.concatenate(body.starts(np.random.default_rng(words), total), axis=1)
    return starts if among is None else starts[np.asarray(among.rows)]


class _Shared(Protocol):
    """What several threads work on until nothing is left, or it is stopped."""

    stop: np.ndarray

    def work(self, episode: Episode) -> None: ...


def _work(shared: _Shared, policy: Policy, body: Body, num_workers: int) -> None:
    with ThreadPoolExecutor(num_workers) as pool:
        workers = [pool.submit(shared.work, Episode(policy, body)) for _ in range(num_workers)]
        try:
            _wait(workers)
        finally:  # on an interrupt too, so that the workers end
            shared.stop[:] = True
    for worker in workers:
        worker.result()


def _wait(futures: Sequence[Future[None]]) -> None:
    """Waits for all, or for the first exception."""
    pending = set(futures)
    while pending:
        # with a timeout, since Python sees an interrupt only between waits if another thread got it
        done, pending = wait(pending, timeout=0.1, return_when=FIRST_EXCEPTION)
        if any(future.exception() for future in done):
            return


class _Job:
    """One evaluation: the policies that wait, and what became of the others.

    A θ that is not finite takes no step: its return stays NaN and its length 0.

    Attributes:
        returns, lengths: `[N]`.
        seen: `[N, observation]` what policies observed first; empty where all start alike.
        visited: integration states on the way.
        stop: `[1]` ends everything.
    """

    def __init__(
        self,
        thetas: Float[np.ndarray, "N P"],
        episode_length: int,
        starts: _Starts,
        observation_size: int,
        samples: tuple[int, int],
    ) -> None:
        self.returns = np.full(len(thetas), np.nan, np.float32)
        self.lengths = np.zeros(len(thetas), np.int32)
        width = observation_size if starts.size else len(UNSEEN)
        self.seen = np.zeros((len(thetas), width), np.float32)
        self.visited: list[np.ndarray] = []
        self.stop = np.zeros(1, bool)
        self._thetas = thetas
        self._episode_length = episode_length
        self._starts = starts
        self._samples = samples
        self._finite = _finite_rows(thetas)
        self._queue = deque(range(len(thetas)))

    def work(self, episode: Episode) -> None:
        """Runs policies from the queue until none is left, or the job is stopped."""
        samples = np.empty(self._samples)
        while not self.stop[0]:
            try:
                i = self._queue.popleft()
            except IndexError:
                return
            theta, start, seen = self._thetas[i], self._starts[i], self.seen[i]
            if not self._finite[i]:
                episode.run(theta, 0, self.stop, samples, start, seen)
                continue
            self.returns[i], self.lengths[i], taken = episode.run(
                theta, self._episode_length, self.stop, samples, start, seen
            )
            self.visited.append(samples[:taken].copy())


class _Tour:
    """One exploration: the environments that wait for their policies, and what these met.

    A θ that is not finite makes actions that are not, and so fails at its first step.
    """

    def __init__(
        self,
        thetas: Float[np.ndarray, "N P"],
        episode_length: int,
        starts: _Starts,
        envs: Envs,
        horizon: int,
        sizes: tuple[int, int],
    ) -> None:
        num, (observation, action) = len(thetas), sizes
        self.stop = np.zeros(1, bool)
        self.segment = Segment(
            observations=np.zeros((num, horizon + 1, observation), np.float32),
            outputs=np.zeros((num, horizon, action), np.float32),
            rewards=np.zeros((num, horizon), np.float32),
            terminated=np.zeros((num, horizon), bool),
            truncated=np.zeros((num, horizon), bool),
            envs=Envs(*(np.array(part) for part in envs)),
        )
        self._thetas = thetas
        self._episode_length = episode_length
        self._starts = starts
        self._queue = deque(range(num))

    def work(self, episode: Episode) -> None:
        """Runs policies from the queue until none is left, or the tour is stopped."""
        while not self.stop[0]:
            try:
                i = self._queue.popleft()
            except IndexError:
                return
            rows, start = self._rows(i), self._starts[i]
            episode.explore(self._thetas[i], self._episode_length, rows, start)

    def _rows(self, i: int) -> SegmentRows:
        segment, envs = self.segment, self.segment.envs
        one = slice(i, i + 1)
        return SegmentRows(
            envs.state[i],
            envs.steps[one],
            envs.total[one],
            envs.finished[one],
            envs.finished_steps[one],
            segment.observations[i],
            segment.outputs[i],
            segment.rewards[i],
            segment.terminated[i],
            segment.truncated[i],
        )


class _Shelf:
    """Open-loop rollouts: the environments that wait, and what became of the others.

    MuJoCo ignores controls that are not finite, and resets a simulation that has become unstable.
    Here both terminate, with reward NaN.
    """

    def __init__(self, actions: Float[np.ndarray, "T N action"], observation_size: int) -> None:
        steps, num = actions.shape[:2]
        self.stop = np.zeros(1, bool)
        self._observation = np.zeros((num, steps, observation_size), np.float32)
        self._reward = np.zeros((num, steps), np.float32)
        self._terminated = np.zeros((num, steps), bool)
        # MuJoCo would log bad controls; clipped like this, sound ones do and look the same
        sound = np.where(np.isfinite(actions), np.clip(actions, -_HUGE, _HUGE), np.nan)
        self._actions = np.ascontiguousarray(sound.swapaxes(0, 1).astype(np.float32))
        self._queue = deque(range(num))

    def work(self, episode: Episode) -> None:
        """Takes environments from the queue until none is left, or it is stopped."""
        while not self.stop[0]:
            try:
                i = self._queue.popleft()
            except IndexError:
                return
            rows = ReplayRows(self._observation[i], self._reward[i], self._terminated[i])
            episode.replay(self._actions[i], rows)

    @property
    def replay(self) -> Replay:
        """All of it, `[T, N, ...]`."""
        rows = (self._observation, self._reward, self._terminated)
        return Replay(*(np.ascontiguousarray(row.swapaxes(0, 1)) for row in rows))


def _finite_rows(thetas: Float[np.ndarray, "N P"]) -> Bool[np.ndarray, "N"]:
    with np.errstate(invalid="ignore"):
        # float64 cannot overflow here, and a sum needs no temporary as large as the population
        return np.isfinite(thetas.sum(axis=1, dtype=np.float64))


def _bare_stepper(
    body: Body, states: Float[np.ndarray, "M state"], num_envs: int, num_threads: int
) -> Callable[[], Stepped]:
    """One env step from each of the states, in groups of `num_envs`.

    Only one: random controls soon take the joints off their limits, which makes steps cheaper.
    """
    rng = np.random.default_rng(0)
    num_groups = max(1, len(states) // num_envs)
    groups = rng.choice(len(states), (num_groups, num_envs), replace=len(states) < num_envs)
    controls = body.actions(rng.uniform(-1.0, 1.0, (num_groups, num_envs, body.model().nu)))
    simulations = batch.Batch(body.model(), num_envs, nthread=num_threads)
    ctrl = simulations.bind("ctrl")

    def run() -> Stepped:
        seconds = 0.0
        for group, control in zip(groups, controls, strict=True):
            simulations.state[:] = states[group]
            start = time.perf_counter()
            ctrl[:] = control
            for _ in range(body.frame_skip):
                simulations.step()
            seconds += time.perf_counter() - start
        return Stepped(groups.size, seconds)

    return run
