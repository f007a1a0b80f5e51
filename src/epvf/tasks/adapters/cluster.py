"""`Evaluate` and `Explore` by the workers of a Ray cluster, any of which may be lost.

A policy is (centre, key, row), so what goes out is a centre, a key and numbers of rows; what comes
back is a return a policy, or a segment with where its environment stands now. Nothing is kept by
workers: whatever was lost is computed again by others, and the numbers are the same to the bit on
machines of one kind, whoever computed them.

Ray runs parts of the rows again that were on a worker or a machine that died. What is left out at
the end, by a machine that is slow or hangs, is given to a second worker; the first answer counts.
"""

import logging
import math
import os
import platform
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from operator import itemgetter
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import numpy as np

from epvf import __version__
from epvf.errors import RunFailed, UserError
from epvf.files import one_line
from epvf.policies import host_noise
from epvf.policies.mlp import Policy
from epvf.policies.population import Recipe, Some, Undrawn
from epvf.runtime import meeting
from epvf.tasks.base import Task, TaskSpec, check_policy
from epvf.types import Among, Array, Envs, Evaluate, Evaluation, PRNGKey, Segment

PARTS = 4
"""Of the rows, for each worker: fewer leave workers idle at the end, more cost more messages."""

BRIEF = ((0.2, 1), (0.6, 2))
"""Seconds of all rows together below which they are in fewer parts, and how many for each worker:
messages would take longer than what they save."""

AHEAD = 2
"""Parts in the hands of each worker: one is computed, the next one waits there."""

SLOW = 3.0
"""How many times as long as others a part takes, and a second more, before a second worker gets it,
too; if no part waits any more."""

PATIENCE, LONG = 60.0, 10.0
"""Seconds, and how many times as long as others, after which a part's worker is given up: it is
ended, and the part given to another."""

FIRST_PATIENCE = 300.0
"""The same while none has answered for this kind of work yet: workers have to start, to compile."""

TRIES = 4
"""Of a part, until the cluster is given up."""

STORE_BYTES = 256 * 2**20
"""Of shared memory, for a cluster on this machine."""


class Engine(NamedTuple):
    """What a worker makes its task from.

    Attributes:
        name, backend, episode_length, num_threads: as for `epvf.make`.
        version: of the library that asks.
    """

    name: str
    backend: str
    episode_length: int
    num_threads: int
    version: str = __version__


Work: TypeAlias = Callable[..., Any]


class Workers(Protocol):
    """Whoever computes rows."""

    @property
    def threads(self) -> int: ...
    @property
    def num_workers(self) -> int: ...
    def parts_each(self, work: Work) -> int:
        """In how many parts for each worker the rows of some work are best."""
        ...

    def share_out(self, work: Work, common: Any, parts: Sequence[Any]) -> list[Any]:
        """`work(common, part)` of every part, in their order."""
        ...


