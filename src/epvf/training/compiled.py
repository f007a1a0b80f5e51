"""The loop where whole iterations, rollouts included, run inside one compiled program."""

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from epvf.config.schema import Config
from epvf.methods.base import State
from epvf.methods.metrics import DIGITS, count_steps
from epvf.policies.population import drawn, is_lazy
from epvf.runtime import hosts
from epvf.runtime.compilation import compiler_options
from epvf.runtime.devices import (
    everywhere,
    over_seeds,
    put,
    spread_evaluate,
    spread_explore,
    state_shardings,
    with_rows_apart,
    with_weights_apart,
)
from epvf.training.prepare import Setup
from epvf.training.state import TrainState, env_steps_left, finished, may_be_last
from epvf.training.steps import (
    Announce,
    Step,
    Timing,
    advance,
    compile_announced,
    evaluation_due,
    longest_segment,
    most_steps,
    unmeasured,
    visited_by,
)
from epvf.types import Evaluate

MAX_CHUNK = 256
"""Most iterations that one call of the compiled loop runs; bounds the metrics it carries."""

CHUNK_SECONDS = 1.0
"""How often the host wakes during a compiled loop, for logging, checkpoints and Ctrl-C."""


def steps(setup: Setup, state: TrainState, announce: Announce) -> Iterator[Step]:
    """Many iterations a call."""
    config, most, task_evaluate = setup.config, most_steps(setup), setup.evaluate
    evaluate = task_evaluate
    if not setup.task.spec.draws:
        evaluate = lambda key, thetas: task_evaluate(key, drawn(thetas))  # noqa: E731
    counter = jax.ShapeDtypeStruct((), jnp.int32)
    flag = jax.ShapeDtypeStruct((), jnp.bool_)
    state, where = _spread(setup, state)
    chunk = compile_announced(
        "rollouts, value and policy updates",
        jax.jit(partial(_run_chunk, setup, evaluate), donate_argnums=(0,), **where),
        (state.learner, counter, counter, flag),
        announce,
        compiler_options(),
    )
    num = 1
    while not finished(config, state):
        num = _within_budget(config, state, num, most)
        begin = time.perf_counter()
        counters = (np.asarray(x, np.int32) for x in (state.iteration, num))
        last = np.asarray(may_be_last(config, state, most))
        learners, stacked = chunk(state.learner, *counters, last)
        metrics = {name: np.asarray(value)[:num] for name, value in stacked.items()}
        seconds = time.perf_counter() - begin
        wall = state.wall_time + seconds * np.arange(1, num + 1) / num
        state = advance(state, learners, metrics, num, seconds)
        yield state, metrics, Timing(np.full(num, seconds / num), wall)
        next_num = np.clip(num * CHUNK_SECONDS / max(seconds, 1e-6), max(num // 2, 1), num * 2)
        num = hosts.of_the_first(int(next_num))


def _spread(setup: Setup, state: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """The state on the devices that share the run, and options of `jit` that keep it there."""
    mesh = setup.mesh
    if mesh is None:
        return state, {}
    shardings = state_shardings(mesh, state.learner, setup.config.num_envs)
    whole = everywhere(mesh)
    where = {
        "in_shardings": (shardings, whole, whole, whole),
        "out_shardings": (shardings, whole),
    }
    return state._replace(learner=put(state.learner, shardings)), where


def _run_chunk(
    setup: Setup,
    evaluate: Evaluate,
    learners: State,
    start: jax.Array,
    num: jax.Array,
    last: jax.Array,
) -> tuple[State, dict[str, jax.Array]]:
    """`num` iterations from `start`; metrics `[MAX_CHUNK, M]`, of which `num` rows are filled.

    With `last` every centre is evaluated: after each of these iterations the run may be over.

    The number is an argument, not a constant, so that every chunk runs the same machine code and a
    resumed run repeats an uninterrupted one to the bit, however its chunks fall.
    """
    iterate = partial(_iterate_seeds, setup, evaluate)
    shapes = jax.eval_shape(iterate, learners, start, last)[1]
    empty = jax.tree.map(lambda s: jnp.zeros((MAX_CHUNK, *s.shape), s.dtype), shapes)

    def body(i: jax.Array, carry: Any) -> Any:
        states, metrics = carry
        states, new = iterate(states, start + i, last)
        return states, jax.tree.map(lambda rows, row: rows.at[i].set(row), metrics, new)

    return jax.lax.fori_loop(0, num, body, (learners, empty))


def _iterate_seeds(
    setup: Setup,
    evaluate: Evaluate,
    learners: State,
    iteration: jax.Array,
    last: jax.Array,
) -> tuple[State, dict[str, jax.Array]]:
    """One iteration of every seed, rollouts included."""
    config, search, mesh = setup.config, setup.search, setup.mesh
    explore: Any = setup.explore
    if mesh is not None:
        apart = getattr(setup.task, "rows_apart", False)
        evaluate = spread_evaluate(mesh, evaluate, apart)
        if explore is not None:
            explore = spread_explore(mesh, explore, longest_segment(setup), apart)

    def measure(state: State) -> Any:
        key = search.keys(state, iteration).evaluation
        evaluation = evaluate(key, search.centre_cloud(state, iteration))
        state, metrics = search.record_centre(state, evaluation)
        return state, metrics, count_steps(evaluation.lengths)

    def improve(state: State) -> Any:
        thetas = search.propose(state, iteration)
        if mesh is not None and not is_lazy(thetas):
            thetas = with_rows_apart(mesh, thetas)
        key = search.keys(state, iteration).rollouts
        rolled = evaluate(key, thetas) if explore is None else explore(key, thetas, state.envs)
        if setup.scout is not None:
            scouts = thetas[jnp.arange(search.num_scouts)]
            rolled = rolled._replace(visited=visited_by(setup.scout, key, scouts))
        if mesh is not None and search.learns_per_weight:
            propose = partial(search.propose, iteration=iteration)
            thetas = with_weights_apart(mesh, thetas, propose, state)
        return search.learn(state, iteration, thetas, rolled)

    def skip(states: State) -> Any:
        return states, unmeasured(config, search), jnp.zeros((config.num_seeds, DIGITS), jnp.uint32)

    due = evaluation_due(config, iteration, last)
    learners, measured, num_steps = jax.lax.cond(due, over_seeds(mesh, measure), skip, learners)
    learners, metrics = over_seeds(mesh, improve)(learners)
    metrics["rollout/all_steps"] = metrics["rollout/steps"] + num_steps
    return learners, metrics | measured


def _within_budget(config: Config, state: TrainState, num: int, most: int) -> int:
    """At most `num` iterations; of several none may be the one that uses up the env steps."""
    num = min(num, MAX_CHUNK, config.iterations - state.iteration)
    left = env_steps_left(config, state)
    if left is None:
        return num
    return max(1, min(num, (left - 1) // most))
