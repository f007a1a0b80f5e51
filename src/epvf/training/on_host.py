"""The loop where the task is called from the host between compiled functions."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from operator import itemgetter
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from epvf.config.schema import Config
from epvf.methods.base import Keys, PolicySearch, State
from epvf.methods.metrics import DIGITS, count_steps
from epvf.policies import host_noise
from epvf.policies.mlp import Policy
from epvf.policies.population import Recipe, drawn, is_lazy
from epvf.runtime.compilation import compiler_options
from epvf.runtime.processors import num_processors
from epvf.tasks.base import Task
from epvf.training.prepare import Setup, draws_late, scout_steps
from epvf.training.state import TrainState, finished, may_be_last
from epvf.training.steps import (
    Announce,
    Step,
    Timing,
    advance,
    compile_announced,
    evaluation_due,
    most_steps,
    split_seeds,
    unmeasured,
    visited_by,
)
from epvf.types import Among, Array, Evaluate, Evaluation, Explore, PRNGKey, Segment

Populations: TypeAlias = Float[Array, "M N P"]
Clouds: TypeAlias = Float[Array, "M E P"]
"""Of all seeds."""

OfSeeds: TypeAlias = Any
"""An `Evaluation`, `Segment` or undrawn population with a leading axis over the seeds."""

Propose: TypeAlias = Callable[[State, jax.Array], tuple[Keys, Any, Populations, Recipe | None]]
"""The keys of an iteration's rollouts, what `learn` takes of all seeds, and their policies; and
how these are drawn, where nobody has drawn them."""

BLOCK = 128 << 20
"""Bytes of policies that exist at a time of populations that are not stored."""


def steps(setup: Setup, state: TrainState, announce: Announce) -> Iterator[Step]:
    """One iteration a time."""
    config, search, most = setup.config, setup.search, most_steps(setup)
    propose = _proposing(setup, state.learner, announce)
    copies = _compiled("evaluation clouds", partial(_clouds, search), state.learner, announce)
    record = _recording(config, search, state.learner)
    learn = compile_announced(
        "value and policy updates",
        jax.jit(jax.vmap(search.learn, in_axes=(0, None, 0, 0)), donate_argnums=(0,)),
        (state.learner, *_learn_arguments(setup, state.learner)),
        announce,
        compiler_options(),
    )
    if (warm_up := getattr(setup.task, "warm_up", None)) is not None:
        announce("compiling the engine ...")
        warm_up(setup.policy, search.horizon)
    evaluate = setup.evaluate
    if _in_blocks(setup):
        evaluate = partial(evaluate_in_blocks, setup.evaluate, setup.task, setup.policy)
    while not finished(config, state):
        begin = time.perf_counter()
        iteration = jnp.asarray(state.iteration, jnp.int32)
        due = bool(evaluation_due(config, state.iteration, may_be_last(config, state, most)))
        keys, proposed, thetas, recipe = propose(state.learner, iteration)
        cloud = copies(state.learner, iteration) if due else thetas[:, :0]
        rolled: Any
        if setup.explore is None:
            rolled, centre, seconds = _evaluate_seeds(
                search, evaluate, keys.rollouts, thetas, cloud, recipe
            )
        else:
            rolled, centre, seconds = _explore_seeds(
                search,
                setup.evaluate,
                setup.explore,
                keys,
                thetas,
                cloud,
                state.learner.envs,
                recipe,
            )
        if setup.scout is not None:
            begin_scouting = time.perf_counter()
            visited = _scouted(setup, setup.scout, keys.rollouts, thetas, recipe)
            rolled = rolled._replace(visited=visited)
            seconds += time.perf_counter() - begin_scouting
        learners, measured = state.learner, unmeasured(config, search)
        if due:
            learners, measured = record(learners, centre)
        learners, learned = learn(learners, iteration, proposed, rolled)
        metrics = {name: np.asarray(value)[None] for name, value in (measured | learned).items()}
        metrics["rollout/all_steps"] = metrics["rollout/steps"] + _digits(centre.lengths)[None]
        state = advance(state, learners, metrics, 1, time.perf_counter() - begin)
        yield state, metrics, Timing(np.array([seconds]), np.array([state.wall_time]))


def _compiled(what: str, function: Any, learners: State, announce: Announce) -> Any:
    """A function of the learners and the iteration, compiled.

    Before the first iteration, so that no iteration's seconds hold it.
    """
    arguments = (learners, jax.ShapeDtypeStruct((), jnp.int32))
    return compile_announced(what, jax.jit(function), arguments, announce, compiler_options())


def _recording(config: Config, search: PolicySearch, learners: State) -> Any:
    """`record_centre` of all seeds, compiled."""
    cloud = jax.eval_shape(
        jax.vmap(search.centre_cloud, in_axes=(0, None)),
        learners,
        jax.ShapeDtypeStruct((), jnp.int32),
    )
    shape = cloud.shape[:2]
    starts = _start_shapes(config, search, shape[1])
    evaluation = Evaluation(
        jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct(shape, jnp.int32), starts
    )
    record = jax.jit(jax.vmap(search.record_centre), donate_argnums=(0,))
    return record.lower(learners, evaluation).compile()


def _start_shapes(config: Config, search: PolicySearch, num: int) -> Any:
    """Shapes `[M, num, ...]` of what the method reads of start states."""
    starts = jax.eval_shape(partial(search.empty_starts, num))
    return jax.tree.map(
        lambda s: jax.ShapeDtypeStruct((config.num_seeds, *s.shape), s.dtype), starts
    )


def _digits(lengths: Any) -> np.ndarray:
    """`count_steps` of every seed, `[M, 4]`."""
    if not np.size(lengths):  # in all iterations that do not evaluate; JAX would take 1 ms
        return np.zeros((len(lengths), DIGITS), np.uint32)
    return np.stack([np.asarray(count_steps(row)) for row in lengths])


def _proposing(setup: Setup, learners: State, announce: Announce) -> Propose:
    """`Propose`, compiled; the host's threads draw what they can."""
    config, search = setup.config, setup.search
    proposed, undrawn = (
        jax.eval_shape(partial(propose, search), learners, jax.ShapeDtypeStruct((), jnp.int32))[1]
        for propose in (_propose_seeds, _populations)
    )
    if not (is_lazy(undrawn) and host_noise.reproducible()):
        whole = _compiled("populations", partial(_propose_seeds, search), learners, announce)
        return lambda learners, iteration: (*whole(learners, iteration), None)
    populations = _compiled("populations", partial(_populations, search), learners, announce)
    num_threads = _num_threads(setup.task)
    # policies that `learn` reads are drawn here, others where they are rolled out, if that is told
    undecided = is_lazy(proposed)
    tells = setup.task.spec.draws or (undecided and _takes_recipes(setup))
    draws = not (undecided and tells)
    shape = (config.num_seeds, config.num_envs, search.policy.num_parameters)
    room: Any = host_noise.room(shape) if draws else np.broadcast_to(np.float32(np.nan), shape)

    def propose(
        learners: State, iteration: jax.Array
    ) -> tuple[Keys, Any, Populations, Recipe | None]:
        keys, undrawn = populations(learners, iteration)
        if draws:
            # in the same room again: nobody reads what is in it for longer than an iteration
            _draw_seeds(undrawn, num_threads, room)
        return keys, undrawn if undecided else room, room, _recipe(undrawn) if tells else None

    announce("compiling the noise ...")
    propose(learners, jnp.zeros((), jnp.int32))
    return propose


