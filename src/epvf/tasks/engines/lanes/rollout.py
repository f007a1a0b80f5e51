"""Tasks on lanes: `Evaluate` and `Explore` of environments that are traced and compiled.

Every SIMD lane of every thread is an environment with its own policy. What a policy meets does not
depend on the lane, the thread or the neighbours it has.
"""

import platform
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, ClassVar, TypeAlias, overload

import jax
import numpy as np
from jaxtyping import Float, Int

from epvf.errors import UserError
from epvf.policies import host_noise
from epvf.policies.mlp import Policy
from epvf.policies.noise_loops import Source
from epvf.policies.population import Recipe, Some, Undrawn, is_lazy
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
from epvf.tasks.engines.environment import Environment, State
from epvf.tasks.engines.lanes import driver, objects
from epvf.tasks.engines.lanes import policy as network
from epvf.tasks.engines.lanes.gpu import GpuTask
from epvf.tasks.engines.lanes.objects import Code
from epvf.tasks.engines.lanes.program import FLUSH, Program
from epvf.tasks.engines.segments import started
from epvf.types import Among, Array, Envs, Evaluate, Evaluation, Population, PRNGKey, Segment

_BARE_STEPS = 100
_MODE = FLUSH if platform.machine().lower() in ("x86_64", "amd64") else 0

Policies: TypeAlias = Population | Undrawn | Recipe | Some

Work = Callable[[driver.Room, np.ndarray, np.ndarray], object]
"""What a thread does, given its room, the common queue and the sign to stop."""


@overload
def make(
    environment: Environment,
    spec: TaskSpec,
    num_threads: int,
    width: int | None = None,
    about: str | None = None,
) -> "LanesTask": ...


@overload
def make(
    environment: Environment,
    spec: TaskSpec,
    num_threads: int | None = None,
    width: int | None = None,
    about: str | None = None,
) -> "LanesTask | GpuTask": ...


def make(
    environment: Environment,
    spec: TaskSpec,
    num_threads: int | None = None,
    width: int | None = None,
    about: str | None = None,
) -> "LanesTask | GpuTask":
    """The task of an environment: on JAX's GPU if it has one, else on all processors of the host.

    Args:
        environment: its functions, which JAX can trace.
        spec: its numbers; of another backend's they are what they are there.
        num_threads: threads of the host, which then runs it though there be a GPU.
        width: lanes of a thread of the host; as many as its registers hold if not given.
        about: all that decides what the functions compute, so that machine code that is on disk
            can be taken without tracing them; found by tracing if not given.

    Raises:
        UserError: if there are no such threads or lanes.
    """
    own = replace(spec, backend="lanes", traceable=False, draws=False)
    if num_threads is None and width is None and jax.default_backend() == "gpu":
        program = Program(environment, own, objects.target(), about)
        return GpuTask(program, replace(own, traceable=True))
    if num_threads is None:
        num_threads = num_processors()
    if num_threads < 1:
        raise UserError(f"num_threads is {num_threads}, but must be at least 1")
    return LanesTask(Program(environment, own, objects.target(width), about), num_threads)


