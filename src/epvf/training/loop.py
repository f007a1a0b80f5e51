"""The online loop: propose a population, evaluate it, learn from it, and say what happened.

`train` is a generator, so whoever consumes it (a run on disk, a notebook, a test) decides what to
save and when to stop. Where the task can be traced, whole iterations run inside one compiled
program and the host wakes about once a second; otherwise the same functions are compiled apart and
the task is called between them.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from epvf.config.schema import Config, replace
from epvf.methods.base import PolicySearch, State
from epvf.methods.registry import make_learner, settle
from epvf.policies.noise import jitter
from epvf.policies.population import drawn
from epvf.runtime.compilation import compiler_options
from epvf.runtime.memory import check_run
from epvf.tasks import make
from epvf.tasks.base import SteppableTask, Task, explorer_of
from epvf.types import Array, Evaluate, Evaluation, Explore, PRNGKey, Segment

_INTERNAL = ("rollout/steps", "rollout/all_steps", "healthy")

Record: TypeAlias = dict[str, float | int]
Announce: TypeAlias = Callable[[str], None]

Populations: TypeAlias = Float[Array, "M N P"]
Clouds: TypeAlias = Float[Array, "M E P"]
Evaluations: TypeAlias = Any
"""An `Evaluation` whose arrays have an axis of M seeds first."""

MAX_CHUNK = 256
"""Most iterations that one call of the compiled loop runs; bounds the metrics it carries."""

CHUNK_SECONDS = 1.0
"""How often the host wakes during a compiled loop, for logging, checkpoints and Ctrl-C."""


class TrainingDiverged(RuntimeError):
    """An update of V or of the policy was not finite. It was not applied."""


class TrainState(NamedTuple):
    """All of a run: restoring it continues the run as if it had never stopped.

    Attributes:
        learner: every array has a leading axis over the M seeds.
        iteration: iterations done.
        env_steps: `[M]` int64 on the host, where 4096 x 1000 steps an iteration cannot overflow.
        wall_time: seconds spent training.
    """

    learner: State
    iteration: int
    env_steps: np.ndarray
    wall_time: float


class Report(NamedTuple):
    """News from the loop.

    Attributes:
        state: as of now. Its arrays are donated to the next iteration: use or copy them before.
        records: one flat dict per iteration and seed, as in `metrics.jsonl`.
    """

    state: TrainState
    records: list[Record]


def fit(config: Config) -> tuple[Config, SteppableTask]:
    """The task of a configuration, and that with what its method and the engine came to.

    Raises:
        UserError: if task and configuration do not fit, or the run does not fit the memory.
    """
    asked = config.task
    task = make(
        asked.name,
        backend=asked.backend,
        episode_length=asked.episode_length,
        num_threads=asked.num_threads,
        num_slots=asked.num_slots,
    )
    learner = make_learner(config, task.spec)
    task.evaluator(learner.policy)
    if learner.horizon is not None:
        explorer_of(task, learner.policy, learner.horizon)
    check_run(learner, config.num_seeds, task.spec.traceable, 2 * config.policy.num_centres)
    return replace(settle(config), {"task.backend": task.spec.backend}), task


def init_state(config: Config, learner: PolicySearch, task: Task) -> TrainState:
    """The run before its first iteration, one learner a seed."""
    seeds = range(config.seed, config.seed + config.num_seeds)
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    learners = jax.jit(jax.vmap(learner.init_state))(keys)
    if learner.horizon is not None:
        explore = explorer_of(task, learner.policy, learner.horizon)
        # of all seeds together, and with keys that no iteration uses
        reset = partial(explore.reset, jax.random.fold_in(keys[0], 1))
        envs = reset(config.num_seeds * config.num_envs)
        learners = learners._replace(envs=_split_seeds(envs, config.num_seeds))
    return TrainState(learners, 0, np.zeros(config.num_seeds, np.int64), 0.0)


def finished(config: Config, state: TrainState) -> bool:
    """Whether the run has all its iterations or env steps (of the seed that has fewest)."""
    left = _env_steps_left(config, state)
    return state.iteration >= config.iterations or (left is not None and left <= 0)


def train(
    config: Config,
    task: Task,
    state: TrainState | None = None,
    announce: Announce = lambda message: None,
) -> Iterator[Report]:
    """Runs Algorithm 1 (Bohlinger & Peters 2025) to the end, reporting about once a second.

    Args:
        config: the run.
        task: what turns policies into returns.
        state: where to go on; None: from the start.
        announce: told of long silent phases (compilation).

    Raises:
        UserError: if configuration and task do not fit.
        TrainingDiverged: after an update that was not finite; the last report is still good.
    """
    learner: PolicySearch = make_learner(config, task.spec)
    evaluate = task.evaluator(learner.policy)
    state = init_state(config, learner, task) if state is None else state
    horizon = learner.horizon
    explore = None if horizon is None else explorer_of(task, learner.policy, horizon)
    longest = horizon or task.spec.episode_length
    if task.spec.traceable:
        whole = evaluate if task.spec.draws else lambda key, thetas: evaluate(key, drawn(thetas))
        steps = _traced_loop(config, learner, whole, explore, state, announce, longest)
    else:
        steps = _host_loop(config, learner, evaluate, explore, state, announce, longest)
    for state, metrics, timing in steps:
        yield Report(state, _records(config, state, metrics, timing))
        _check_health(config, learner, metrics)


class _Timing(NamedTuple):
    """Seconds of the rollouts of each iteration, and the wall clock after each."""

    rollout: np.ndarray
    wall: np.ndarray


_Metrics: TypeAlias = dict[str, np.ndarray]
_Step: TypeAlias = tuple[TrainState, _Metrics, _Timing]


def _host_loop(
    config: Config,
    learner: PolicySearch,
    evaluate: Evaluate,
    explore: Explore | None,
    state: TrainState,
    announce: Announce,
    longest: int,
) -> Iterator[_Step]:
    """One iteration a time, the task called from the host between compiled functions."""
    propose = jax.jit(partial(_propose_seeds, learner), static_argnums=(2,))
    record = jax.jit(jax.vmap(learner.record_leader), donate_argnums=(0,))
    learn = _compile(
        "value and policy updates",
        jax.jit(jax.vmap(learner.learn, in_axes=(0, None, 0, 0)), donate_argnums=(0,)),
        (state.learner, *_learn_arguments(config, learner, state.learner)),
        announce,
        compiler_options(),
    )
    announce("first rollouts; an engine is compiled when it is first used ...")
    while not finished(config, state):
        begin = time.perf_counter()
        iteration = jnp.asarray(state.iteration, jnp.int32)
        due = bool(_evaluation_due(config, state.iteration, _may_be_last(config, state, longest)))
        key, proposed, thetas, cloud = propose(state.learner, iteration, due)
        rolled: Any
        if explore is None:
            rolled, leader, seconds = _evaluate_seeds(learner, evaluate, key, thetas, cloud)
        else:
            rolled, leader, seconds = _explore_seeds(
                learner, evaluate, explore, key, thetas, cloud, state.learner.envs
            )
        learners, measured = state.learner, _no_leader_metrics(config, learner)
        if due:
            learners, measured = record(learners, leader)
        learners, learned = learn(learners, iteration, proposed, rolled)
        metrics = {name: np.asarray(value)[None] for name, value in (measured | learned).items()}
        steps = leader.lengths.sum(axis=1)
        metrics["rollout/all_steps"] = metrics["rollout/steps"] + steps[None]
        state = _advance(state, learners, metrics, 1, time.perf_counter() - begin)
        yield state, metrics, _Timing(np.array([seconds]), np.array([state.wall_time]))


def _propose_seeds(
    learner: PolicySearch, learners: State, iteration: jax.Array, due: bool
) -> tuple[PRNGKey, Any, Populations, Clouds]:
    """The key of the rollouts, proposals, their policies `[M, N, P]`, clouds `[M, E or 0, P]`."""
    proposed = jax.vmap(learner.propose, in_axes=(0, None))(learners, iteration)
    thetas = jax.vmap(drawn)(proposed)
    # One key serves the whole call: a host task sees all seeds' policies as one population.
    key = learner.keys(jax.tree.map(lambda x: x[0], learners), iteration)[2]
    cloud = thetas[:, :0]
    if due:
        cloud = jax.vmap(learner.leader_cloud, in_axes=(0, None))(learners, iteration)
    return key, proposed, thetas, cloud


def _learn_arguments(config: Config, learner: PolicySearch, learners: State) -> tuple[Any, ...]:
    """Shapes of what `learn` takes after the state, for compiling it before the first rollout."""
    seeds, num = config.num_seeds, config.num_envs
    rows: Any = partial(jax.ShapeDtypeStruct, (seeds, num))
    iteration = jax.ShapeDtypeStruct((), jnp.int32)
    propose = jax.vmap(learner.propose, in_axes=(0, None))
    thetas = jax.eval_shape(propose, learners, iteration)
    if learner.horizon is not None:
        steps: Any = partial(jax.ShapeDtypeStruct, (seeds, num, learner.horizon))
        observation, *_, action = learner.policy.layer_sizes
        envs = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), learners.envs)
        shapes = ((learner.horizon + 1, observation), (learner.horizon, action))
        read, acted = (jax.ShapeDtypeStruct((seeds, num, *shape), jnp.float32) for shape in shapes)
        segment = Segment(read, acted, steps(jnp.float32), steps(jnp.bool_), steps(jnp.bool_), envs)
        return iteration, thetas, segment
    starts = jax.eval_shape(partial(learner.empty_starts, num))
    starts = jax.tree.map(lambda s: jax.ShapeDtypeStruct((seeds, *s.shape), s.dtype), starts)
    return iteration, thetas, Evaluation(rows(jnp.float32), rows(jnp.int32), starts)


def _evaluate_seeds(
    learner: PolicySearch, evaluate: Evaluate, key: PRNGKey, thetas: Populations, cloud: Clouds
) -> tuple[Evaluations, Evaluations, float]:
    """Evaluates populations and clouds of all seeds in one call, so that no thread idles between.

    Returns:
        The evaluation of `thetas [M, N, P]`, that of `cloud [M, E, P]`, and the seconds it took.
    """
    parts = [np.asarray(x).reshape(-1, x.shape[-1]) for x in (thetas, cloud) if x.size]
    everything = parts[0] if len(parts) == 1 else np.concatenate(parts)
    begin = time.perf_counter()
    evaluation = evaluate(key, everything)
    seconds = time.perf_counter() - begin
    starts = learner.read_starts(evaluation.starts)
    rows = Evaluation(
        np.asarray(evaluation.returns, np.float32),
        np.asarray(evaluation.lengths, np.int32),
        jax.tree.map(lambda x: np.asarray(x, np.float32), starts),
    )
    middle = thetas.shape[0] * thetas.shape[1]
    first, second = (
        jax.tree.map(itemgetter(part), rows) for part in (slice(middle), slice(middle, None))
    )
    return _by_seed(first, thetas), _by_seed(second, cloud), seconds


def _explore_seeds(
    learner: PolicySearch,
    evaluate: Evaluate,
    explore: Explore,
    key: PRNGKey,
    thetas: Populations,
    cloud: Clouds,
    envs: Any,
) -> tuple[Any, Evaluations, float]:
    """Explores with the populations `[M, N, P]` of all seeds in one call, and evaluates clouds."""
    seeds = thetas.shape[0]
    merge = lambda x: np.asarray(x).reshape(-1, *x.shape[2:])  # noqa: E731
    begin = time.perf_counter()
    segment = explore(key, merge(thetas), jax.tree.map(merge, envs))
    seconds = time.perf_counter() - begin
    nobody = np.zeros((seeds, 0))
    leader = Evaluation(nobody, nobody.astype(np.int32))
    if cloud.size:
        leader, _, more = _evaluate_seeds(learner, evaluate, key, cloud, cloud[:, :0])
        seconds += more
    return _split_seeds(segment, seeds), leader, seconds


def _split_seeds(tree: Any, num_seeds: int) -> Any:
    """Arrays `[M N, ...]` as `[M, N, ...]`."""
    return jax.tree.map(lambda x: x.reshape(num_seeds, -1, *x.shape[1:]), tree)


def _by_seed(evaluation: Evaluation, thetas: Populations) -> Evaluations:
    """The rows of an evaluation as those of `thetas [M, N, P]`."""
    return jax.tree.map(lambda x: x.reshape(*thetas.shape[:2], *x.shape[1:]), evaluation)


def _traced_loop(
    config: Config,
    learner: PolicySearch,
    evaluate: Evaluate,
    explore: Explore | None,
    state: TrainState,
    announce: Announce,
    longest: int,
) -> Iterator[_Step]:
    """Many iterations a call, all inside one compiled program."""
    chunk = jax.jit(partial(_run_chunk, config, learner, evaluate, explore), donate_argnums=(0,))
    counter = jax.ShapeDtypeStruct((), jnp.int32)
    flag = jax.ShapeDtypeStruct((), jnp.bool_)
    compiled = _compile(
        "rollouts, value and policy updates",
        chunk,
        (state.learner, counter, counter, flag),
        announce,
        compiler_options(),
    )
    num = 1
    while not finished(config, state):
        num = _within_budget(config, state, num, longest)
        begin = time.perf_counter()
        counters = (jnp.asarray(x, jnp.int32) for x in (state.iteration, num))
        last = jnp.asarray(_may_be_last(config, state, longest))
        learners, stacked = compiled(state.learner, *counters, last)
        metrics = {name: np.asarray(value)[:num] for name, value in stacked.items()}
        seconds = time.perf_counter() - begin
        wall = state.wall_time + seconds * np.arange(1, num + 1) / num
        state = _advance(state, learners, metrics, num, seconds)
        yield state, metrics, _Timing(np.full(num, seconds / num), wall)
        num = int(np.clip(num * CHUNK_SECONDS / max(seconds, 1e-6), max(num // 2, 1), num * 2))


def _run_chunk(
    config: Config,
    learner: PolicySearch,
    evaluate: Evaluate,
    explore: Explore | None,
    learners: State,
    start: jax.Array,
    num: jax.Array,
    last: jax.Array,
) -> tuple[State, dict[str, jax.Array]]:
    """`num` iterations from `start`; metrics `[MAX_CHUNK, M]`, of which `num` rows are filled.

    With `last` every leader is evaluated: after each of these iterations the run may be over.

    The number is an argument, not a constant, so that every chunk runs the same machine code and a
    resumed run repeats an uninterrupted one to the bit, however its chunks fall.
    """
    iterate = partial(_iterate_seeds, config, learner, evaluate, explore)
    shapes = jax.eval_shape(iterate, learners, start, last)[1]
    empty = jax.tree.map(lambda s: jnp.zeros((MAX_CHUNK, *s.shape), s.dtype), shapes)

    def body(i: jax.Array, carry: Any) -> Any:
        states, metrics = carry
        states, new = iterate(states, start + i, last)
        return states, jax.tree.map(lambda rows, row: rows.at[i].set(row), metrics, new)

    return jax.lax.fori_loop(0, num, body, (learners, empty))


def _iterate_seeds(
    config: Config,
    learner: PolicySearch,
    evaluate: Evaluate,
    explore: Explore | None,
    learners: State,
    iteration: jax.Array,
    last: jax.Array,
) -> tuple[State, dict[str, jax.Array]]:
    """One iteration of every seed, rollouts included."""

    def measure(state: State) -> Any:
        key = jax.random.fold_in(learner.keys(state, iteration)[2], 1)
        evaluation = evaluate(key, learner.leader_cloud(state, iteration))
        state, metrics = learner.record_leader(state, evaluation)
        return state, metrics, evaluation.lengths.sum()

    def improve(state: State) -> Any:
        thetas = learner.propose(state, iteration)
        key = learner.keys(state, iteration)[2]
        rolled = evaluate(key, thetas) if explore is None else explore(key, thetas, state.envs)
        return learner.learn(state, iteration, thetas, rolled)

    def skip(states: State) -> Any:
        return states, _no_leader_metrics(config, learner), jnp.zeros(config.num_seeds, jnp.int32)

    due = _evaluation_due(config, iteration, last)
    learners, leader, steps = jax.lax.cond(due, jax.vmap(measure), skip, learners)
    learners, metrics = jax.vmap(improve)(learners)
    metrics["rollout/all_steps"] = metrics["rollout/steps"] + steps
    return learners, metrics | leader


def _no_leader_metrics(config: Config, learner: PolicySearch) -> dict[str, jax.Array]:
    return dict.fromkeys(learner.leader_metrics, jnp.full(config.num_seeds, jnp.nan))


def _within_budget(config: Config, state: TrainState, num: int, longest: int) -> int:
    """At most `num` iterations; of several none may be the one that uses up the env steps."""
    num = min(num, MAX_CHUNK, config.iterations - state.iteration)
    left = _env_steps_left(config, state)
    if left is None:
        return num
    return max(1, min(num, (left - 1) // (config.num_envs * longest)))


def _may_be_last(config: Config, state: TrainState, longest: int) -> bool:
    """Whether the next iteration may use up the run's env steps.

    How many it takes is not known before its episodes have ended, so that several iterations may
    be told so in a row.
    """
    left = _env_steps_left(config, state)
    return left is not None and left <= config.num_envs * longest


def _env_steps_left(config: Config, state: TrainState) -> int | None:
    """Of the seed that has taken fewest; None: without limit."""
    return None if config.env_steps is None else config.env_steps - int(state.env_steps.min())


def _evaluation_due(config: Config, iteration: Any, last: Any) -> Any:
    """Whether the leader is measured at this iteration; `last`: it may be the run's last.

    Both are numbers, or traced ones.
    """
    return (iteration % config.eval.interval == 0) | (iteration == config.iterations - 1) | last


def _advance(
    state: TrainState, learners: State, metrics: _Metrics, num: int, seconds: float
) -> TrainState:
    steps = metrics["rollout/steps"].astype(np.int64)
    return TrainState(
        learners,
        state.iteration + num,
        state.env_steps + steps.sum(axis=0),
        state.wall_time + seconds,
    )


def _records(config: Config, state: TrainState, metrics: _Metrics, timing: _Timing) -> list[Record]:
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
                if name not in _INTERNAL:
                    record[name] = values[i, m].item()
            if seeds > 1:
                record["seed"] = config.seed + m
            records.append(record)
    return records


def _check_health(config: Config, learner: PolicySearch, metrics: _Metrics) -> None:
    healthy = metrics["healthy"].all(axis=0)
    if not healthy.all():
        seeds = [config.seed + int(m) for m in np.flatnonzero(~healthy)]
        raise TrainingDiverged(
            f"an update of V or of the policy was not finite (seed {seeds[0]}); it was not "
            f"applied. {learner.remedy}"
        )


def _compile(
    what: str,
    function: Any,
    arguments: tuple[Any, ...],
    announce: Announce,
    options: dict[str, Any] | None = None,
) -> Any:
    announce(f"compiling {what} ...")
    begin = time.perf_counter()
    compiled = function.lower(*arguments).compile(compiler_options=options)
    announce(f"compiled {what} in {time.perf_counter() - begin:.1f} s")
    return compiled


def evaluate_theta(
    evaluate: Evaluate, key: jax.Array, theta: Array, episodes: int, relative: float
) -> Evaluation:
    """Rolls θ `[P]` out `episodes` times: over random resets, or as a cloud of jittered copies."""
    cloud_key, rollout_key = jax.random.split(key)
    thetas = jitter(cloud_key, jnp.asarray(theta), episodes, relative)
    return evaluate(rollout_key, np.asarray(thetas))
