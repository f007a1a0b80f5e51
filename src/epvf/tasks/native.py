"""The Ant on MuJoCo's C engine, on the host's threads."""

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from threading import Event

import mujoco
import numpy as np
from jaxtyping import Bool, Float
from mujoco import batch
from threadpoolctl import threadpool_limits

from epvf.errors import UserError
from epvf.policy import Policy
from epvf.tasks import ant
from epvf.tasks.base import (
    Replay,
    Stepped,
    TaskSpec,
    check_actions,
    check_policy,
    check_population,
)
from epvf.tasks.numpy_policy import NumpyPolicies
from epvf.types import Array, Evaluate, Evaluation, Population, PRNGKey

MAX_SLOTS = 512
"""Simulations that a thread steps at a time. With fewer, numpy's cost per call shows and threads
wait for each other's Python; with more, memory grows and the weights leave the cache."""

_ALARMS = slice(int(mujoco.mjtWarning.mjWARN_BADQPOS), int(mujoco.mjtWarning.mjWARN_BADCTRL) + 1)
_COUNTER = 1  # of the two numbers that MuJoCo keeps per warning


@dataclass(frozen=True)
class NativeAnt:
    """The Ant on `num_threads` threads of the host."""

    spec: TaskSpec
    num_threads: int

    def evaluator(self, policy: Policy) -> Evaluate:
        """`Evaluate` for policies of this architecture; see `Task.evaluator`."""
        check_policy(self.spec, policy)
        return NativeEvaluator(policy, self.spec.episode_length, self.num_threads)

    def replay(self, actions: Float[Array, "T N action"]) -> Replay:
        """Open-loop rollouts from the reset state; see `ReplayableTask.replay`."""
        actions = np.asarray(actions, np.float32)
        check_actions(self.spec, actions)
        with np.errstate(all="ignore"):
            return _replay(actions, self.num_threads)

    def bare_stepper(self, policy: Policy, thetas: Population) -> Callable[[], Stepped]:
        """Physics alone, for comparison: `mujoco.batch` on all threads, with random controls.

        The states are those which these policies visit, since contacts and joint limits decide
        what a step costs.
        """
        evaluator = NativeEvaluator(policy, self.spec.episode_length, self.num_threads)
        return _bare_stepper(evaluator.visited_states(thetas), len(thetas), self.num_threads)


def make(episode_length: int | None = None, num_threads: int | None = None) -> NativeAnt:
    """The task, on all processors that this process may use unless told otherwise."""
    if num_threads is None:
        num_threads = _num_processors()
    if num_threads < 1:
        raise UserError(f"num_threads is {num_threads}, but must be at least 1")
    return NativeAnt(ant.spec("native", episode_length, traceable=False), num_threads)