def _takes_recipes(setup: Setup) -> bool:
    """Whether policies need not all be there for their rollouts."""
    return draws_late(setup.task) or _in_blocks(setup)


def _in_blocks(setup: Setup) -> bool:
    """Whether policies are drawn in blocks that are rolled out one after the other."""
    task = setup.task
    if task.spec.draws or draws_late(task):
        return False
    return setup.explore is None and getattr(task, "takes_rows", False)


def _num_threads(task: Task) -> int:
    return getattr(task, "num_threads", None) or num_processors()


def evaluate_in_blocks(
    evaluate: Evaluate, task: Task, policy: Policy, key: PRNGKey, policies: Any
) -> Evaluation:
    """`evaluate`, but of policies that are not drawn only a block exists at a time.

    All do as if they were all there: `task` can be asked for some rows.
    """
    if not isinstance(policies, Recipe):
        return evaluate(key, policies)
    total, size = policies.shape
    evaluate_rows: Any = task.evaluator(policy)
    each = max(1, BLOCK // (4 * size))
    parts = []
    for begin in range(0, total, each):
        rows = np.arange(begin, min(begin + each, total))
        thetas = host_noise.draw_recipe(policies, rows, _num_threads(task))
        parts.append(evaluate_rows(key, thetas, Among(total, rows)))
    evaluation: Evaluation = jax.tree.map(lambda *rows: np.concatenate(rows), *parts)
    return evaluation


def _recipe(undrawn: Any) -> Recipe:
    """How to draw the populations of all seeds, one after the other."""
    arrays = jax.tree.map(np.asarray, undrawn)
    seeds = len(jax.tree.leaves(arrays)[0])
    each = tuple(jax.tree.map(itemgetter(seed), arrays) for seed in range(seeds))
    return Recipe(each, np.zeros((0, each[0].shape[1]), np.float32))


def _draw_seeds(undrawn: Any, num_threads: int, out: Populations) -> None:
    """Draws the populations of all seeds, whose arrays have a leading axis over them."""
    undrawn = jax.tree.map(np.asarray, undrawn)
    for seed, thetas in enumerate(out):
        host_noise.draw(jax.tree.map(itemgetter(seed), undrawn), num_threads, thetas)


def _populations(
    search: PolicySearch, learners: State, iteration: jax.Array
) -> tuple[Keys, OfSeeds]:
    """The keys of the rollouts, and what is to be drawn of every seed."""
    undrawn = jax.vmap(search.population, in_axes=(0, None))(learners, iteration)
    return _keys(search, learners, iteration), undrawn


def _propose_seeds(
    search: PolicySearch, learners: State, iteration: jax.Array
) -> tuple[Keys, Any, Populations]:
    """The keys of the rollouts, what `learn` takes, and the policies `[M, N, P]`."""
    proposed = _offered(search, learners, iteration)
    return _keys(search, learners, iteration), proposed, jax.vmap(drawn)(proposed)


def _offered(search: PolicySearch, learners: State, iteration: jax.Array) -> Any:
    """What `learn` takes of all seeds: their policies, or how to draw them."""
    propose = search.propose if search.reads_policies else search.population
    return jax.vmap(propose, in_axes=(0, None))(learners, iteration)


def _keys(search: PolicySearch, learners: State, iteration: jax.Array) -> Keys:
    """Those of one seed serve the whole call: a host task sees all seeds as one population."""
    return search.keys(jax.tree.map(itemgetter(0), learners), iteration)


def _clouds(search: PolicySearch, learners: State, iteration: jax.Array) -> Clouds:
    """What measures the centres, `[M, E, P]`."""
    return jax.vmap(search.centre_cloud, in_axes=(0, None))(learners, iteration)


def _scouted(
    setup: Setup, scout: Explore, key: PRNGKey, thetas: Populations, recipe: Recipe | None
) -> Float[Array, "M V observation"]:
    """What the first policies of every seed's population see."""
    seeds, num, size = thetas.shape
    each = setup.search.num_scouts
    if recipe is not None:
        rows = (num * np.arange(seeds)[:, None] + np.arange(each)[None, :]).ravel()
        scouts = host_noise.draw_recipe(recipe, rows, _num_threads(setup.task))
    else:
        scouts = np.asarray(thetas[:, :each]).reshape(-1, size)
    seen = np.asarray(visited_by(scout, key, scouts), np.float32)
    return seen.reshape(seeds, -1, seen.shape[-1])


def _learn_arguments(setup: Setup, learners: State) -> tuple[Any, ...]:
    """Shapes of what `learn` takes after the state, for compiling it before the first rollout."""
    config, search = setup.config, setup.search
    seeds, num = config.num_seeds, config.num_envs
    rows: Any = partial(jax.ShapeDtypeStruct, (seeds, num))
    iteration = jax.ShapeDtypeStruct((), jnp.int32)
    thetas = jax.eval_shape(partial(_offered, search), learners, iteration)
    if search.horizon is not None:
        steps: Any = partial(jax.ShapeDtypeStruct, (seeds, num, search.horizon))
        observation, *_, action = search.policy.layer_sizes
        envs = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), learners.envs)
        shapes = ((search.horizon + 1, observation), (search.horizon, action))
        read, acted = (jax.ShapeDtypeStruct((seeds, num, *shape), jnp.float32) for shape in shapes)
        segment = Segment(read, acted, steps(jnp.float32), steps(jnp.bool_), steps(jnp.bool_), envs)
        return iteration, thetas, segment
    starts, visited = _start_shapes(config, search, num), None
    if search.num_scouts:
        seen = search.num_scouts * scout_steps(setup.task.spec)
        shape = (seeds, seen, search.policy.layer_sizes[0])
        visited = jax.ShapeDtypeStruct(shape, jnp.float32)
    return iteration, thetas, Evaluation(rows(jnp.float32), rows(jnp.int32), starts, visited)