@dataclass
class Cluster:
    """A Ray cluster that is connected to, and what has gone through its network.

    Attributes:
        threads: of each worker.
        sent, received: bytes, for each worker's part what it was given and what it answered.
        again: parts that were given to a second worker.
    """

    ray: ModuleType
    threads: int
    sent: int = 0
    received: int = 0
    again: int = 0
    _durations: dict[Work, deque[float]] = field(default_factory=dict)
    _counted: tuple[int, float] = (1, -math.inf)
    _left: dict[Any, float] = field(default_factory=dict)
    _took: dict[Work, float] = field(default_factory=dict)

    @property
    def num_workers(self) -> int:
        """Workers that there is room for at the moment: machines come and go."""
        now = time.monotonic()
        if now - self._counted[1] > 1.0:
            cpus = self.ray.cluster_resources().get("CPU", 1.0)
            self._counted = (max(1, int(cpus // self.threads)), now)
        return self._counted[0]

    def parts_each(self, work: Work) -> int:
        """In how many parts for each worker the rows of some work are best, by the last time."""
        took = self._took.get(work, math.inf)
        return next((parts for seconds, parts in BRIEF if took < seconds), PARTS)

    @cached_property
    def _remote(self) -> Any:
        """What workers call; made once, since each that is made is sent to all of them."""
        return self.ray.remote(_guarded).options(num_cpus=self.threads, max_retries=-1)

    def share_out(self, work: Work, common: Any, parts: Sequence[Any]) -> list[Any]:
        """`work(common, part)` of every part, in their order, whatever happens to workers.

        Args:
            work: a function of this module or another that workers have, too.
            common: what all parts need; it is sent to a machine once.
            parts: what one call needs besides.

        Raises:
            UserError, RunFailed: that a worker raised.
        """
        ray, since_start, remote = self.ray, time.monotonic(), self._remote
        shared = ray.put((work, common))
        self.sent += num_bytes(common) + num_bytes(parts)
        durations = self._durations.setdefault(work, deque(maxlen=50))
        share = _Share(deque(range(len(parts))), {}, {}, [0] * len(parts), durations)

        def begin(i: int) -> None:
            share.tries[i] += 1
            if share.tries[i] > TRIES:
                raise RunFailed(_why(share.broken))
            share.begun[remote.remote(shared, parts[i])] = (i, time.monotonic())

        try:
            while len(share.answers) < len(parts):
                while share.waiting and len(share.begun) < AHEAD * self.num_workers:
                    begin(share.waiting.popleft())
                ready, _ = ray.wait(list(share.begun), timeout=0.25)
                for ref in ready:
                    i, since = share.begun.pop(ref)
                    if i in share.answers:
                        continue
                    answer = self._answer(ref)
                    if isinstance(answer, _Broken):
                        share.broken = answer
                        share.waiting.appendleft(i)
                        continue
                    share.answers[i] = answer
                    durations.append(time.monotonic() - since)
                for i in self._slow(share):
                    self.again += 1
                    begin(i)
                for ref in self._hung(share):
                    i, _ = share.begun.pop(ref)
                    ray.cancel(ref, force=True)
                    held = i in [other for other, _ in share.begun.values()]
                    if not held and i not in share.answers:
                        share.waiting.appendleft(i)
                self._end_left()
        finally:
            # a worker that is only late ends by itself, one that hangs is ended later on; what
            # interrupts it in the midst of an import would leave it broken
            self._left |= {ref: since + share.patience for ref, (_, since) in share.begun.items()}
        self.received += num_bytes(list(share.answers.values()))
        self._took[work] = time.monotonic() - since_start
        return [share.answers[i] for i in range(len(parts))]

    def _answer(self, ref: Any) -> Any:
        errors = self.ray.exceptions
        try:
            outcome = self.ray.get(ref)
        except errors.RayError as error:
            raise RunFailed(f"the cluster failed: {one_line(error):.150}") from error
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _slow(self, share: "_Share") -> list[int]:
        """Parts to give to a second worker as well, where workers have nothing else to do."""
        if share.waiting or not share.durations or len(share.begun) >= self.num_workers:
            return []
        limit = time.monotonic() - SLOW * float(np.median(share.durations)) - 1.0
        held = [i for i, _ in share.begun.values()]
        return [
            i
            for i, since in share.begun.values()
            if since < limit and held.count(i) == 1 and i not in share.answers
        ]

    def _end_left(self) -> None:
        """Ends workers that were to end by themselves, and did not."""
        for ref, until in list(self._left.items()):
            done, _ = self.ray.wait([ref], timeout=0)
            if done or time.monotonic() > until:
                del self._left[ref]
                if not done:
                    self.ray.cancel(ref, force=True)

    def _hung(self, share: "_Share") -> list[Any]:
        """Calls whose workers are given up."""
        limit = time.monotonic() - share.patience
        return [ref for ref, (_, since) in share.begun.items() if since < limit]


@dataclass
class _Share:
    """How far parts of some work have come.

    Attributes:
        waiting: parts that no worker has.
        begun: calls under way to their part, and when they began.
        answers: of parts that are done.
        tries: how often each part was begun.
        durations: seconds that the newest parts of such work took.
        broken: the newest answer of a worker that could not do its part.
    """

    waiting: deque[int]
    begun: dict[Any, tuple[int, float]]
    answers: dict[int, Any]
    tries: list[int]
    durations: deque[float]
    broken: "_Broken | None" = None

    @property
    def patience(self) -> float:
        """Seconds after which a worker is given up."""
        if not self.durations:
            return FIRST_PATIENCE
        return max(PATIENCE, LONG * float(np.median(self.durations)))


class _Broken(NamedTuple):
    """What a worker answers that met an error nobody foresaw.

    Attributes:
        reason: in a line.
    """

    reason: str


def _why(broken: _Broken | None) -> str:
    """Why a cluster is given up."""
    if broken is None:
        return f"{TRIES} workers of the cluster did not answer; see ray status"
    return f"{TRIES} workers of the cluster failed: {broken.reason:.120}"


def connect(where: str, threads: int | None) -> Cluster:
    """Connects to a cluster.

    Args:
        where: `local:N` for N workers on this machine; `auto` for the cluster that this machine is
            part of; `HOST:PORT` of its head; or `ray://HOST:PORT` from outside.
        threads: of each worker; None: one.

    Raises:
        UserError: if Ray is not installed or there is no such cluster.
    """
    threads = 1 if threads is None else threads
    kind, _, number = where.partition(":")
    how: dict[str, Any] = {"address": where}
    if kind == "local":
        if not number.isdecimal() or int(number) < 1:
            raise UserError(f"cluster {where!r}: say how many workers: local:4")
        how = {
            "address": "local",
            "num_cpus": int(number) * threads,
            "object_store_memory": STORE_BYTES,
            "include_dashboard": False,
        }
    elif where != "auto" and not number:
        raise UserError(f"cluster {where!r} must be local:N, auto, HOST:PORT or ray://HOST:PORT")
    try:
        import ray
    except ImportError:
        raise UserError("a cluster needs ray: pip install 'epvf[ray]'") from None
    if not ray.is_initialized():
        if kind not in ("local", "auto"):
            meeting.check_listens(where.removeprefix("ray://"))
        try:
            with warnings.catch_warnings():
                # of a fork that becomes another program at once
                warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)
                ray.init(
                    **how, logging_level=logging.ERROR, log_to_driver=False, configure_logging=False
                )
        except (ConnectionError, RuntimeError, ValueError, ImportError, TimeoutError) as error:
            told = one_line(error)
            if "ersion mismatch" in told:
                raise UserError(
                    f"the cluster at {where} has another Python or Ray than this machine; install "
                    f"the same everywhere ({told:.90})"
                ) from None
            raise UserError(f"there is no cluster at {where}: {told:.120}") from None
    _silence(ray)
    return Cluster(ray, threads)


def _silence(ray: ModuleType) -> None:
    """Has Ray not print what it meets: each lost worker, at length, on standard output.

    Nothing is lost with one, and whoever reads `--json` expects the result alone there. Ray has no
    option for it: `log_to_driver` is of what workers print.
    """
    driver: Any = getattr(getattr(ray, "_private", None), "worker", None)
    if hasattr(driver, "print_to_stdstream"):
        driver.print_to_stdstream = lambda *_, **__: None


class Machine(NamedTuple):
    """A machine of a cluster, as it describes itself.

    Attributes:
        name: of the host.
        cpu: model of its processor.
        cpus: that Ray may use.
        epvf, python: versions.
    """

    name: str
    cpu: str
    cpus: int
    epvf: str
    python: str


def machines(cluster: Cluster) -> list[Machine]:
    """The machines that have workers.

    Raises:
        RunFailed: if one of them does not answer.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

    ray = cluster.ray
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    asked = [
        ray.remote(describe).options(num_cpus=0, scheduling_strategy=On(node["NodeID"], soft=False))
        for node in nodes
    ]
    try:
        told = ray.get([ask.remote() for ask in asked], timeout=FIRST_PATIENCE)
    except ray.exceptions.RayError as error:
        raise RunFailed(
            f"a machine of the cluster does not answer: {one_line(error):.120}"
        ) from error
    return [
        machine._replace(cpus=int(node["Resources"]["CPU"]))
        for machine, node in zip(told, nodes, strict=True)
    ]


def describe() -> Machine:
    """This machine."""
    lines = Path("/proc/cpuinfo")
    text = lines.read_text() if lines.exists() else ""
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    cpu = names[0] if names else platform.processor() or platform.machine()
    return Machine(platform.node(), cpu, 0, __version__, platform.python_version())


@dataclass(frozen=True)
class ClusterTask:
    """A task on an engine of the host, of which every worker has its own.

    Attributes:
        spec: as of the engine's task, but that it draws populations itself.
        engine: what workers make it from.
        here: the same on this machine, for what is too little to send.
        cluster: the workers.
    """

    spec: TaskSpec
    engine: Engine
    here: Any
    cluster: Workers

    def evaluator(self, policy: Policy) -> Evaluate:
        """`Evaluate` for policies of this architecture; see `Task.evaluator`."""
        check_policy(self.spec, policy)
        return ClusterEvaluator(self, policy)

    def explorer(self, policy: Policy, horizon: int) -> "ClusterExplorer":
        """`Explore` for policies of this architecture; see `ExplorableTask.explorer`."""
        check_policy(self.spec, policy)
        return ClusterExplorer(self, policy, horizon)

    def warm_up(self, policy: Policy, horizon: int | None) -> None:
        """Compiles the engine on this machine, from which workers here take it."""
        self.here.warm_up(policy, horizon)

    def parts(self, work: Work, num: int) -> list[slice]:
        """The rows in parts of about the same size."""
        parts = self.cluster.parts_each(work) * self.cluster.num_workers
        size = max(1, math.ceil(num / parts))
        return [slice(begin, min(begin + size, num)) for begin in range(0, num, size)]


def spread(task: Task, cluster: Workers) -> ClusterTask:
    """A task whose rows are computed by a cluster.

    Raises:
        UserError: if its engine cannot be asked for some of the rows.
    """
    here: Any = task
    spec = task.spec
    if not getattr(here, "takes_rows", False):
        raise UserError(
            f"task {spec.name!r} on engine {spec.backend!r} cannot be spread over a cluster; use "
            "backend native or lanes, or leave out --cluster"
        )
    engine = Engine(spec.name, spec.backend, spec.episode_length, cluster.threads)
    return ClusterTask(replace(spec, draws=True), engine, here, cluster)


@dataclass(frozen=True)
class ClusterEvaluator:
    """`Evaluate` of arrays, or of recipes, whose policies nobody has to send."""

    task: ClusterTask
    policy: Policy

    def __call__(self, key: PRNGKey | None, thetas: Any) -> Evaluation:
        """Evaluates the population; see the engine's own.

        Of a recipe, the policies that are there already are evaluated here meanwhile: they are few,
        and to send them would take longer.
        """
        if not isinstance(thetas, Recipe):
            return self._sent(key, thetas)
        total, begin = thetas.shape[0], thetas.num_undrawn
        if begin == total:
            return self._sent(key, thetas)
        here = self.task.here.evaluator(self.policy)
        with ThreadPoolExecutor(1) as pool:
            among = Among(total, np.arange(begin, total))
            rest = pool.submit(here, key, thetas.rest, among)
            drawn = self._sent(key, thetas)
            return _joined([drawn, rest.result()])

    def _sent(self, key: PRNGKey | None, thetas: Any) -> Evaluation:
        recipe = isinstance(thetas, Recipe)
        num = thetas.num_undrawn if recipe else len(thetas)
        parts = [
            (rows.start, rows.stop, None if recipe else np.asarray(thetas[rows]))
            for rows in self.task.parts(evaluate_rows, num)
        ]
        common = _common(self.task, self.policy, key, thetas)
        return _joined(self.task.cluster.share_out(evaluate_rows, common, parts))


@dataclass(frozen=True)
class ClusterExplorer:
    """`Explore`: environments travel with the segments, so that no worker keeps any."""

    task: ClusterTask
    policy: Policy
    horizon: int

    def reset(self, key: PRNGKey | None, num: int) -> Envs:
        """See `Explore.reset`."""
        envs: Envs = self.task.here.explorer(self.policy, self.horizon).reset(key, num)
        return envs

    def __call__(self, key: PRNGKey | None, thetas: Any, envs: Envs) -> Segment:
        """See `Explore`."""
        whole = jax.tree.map(np.asarray, envs)
        parts = [
            (
                rows.start,
                rows.stop,
                None if isinstance(thetas, Recipe) else np.asarray(thetas[rows]),
                jax.tree.map(itemgetter(rows), whole),
            )
            for rows in self.task.parts(explore_rows, thetas.shape[0])
        ]
        common = (*_common(self.task, self.policy, key, thetas), self.horizon)
        return _joined(self.task.cluster.share_out(explore_rows, common, parts))


def _common(task: ClusterTask, policy: Policy, key: PRNGKey | None, thetas: Any) -> tuple[Any, ...]:
    words = None if key is None else np.asarray(jax.random.key_data(key))
    seeds = thetas.seeds if isinstance(thetas, Recipe) else ()
    return task.engine, policy, words, thetas.shape[0], seeds


def _joined(parts: Iterable[Any]) -> Any:
    """Evaluations or segments of all rows, from those of parts in order."""
    return jax.tree.map(lambda *rows: np.concatenate(rows), *parts)


# What workers do. They keep what they have made, which only saves time.


def evaluate_rows(common: Any, part: Any) -> Evaluation:
    """`Evaluation` of some rows, on a worker."""
    engine, policy, words, total, seeds = common
    begin, end, thetas = part
    rows = np.arange(begin, end)
    thetas = _policies(engine, seeds, rows) if thetas is None else thetas
    evaluation: Evaluation = _evaluator(engine, policy)(_key(words), thetas, Among(total, rows))
    return evaluation


def explore_rows(common: Any, part: Any) -> Segment:
    """`Segment` of some rows, on a worker."""
    engine, policy, words, total, seeds, horizon = common
    begin, end, thetas, envs = part
    rows = np.arange(begin, end)
    thetas = _policies(engine, seeds, rows) if thetas is None else thetas
    explore = _explorer(engine, policy, horizon)
    segment: Segment = explore(_key(words), thetas, envs, Among(total, rows))
    return segment


def _guarded(shared: Any, part: Any) -> Any:
    """What a worker answers: its result, or what is to be told of it."""
    work, common = shared
    jax.config.update("jax_platforms", "cpu")
    if common[0].version != __version__:
        return UserError(
            f"a worker has epvf {__version__}, but this is {common[0].version}; install the same "
            "everywhere"
        )
    try:
        return work(common, part)
    except (UserError, RunFailed) as error:
        return error
    except Exception as error:  # of this machine or process: another one may do better
        ending = threading.Timer(0.5, os._exit, (1,))
        ending.daemon = True
        ending.start()
        return _Broken(f"{type(error).__name__} {one_line(error)}")


def _key(words: Array | None) -> PRNGKey | None:
    return None if words is None else jax.random.wrap_key_data(words)


def _policies(engine: Engine, seeds: Sequence[Undrawn], rows: np.ndarray) -> np.ndarray | Some:
    """The policies of these rows, in ascending order, of one population after the other.

    They are drawn here only where the engine cannot: to store all of them and to read them again
    takes a worker longer than to draw each where it is used.
    """
    recipe = Recipe(tuple(seeds), np.zeros((0, seeds[0].shape[1]), np.float32))
    if getattr(_task(engine), "takes_recipes", False):
        return Some(recipe, rows)
    return host_noise.draw_recipe(recipe, rows, engine.num_threads)


@lru_cache(maxsize=4)
def _task(engine: Engine) -> Any:
    from epvf.tasks.registry import make

    return make(
        engine.name,
        engine.backend,
        episode_length=engine.episode_length,
        num_threads=engine.num_threads,
    )


@lru_cache(maxsize=4)
def _evaluator(engine: Engine, policy: Policy) -> Any:
    return _task(engine).evaluator(policy)


@lru_cache(maxsize=4)
def _explorer(engine: Engine, policy: Policy, horizon: int) -> Any:
    return _task(engine).explorer(policy, horizon)


def num_bytes(tree: Any) -> int:
    """Of all arrays in a tree, whose other leaves are small."""
    return sum(int(getattr(leaf, "nbytes", 8)) for leaf in jax.tree.leaves(tree))