def _num_processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class NativeEvaluator:
    """`Evaluate` on threads, each with simulation slots of its own.

    A slot whose policy is done takes the next one from a common queue, so that finished policies
    cost nothing. Slots do not influence each other: returns are the same to the bit at any number
    of threads.
    """

    policy: Policy
    episode_length: int
    num_threads: int

    def __call__(self, key: PRNGKey | None, thetas: Population) -> Evaluation:
        """Evaluates the population; `key` is not used, since the Ant resets deterministically."""
        job = self._run(thetas)
        return Evaluation(job.returns, job.lengths)

    def visited_states(self, thetas: Population) -> Float[np.ndarray, "M state"]:
        """MuJoCo's integration states, about 20 times along the way."""
        every = max(1, self.episode_length // 20)
        return np.concatenate(self._run(thetas, sample_every=every).visited)

    def _run(self, thetas: Population, sample_every: int = 0) -> "_Job":
        thetas = np.asarray(thetas, np.float32)
        check_population(self.policy, thetas)
        job = _Job(thetas, self.episode_length, sample_every)
        num_workers, num_slots = _layout(len(thetas), self.num_threads)
        workers = [_Worker(job, self.policy, num_slots) for _ in range(num_workers)]
        # workers are the parallelism; BLAS threads inside them would only get in their way
        with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(num_workers) as pool:
            futures = [pool.submit(worker.run) for worker in workers]
            try:
                _wait(futures)
            finally:  # on an interrupt too, so that the workers end
                job.stop.set()
        for future in futures:
            future.result()
        return job


def _wait(futures: Sequence[Future[None]]) -> None:
    """Waits for all, or for the first exception."""
    pending = set(futures)
    while pending:
        # with a timeout, since Python sees an interrupt only between waits if another thread got it
        done, pending = wait(pending, timeout=0.1, return_when=FIRST_EXCEPTION)
        if any(future.exception() for future in done):
            return


def _layout(num_policies: int, num_threads: int) -> tuple[int, int]:
    """Threads, and slots a thread: as few rounds as possible, evenly filled."""
    num_workers = min(num_threads, num_policies)
    rounds = -(-num_policies // (num_workers * MAX_SLOTS))
    return num_workers, -(-num_policies // (num_workers * rounds))


class _Job:
    """One evaluation: the policies that wait, and what became of the others.

    A θ that is not finite is not run: its return stays NaN and its length 0.
    """

    def __init__(
        self, thetas: Float[np.ndarray, "N P"], episode_length: int, sample_every: int = 0
    ) -> None:
        self.thetas = thetas
        self.episode_length = episode_length
        self.sample_every = sample_every
        self.queue = deque(np.flatnonzero(_finite_rows(thetas)))
        self.returns = np.full(len(thetas), np.nan, np.float32)
        self.lengths = np.zeros(len(thetas), np.int32)
        self.visited: list[np.ndarray] = []
        self.stop = Event()


def _finite_rows(thetas: Float[np.ndarray, "N P"]) -> Bool[np.ndarray, "N"]:
    with np.errstate(invalid="ignore"):
        # float64 cannot overflow here, and a sum needs no temporary as large as the population
        return np.isfinite(thetas.sum(axis=1, dtype=np.float64))


class _Worker:
    """One thread's slots and the policies that run in them."""

    def __init__(self, job: _Job, policy: Policy, num_slots: int) -> None:
        self._job = job
        self._simulations = Simulations(num_slots)
        self._policies = NumpyPolicies(policy, num_slots)
        self._initial_observation = _initial_observation()
        self._returns = np.zeros(num_slots, np.float32)
        self._ends = np.zeros(num_slots, np.int64)  # the worker's step at which time is up
        self._owners = np.zeros(num_slots, np.int64)
        self._step = 0

    def run(self) -> None:
        """Evaluates policies from the queue until none is left, or the job is stopped."""
        n = 0
        while n < len(self._owners) and self._start(n):
            n += 1
        with np.errstate(all="ignore"):
            while n and not self._job.stop.is_set():
                done = self._advance(n)
                self._sample(n)
                n = self._turn_over(done, n)

    def _advance(self, n: int) -> Sequence[int]:
        """Takes a step in the first `n` slots; returns the slots that are done."""
        result = self._simulations.step(self._policies(n))
        self._policies.observations[:n] = result.observation
        self._returns[:n] += result.reward
        self._step += 1
        return (result.terminated | (self._ends[:n] == self._step)).nonzero()[0]

    def _sample(self, n: int) -> None:
        every = self._job.sample_every
        if every and (self._step - 1) % every == 0:
            self._job.visited.append(self._simulations.state[:n].copy())

    def _turn_over(self, done: Sequence[int], n: int) -> int:
        """Reports and refills the slots that are done; returns how many are still in use."""
        for slot in reversed(done):
            owner = self._owners[slot]
            left = self._ends[slot] - self._step
            self._job.returns[owner] = self._returns[slot]
            self._job.lengths[owner] = self._job.episode_length - left
            if not self._start(slot):
                n -= 1
                self._move(n, slot)
        return n

    def _start(self, slot: int) -> bool:
        """Starts the next policy of the queue in a slot; false if there is none."""
        try:
            owner = self._job.queue.popleft()
        except IndexError:
            return False
        self._simulations.reset(slot)
        self._policies.load(slot, self._job.thetas[owner])
        self._policies.observations[slot] = self._initial_observation
        self._returns[slot] = 0.0
        self._ends[slot] = self._step + self._job.episode_length
        self._owners[slot] = owner
        return True

    def _move(self, source: int, target: int) -> None:
        if source != target:
            self._simulations.move(source, target)
            self._policies.move(source, target)
            for rows in (self._returns, self._ends, self._owners):
                rows[target] = rows[source]


class Simulations:
    """Slots of a `mujoco.batch.Batch`; the first so many are in use."""

    def __init__(self, num_slots: int, num_threads: int = 1) -> None:
        self._batch = batch.Batch(ant.model(), num_slots, nthread=num_threads)
        self._ids = np.arange(num_slots, dtype=np.int32)
        self._initial = self._batch.state[0].copy()
        self._warnings = self._batch.warning
        self._qpos = self._batch.bind("qpos")
        self._qvel = self._batch.bind("qvel")
        self._ctrl = self._batch.bind("ctrl")

    @property
    def state(self) -> Float[np.ndarray, "slots state"]:
        """MuJoCo's integration states, live."""
        return self._batch.state

    def reset(self, slot: int) -> None:
        """Puts a slot back to the initial state."""
        self._batch.state[slot] = self._initial
        self._warnings[slot] = 0

    def move(self, source: int, target: int) -> None:
        """Copies the state of one slot to another."""
        self._batch.state[target] = self._batch.state[source]
        self._warnings[target] = self._warnings[source]

    def step(self, actions: Float[np.ndarray, "n action"]) -> ant.Transition:
        """Steps the first `n` slots with float32 actions.

        MuJoCo ignores controls that are not finite, and resets a simulation that has become
        unstable. Here both terminate, with reward NaN.
        """
        n = len(actions)
        self._ctrl[:n] = actions
        failed: list[int] = []
        try:
            self._batch.step(self._ids[:n] if n < len(self._ids) else None)
        except batch.SimulationError as error:
            failed += error.ids.tolist()
        if np.count_nonzero(self._warnings[:n]):
            alarms = self._warnings[:n, _ALARMS, _COUNTER].any(axis=1)
            failed += np.flatnonzero(alarms).tolist()
        result = ant.transition(_columns(self._qpos[:n]), _columns(self._qvel[:n]), actions)
        if failed:
            result.reward[failed] = np.nan
            result.terminated[failed] = True
        return result

    def step_bare(self, controls: Float[np.ndarray, "slots action"]) -> None:
        """Steps all slots and looks at nothing."""
        self._ctrl[:] = controls
        self._batch.step()


def _columns(rows: Float[np.ndarray, "n size"]) -> Float[np.ndarray, "n size"]:
    """The same array in float32 with contiguous columns, which `ant.transition` works on."""
    return rows.T.astype(np.float32, order="C").T


def _initial_observation() -> Float[np.ndarray, "34"]:
    model = ant.model()
    qpos = model.qpos0.astype(np.float32)
    qvel, ctrl = np.zeros(model.nv, np.float32), np.zeros(model.nu, np.float32)
    return ant.transition(qpos, qvel, ctrl).observation


def _replay(actions: Float[np.ndarray, "T N action"], num_threads: int) -> Replay:
    num_steps, num_envs = actions.shape[:2]
    simulations = Simulations(num_envs, num_threads)
    observation = np.zeros((num_steps, num_envs, ant.OBSERVATION_SIZE), np.float32)
    reward = np.zeros((num_steps, num_envs), np.float32)
    terminated = np.zeros((num_steps, num_envs), bool)
    failed = (~np.isfinite(actions)).any(axis=2)
    # MuJoCo would log bad controls; clipped like this, sound ones do and look the same
    actions = np.clip(np.nan_to_num(actions), -ant.OBSERVATION_LIMIT, ant.OBSERVATION_LIMIT)
    done = np.zeros(num_envs, bool)
    for t in range(num_steps):
        result = simulations.step(actions[t])
        frozen = observation[t - 1]  # nothing is done at t = 0, where there is none
        observation[t] = np.where(done[:, None], frozen, result.observation)
        reward[t] = np.where(done, 0.0, np.where(failed[t], np.nan, result.reward))
        done = done | result.terminated | failed[t]
        terminated[t] = done
    return Replay(observation, reward, terminated)


def _bare_stepper(
    states: Float[np.ndarray, "M state"], num_envs: int, num_threads: int
) -> Callable[[], Stepped]:
    """One step from each of the states, in groups of `num_envs`.

    Only one: random controls soon take the joints off their limits, which makes steps cheaper.
    """
    rng = np.random.default_rng(0)
    num_groups = max(1, len(states) // num_envs)
    groups = rng.choice(len(states), (num_groups, num_envs), replace=len(states) < num_envs)
    controls = rng.uniform(-1.0, 1.0, (num_groups, num_envs, ant.ACTION_SIZE))
    simulations = Simulations(num_envs, num_threads)

    def run() -> Stepped:
        seconds = 0.0
        for group, control in zip(groups, controls, strict=True):
            simulations.state[:] = states[group]
            start = time.perf_counter()
            simulations.step_bare(control)
            seconds += time.perf_counter() - start
        return Stepped(groups.size, seconds)

    return run
