"""What an iteration of search by V(s, θ) costs: population, segments, and learning."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from epvf.bench.learning import Call, milliseconds, take_turns
from epvf.methods.psvf import PSVFLearner, PSVFState
from epvf.policies import host_noise
from epvf.policies.population import Undrawn
from epvf.runtime.compilation import compiler_options
from epvf.runtime.processors import num_processors
from epvf.training.loop import init_state
from epvf.training.prepare import Setup, draws_late
from epvf.types import Array, Population, Segment


def bench_psvf(setup: Setup, repeats: int = 5) -> dict[str, Any]:
    """Times the parts of an iteration turn by turn, for one seed and at θ's start.

    Returns:
        `propose_ms`, drawing the population, next to nothing where its rollouts do that;
        `rollout_ms`, its segments of `horizon` steps each; `value_ms`, the gradient steps of V, and
        `policy_ms`, all else that is learned from the segments; `learner_compile_seconds` and
        `learner_bytes`, what the compiled update needs beyond its arguments.
    """
    learner, explore = setup.method, setup.explore
    assert isinstance(learner, PSVFLearner) and explore is not None
    states = init_state(setup).learner
    state: PSVFState = jax.tree.map(lambda leaf: leaf[0], states)
    assert state.envs is not None
    propose = _proposing(setup, learner)
    thetas = propose(state, 0)
    segment = explore(jax.random.key(0), thetas, state.envs)
    begin = time.perf_counter()
    whole, value, memory = _learning(learner, state, thetas, segment)
    compiled = time.perf_counter() - begin
    calls: dict[str, Call] = {
        "propose": lambda: propose(state, 0),
        "rollout": lambda: explore(jax.random.key(0), thetas, segment.envs),
        "learner": whole,
        "value": value,
    }
    times = milliseconds(take_turns(calls, repeats))
    return {
        "horizon": learner.horizon,
        "propose_ms": times["propose"],
        "rollout_ms": times["rollout"],
        "value_ms": times["value"],
        "policy_ms": times["learner"] - times["value"],
        "learner_compile_seconds": compiled,
        "learner_bytes": memory,
    }


def _proposing(setup: Setup, learner: PSVFLearner) -> Callable[[PSVFState, int], Any]:
    """The population, drawn as by training on the task: by its rollouts, the host, or XLA."""
    if setup.task.spec.traceable or not host_noise.reproducible():
        return jax.jit(learner.propose)
    population = jax.jit(learner.population)
    if draws_late(setup.task):
        return population
    num_threads = getattr(setup.task, "num_threads", None) or num_processors()
    room = host_noise.room((learner.num_envs, learner.policy.num_parameters))

    def propose(state: PSVFState, iteration: int) -> Array:
        return host_noise.draw(population(state, iteration), num_threads, room)

    return propose


def _learning(
    learner: PSVFLearner, state: PSVFState, thetas: Population | Undrawn, segment: Segment
) -> tuple[Call, Call, int]:
    """Compiled calls of an iteration's learning and of V's part in it, and the bytes of the first.

    Both are batched over one seed, as `train` has them.
    """
    states, populations, segments = jax.tree.map(
        lambda leaf: jnp.asarray(leaf)[None], (state, thetas, segment)
    )
    key = jax.random.key(0)
    finite = jnp.ones(thetas.shape[0], jnp.bool_)
    strides, *_ = jax.jit(learner.step_batch)(state, segment, finite)

    def value_steps(value: Any, optimizer: Any) -> Any:
        def step(fit: tuple[Any, Any], rows: jax.Array) -> tuple[tuple[Any, Any], jax.Array]:
            batch = strides.take(rows)
            now, then, loss = learner.value_step(fit[0], fit[1], batch)
            return (now, then), loss

        return jax.lax.scan(step, (value, optimizer), learner.rows(key))

    learn = jax.jit(jax.vmap(learner.learn, in_axes=(0, None, 0, 0)))
    arguments = (states, jnp.zeros((), jnp.int32), populations, segments)
    compiled = learn.lower(*arguments).compile(compiler_options=compiler_options())
    of_value = jax.jit(jax.vmap(value_steps), compiler_options=compiler_options())
    memory = getattr(compiled.memory_analysis(), "temp_size_in_bytes", 0)
    return (
        lambda: compiled(*arguments),
        lambda: of_value(states.value, states.value_opt),
        memory,
    )