def _evaluate_seeds(
    search: PolicySearch,
    evaluate: Evaluate,
    key: jax.Array,
    thetas: Populations,
    cloud: Clouds,
    recipe: Recipe | None = None,
) -> tuple[OfSeeds, OfSeeds, float]:
    """Evaluates populations and clouds of all seeds in one call, so that no thread idles between.

    With a recipe that stands for `thetas`.

    Returns:
        The evaluation of `thetas [M, N, P]`, that of `cloud [M, E, P]`, and the seconds it took.
    """
    everything: Any
    if recipe is not None:
        everything = recipe._replace(rest=np.asarray(cloud).reshape(-1, cloud.shape[-1]))
    else:
        parts = [np.asarray(x).reshape(-1, x.shape[-1]) for x in (thetas, cloud) if x.size]
        everything = parts[0] if len(parts) == 1 else np.concatenate(parts)
    begin = time.perf_counter()
    evaluation = evaluate(key, everything)
    seconds = time.perf_counter() - begin
    starts = search.read_starts(evaluation.starts)
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
    search: PolicySearch,
    evaluate: Evaluate,
    explore: Explore,
    keys: Keys,
    thetas: Populations,
    cloud: Clouds,
    envs: Any,
    recipe: Recipe | None,
) -> tuple[OfSeeds, OfSeeds, float]:
    """Explores with the populations `[M, N, P]` of all seeds in one call, and evaluates clouds."""
    seeds = thetas.shape[0]
    merge = lambda x: np.asarray(x).reshape(-1, *x.shape[2:])  # noqa: E731
    begin = time.perf_counter()
    policies: Any = merge(thetas) if recipe is None else recipe
    segment = explore(keys.rollouts, policies, jax.tree.map(merge, envs))
    seconds = time.perf_counter() - begin
    nobody = np.zeros((seeds, 0))
    centre = Evaluation(nobody, nobody.astype(np.int32))
    if cloud.size:
        centre, _, more = _evaluate_seeds(search, evaluate, keys.evaluation, cloud, cloud[:, :0])
        seconds += more
    return split_seeds(segment, seeds), centre, seconds


def _by_seed(evaluation: Evaluation, thetas: Populations) -> OfSeeds:
    """The rows of an evaluation as those of `thetas [M, N, P]`."""
    return jax.tree.map(lambda x: x.reshape(*thetas.shape[:2], *x.shape[1:]), evaluation)