@dataclass(frozen=True)
class LanesTask:
    """A program of lanes on `num_threads` threads of the host."""

    program: Program
    num_threads: int

    takes_rows: ClassVar[bool] = True
    """Whether its `Evaluate` and `Explore` can be asked for some rows of a population."""

    takes_recipes: ClassVar[bool] = True
    """Whether they take policies that are not drawn, too: each is when its turn comes."""

    @property
    def spec(self) -> TaskSpec:
        """The task's numbers."""
        return self.program.spec

    @property
    def code_bytes(self) -> int:
        """Size of the step's machine code, which a processor has to fetch at every step."""
        return self.program.code.size

    def evaluator(self, policy: Policy) -> Evaluate:
        """`Evaluate` for policies of this architecture; see `Task.evaluator`."""
        check_policy(self.spec, policy)
        return LanesEvaluator(_Machine(self.program, policy, self.num_threads))

    def explorer(self, policy: Policy, horizon: int) -> "LanesExplorer":
        """`Explore` for policies of this architecture; see `ExplorableTask.explorer`."""
        check_policy(self.spec, policy)
        return LanesExplorer(_Machine(self.program, policy, self.num_threads), horizon)

    def warm_up(self, policy: Policy, horizon: int | None) -> None:
        """Compiles what training with this architecture needs; see `run_once`."""
        run_once(self, policy, horizon)

    def replay(self, actions: Float[Array, "T N action"]) -> Replay:
        """Open-loop rollouts from the reset state; see `ReplayableTask.replay`."""
        actions = np.asarray(actions, np.float32)
        check_actions(self.spec, actions)
        num_steps, num = actions.shape[:2]
        seen = np.zeros((num, num_steps, self.spec.observation_size), np.float32)
        rewards = np.zeros((num, num_steps), np.float32)
        ended = np.zeros((num, num_steps), bool)
        machine = _Machine(self.program, None, self.num_threads)
        machine.step_through(actions.view(np.int32), seen, rewards, ended)
        return _frozen(np.swapaxes(seen, 0, 1), rewards.T, ended.T)

    def bare_stepper(self, policy: Policy, thetas: Population) -> Callable[[], Stepped]:
        """Steps as many environments with random actions; see `Task.bare_stepper`."""
        check_policy(self.spec, policy)
        check_population(policy, thetas)
        shape = (min(self.spec.episode_length, _BARE_STEPS), len(thetas), self.spec.action_size)
        rng = np.random.default_rng(0)
        if self.spec.discrete:
            actions = rng.integers(0, self.spec.action_size, (*shape[:2], 1), np.int32)
        else:
            actions = rng.uniform(-1.0, 1.0, shape).astype(np.float32).view(np.int32)
        machine = _Machine(self.program, None, self.num_threads)
        nothing = np.zeros((0, 0, 0), np.float32), np.zeros((0, 0), np.float32)

        def run() -> Stepped:
            start = time.perf_counter()
            machine.step_through(actions, *nothing, np.zeros((0, 0), bool))
            return Stepped(shape[0] * shape[1], time.perf_counter() - start)

        run()  # compiles
        return run


@dataclass(frozen=True)
class LanesEvaluator:
    """`Evaluate`: a lane takes one policy after the other from a common queue."""

    machine: "_Machine"

    def __call__(
        self, key: PRNGKey | None, thetas: Policies, among: Among | None = None
    ) -> Evaluation:
        """Evaluates the population; `key` decides where episodes start, if that is random.

        `thetas` may be some rows of a larger population, `among` which: they do then as they would
        in its midst. Those that are not there are drawn when a lane takes them up.

        A θ that is not finite is not run: its return is NaN and its length 0. A reward or a state
        that is not finite ends the episode, with a return of NaN.
        """
        machine = self.machine
        source = machine.source(thetas)
        num = source.num
        states = machine.starts(key, num, among=among)
        returns = np.full(num, np.nan, np.float32)
        lengths = np.zeros(num, np.int32)

        def work(room: driver.Room, queue: np.ndarray, stop: np.ndarray) -> int:
            given = (machine.packing, source, states.rows, queue, stop, returns, lengths)
            rounds: int = driver.run_episodes(machine.functions, room, _MODE, *given)
            return rounds

        machine.run(work, num)
        seen = np.broadcast_to(states.seen, (num, states.seen.shape[1]))
        return Evaluation(returns, lengths, seen)


@dataclass(frozen=True)
class LanesExplorer:
    """`Explore`: a group of environments after the other goes on for `horizon` steps.

    Where the environments stand is kept as the environment's own state, so that the other engines
    of JAX environments can go on from there.
    """

    machine: "_Machine"
    horizon: int

    def reset(self, key: PRNGKey, num: int) -> Envs:
        """See `Explore.reset`."""
        state = _reset(self.machine.program.environment)(jax.random.split(key, num))
        return started(state, num)

    def __call__(
        self,
        key: PRNGKey | None,
        thetas: Policies,
        envs: Envs,
        among: Among | None = None,
    ) -> Segment:
        """See `Explore`; after each end of an episode, `key` decides where the next one starts.

        `thetas` and `envs` may be some rows of larger ones; see `LanesEvaluator`.
        """
        machine, layout = self.machine, self.machine.program.layout
        source = machine.source(thetas)
        shape = (self.horizon, source.num)
        fresh = machine.starts(key, shape, observed=False, among=among).rows
        journal = self._journal(envs, layout.pack(envs.state))

        def work(room: driver.Room, queue: np.ndarray, stop: np.ndarray) -> None:
            given = (machine.packing, source, fresh, queue, stop, journal)
            driver.run_segments(machine.functions, room, _MODE, *given)

        machine.run(work, shape[1])
        state = layout.unpack(journal.states)
        return Segment(
            *(journal[5:]),
            envs=Envs(state, journal.steps, journal.total, *journal[3:5]),
        )

    def _journal(self, envs: Envs, states: Int[np.ndarray, "N state"]) -> driver.Journal:
        num, horizon, spec = len(states), self.horizon, self.machine.program.spec
        return driver.Journal(
            states=np.ascontiguousarray(states),
            steps=np.array(envs.steps, np.int32),
            total=np.array(envs.total, np.float32),
            finished=np.array(envs.finished, np.float32),
            finished_steps=np.array(envs.finished_steps, np.int32),
            observations=np.zeros((num, horizon + 1, spec.observation_size), np.float32),
            outputs=np.zeros((num, horizon, spec.action_size), np.float32),
            rewards=np.zeros((num, horizon), np.float32),
            terminated=np.zeros((num, horizon), bool),
            truncated=np.zeros((num, horizon), bool),
        )


@dataclass(frozen=True)
class _Starts:
    """First states: one of all, or one of each.

    Attributes:
        rows: `[N or 1, state]` their bits.
        seen: `[N or 1, observation]` what policies see of them.
    """

    rows: Int[np.ndarray, "N state"]
    seen: Float[np.ndarray, "N observation"]


@dataclass(frozen=True)
class _Machine:
    """A program and, if there is one, a policy: ready to run on threads."""

    program: Program
    policy: Policy | None
    num_threads: int

    def source(self, thetas: Policies) -> Source:
        """Where lanes take policies from.

        Raises:
            UserError: if they are not of the policy's size.
        """
        assert self.policy is not None
        if not (isinstance(thetas, Recipe | Some) or is_lazy(thetas)):
            thetas = np.ascontiguousarray(thetas, np.float32)
        check_population(self.policy, thetas)
        return host_noise.source(thetas)

    @cached_property
    def packing(self) -> Int[np.ndarray, "P"]:
        """See `policy.packing`."""
        if self.policy is None:
            return np.zeros(0, np.int64)
        return network.packing(self.policy, self.program.target.lanes)

    @cached_property
    def _network(self) -> Code | None:
        policy, where = self.policy, self.program.target
        if policy is None:
            return None
        return objects.code(repr(policy), partial(network.text, policy, where.lanes), where)

    @cached_property
    def functions(self) -> driver.Functions:
        """Where the compiled functions are."""
        address = self.program.code.address
        return driver.Functions(
            observe=address("observe"),
            step=address("step"),
            tick=address("tick"),
            flush=address("flush"),
            act=0 if self._network is None else self._network.address(network.NAME),
        )

    def starts(
        self,
        key: PRNGKey | None,
        shape: int | tuple[int, int],
        observed: bool = True,
        among: Among | None = None,
    ) -> _Starts:
        """First states of as many episodes; one, where all start alike.

        Of some rows those that they would have among all.
        """
        key = jax.random.key(0) if key is None else key
        environment, spec = self.program.environment, self.program.spec
        if spec.deterministic_reset:
            keys = jax.random.split(key, 1)
        else:
            keys = _keys(key, shape, among).reshape(-1)
        states = _reset(environment)(keys)
        seen = np.zeros((1, spec.observation_size), np.float32)
        if observed:
            seen = np.asarray(_observe(environment)(states), np.float32)
        return _Starts(self.program.layout.pack(states), seen)

    def room(self) -> driver.Room:
        """Room for one thread."""
        spec, width = self.program.spec, self.program.target.lanes.width
        scratch = 0 if self.policy is None else network.scratch_size(self.policy)
        return driver.room(
            width,
            state=self.program.layout.size,
            observation=spec.observation_size,
            weights=len(self.packing),
            scratch=scratch,
            action=spec.action_size,
            limit=spec.episode_length,
        )

    def run(self, work: Work, num: int) -> list[Any]:
        """Has all threads work on `num` policies; returns what each makes of it.

        Raises:
            KeyboardInterrupt: if it is interrupted; the threads have ended then.
        """
        self.functions  # noqa: B018 - compiled before the threads need it
        num_threads = min(self.num_threads, -(-num // self.program.target.lanes.width))
        queue, stop = np.zeros(1, np.int64), np.zeros(1, bool)
        with ThreadPoolExecutor(num_threads) as pool:
            workers = [pool.submit(work, self.room(), queue, stop) for _ in range(num_threads)]
            try:
                _wait(workers)
            finally:  # on an interrupt too, so that the workers end
                stop[:] = True
        return [worker.result() for worker in workers]

    def step_through(
        self,
        actions: Int[np.ndarray, "T N A"],
        seen: np.ndarray,
        rewards: np.ndarray,
        ended: np.ndarray,
    ) -> None:
        """Steps environments from their resets through given actions, bits."""
        rows = self.starts(jax.random.key(0), actions.shape[1], observed=False).rows

        def work(room: driver.Room, queue: np.ndarray, stop: np.ndarray) -> None:
            given = (actions, rows, queue, stop, seen, rewards, ended)
            driver.run_actions(self.functions, room, _MODE, *given)

        self.run(work, actions.shape[1])


def _keys(key: jax.Array, shape: int | tuple[int, int], among: Among | None) -> jax.Array:
    """The keys of episodes by row, or by step and row."""
    if among is None:
        return jax.random.split(key, shape)
    whole = among.total if isinstance(shape, int) else (*shape[:-1], among.total)
    return jax.random.split(key, whole)[..., np.asarray(among.rows)]


def _wait(futures: list[Future[Any]]) -> None:
    """Waits for all, or for the first exception."""
    pending = set(futures)
    while pending:
        # with a timeout, since Python sees an interrupt only between waits if another thread got it
        done, pending = wait(pending, timeout=0.1, return_when=FIRST_EXCEPTION)
        if any(future.exception() for future in done):
            return


def _frozen(
    seen: Float[np.ndarray, "T N observation"],
    rewards: Float[np.ndarray, "T N"],
    ended: np.ndarray,
) -> Replay:
    """Has environments stand still after their end; see `Replay`."""
    done = np.logical_or.accumulate(ended | ~np.isfinite(rewards), axis=0)
    before = np.concatenate([np.zeros_like(done[:1]), done[:-1]])
    steps = np.arange(len(done))[:, None]
    last = np.maximum.accumulate(np.where(before, 0, steps), axis=0)
    seen = np.take_along_axis(seen, last[:, :, None], axis=0)
    return Replay(seen, np.where(before, 0.0, rewards).astype(np.float32), done)


def _reset(environment: Environment) -> Callable[[jax.Array], State]:
    return _vectorised(environment.reset)


def _observe(environment: Environment) -> Callable[[State], jax.Array]:
    return _vectorised(environment.observe)


_compiled: dict[Callable[..., Any], Callable[..., Any]] = {}


def _vectorised(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function over a leading axis, compiled once."""
    if function not in _compiled:
        _compiled[function] = jax.jit(jax.vmap(function))
    return _compiled[function]
