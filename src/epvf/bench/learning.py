"""What learning V(θ) costs an iteration: V, the policy, and the stages of a representation."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from epvf.config.schema import Config, replace
from epvf.methods.epvf import EPVFSettings, Learner, LearnerState
from epvf.runtime.compilation import compiler_options
from epvf.training.prepare import Setup
from epvf.value.representations import Stage

Call: TypeAlias = Callable[[], Any]


def bench_learner(setup: Setup, repeats: int = 5) -> dict[str, Any]:
    """Times the K steps of V and the L steps of the policy on a full buffer, for one seed.

    Returns:
        `value_ms` and `policy_ms` an iteration; `learner_compile_seconds` of both;
        `learner_bytes`, what the compiled updates need beyond their arguments; and
        `representation_ms`, for each stage of the representation (probing, or an equivariant
        layer), forward and backward once over a batch.
    """
    learner = setup.method
    assert isinstance(learner, Learner)
    begin = time.perf_counter()
    value, policy, memory = update_calls(learner)
    compiled = time.perf_counter() - begin
    stages = stage_calls(learner, learner.value_update.batch_size)
    calls = {"value": value, "policy": policy} | {f"stage {n}": c for n, c in stages.items()}
    times = milliseconds(take_turns(calls, repeats))
    return {
        "value_ms": times["value"],
        "policy_ms": times["policy"],
        "learner_compile_seconds": compiled,
        "learner_bytes": memory,
        "representation": "+".join(name for name, _ in learner.value.representation.parts),
        "representation_ms": {name: times[f"stage {name}"] for name in stages},
    }


def with_num_envs(config: Config, num_envs: int) -> Config:
    """Another number of policies an iteration; batch and buffer follow where they were equal."""
    sizes = {"num_envs": num_envs}
    own = config.method
    follow = isinstance(own, EPVFSettings) and (
        own.buffer.size == own.value_update.batch_size == config.num_envs
    )
    if follow and num_envs > 0:  # else the error would name the buffer, which nobody set
        sizes |= {"buffer.size": num_envs, "value_update.batch_size": num_envs}
    return replace(config, sizes)


def full_state(learner: Learner, key: jax.Array) -> LearnerState:
    """A learner whose buffer holds perturbed policies with random returns."""
    state = learner.init_state(key)
    size = learner.buffer_size
    noise = jax.random.normal(key, (size, learner.policy.num_parameters))
    thetas = state.buffer.thetas
    rows = state.buffer._replace(
        thetas=thetas if learner.draw_again else state.centres[:1] * (1.0 + 0.1 * noise),
        returns=jax.random.normal(key, (size,)),
        valid=jnp.ones(size, jnp.bool_),
    )
    return state._replace(buffer=rows)


def update_calls(learner: Learner) -> tuple[Call, Call, int]:
    """Compiled calls of the two updates, batched over one seed as `train` has them.

    Returns:
        The K steps of V, the L steps of the policy, and the bytes that the larger one needs.
    """
    keys = jax.random.split(jax.random.key(0), 1)
    states = jax.jit(jax.vmap(partial(full_state, learner)))(keys)
    thetas = jax.jit(jax.vmap(learner.propose, in_axes=(0, None)))(states, 0)

    def update_value(state: LearnerState, key: jax.Array) -> Any:
        filled = jnp.asarray(learner.buffer_size)
        after, loss = learner.update_value(state, key, filled, learner.frame(state))
        return after.value, after.value_opt, loss

    def update_policy(state: LearnerState, thetas: jax.Array) -> Any:
        after = learner.update_policy(state, thetas, learner.frame(state))
        return after.centres, after.policy_opt

    compiled = [
        jax.jit(jax.vmap(update)).lower(states, other).compile(compiler_options=compiler_options())
        for update, other in ((update_value, keys), (update_policy, thetas))
    ]
    needs = [program.memory_analysis() for program in compiled]
    memory = max(getattr(need, "temp_size_in_bytes", 0) for need in needs)
    value, policy = compiled
    return lambda: value(states, keys), lambda: policy(states, thetas), memory


def stage_calls(learner: Learner, batch_size: int) -> dict[str, Call]:
    """Compiled calls of the stages of a representation, forward and backward, over a batch."""
    representation = learner.value.representation
    params = representation.init(jax.random.key(0))
    noise = jax.random.normal(jax.random.key(1), (batch_size, learner.policy.num_parameters))
    stages = representation.stages(params, 0.1 * noise)
    return {stage.name: _timed(stage, batch_size) for stage in stages}


def _timed(stage: Stage, batch_size: int) -> Call:
    """Value and gradient of a stage, for as many chunks as a batch has."""

    def loss(params: Any, inputs: Any) -> jax.Array:
        means = [y.mean() for y in jax.tree.leaves(stage.function(params, inputs))]
        return jnp.stack(means).sum()

    gradient = jax.value_and_grad(loss, argnums=(0, 1) if stage.learned_inputs else 0)
    count = -(-batch_size // stage.chunk)

    def run(params: Any, inputs: Any) -> Any:
        def again(total: Any, scale: jax.Array) -> tuple[Any, None]:
            # scaled, so that the chunks differ and none can be left out
            results = gradient(params, jax.tree.map(lambda x: x * scale, inputs))
            return jax.tree.map(jnp.add, total, results), None

        zero = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(gradient, params, inputs)
        )
        return jax.lax.scan(again, zero, jnp.linspace(0.5, 1.5, count))[0]

    compiled = jax.jit(run)
    return lambda: compiled(stage.params, stage.inputs)


def take_turns(calls: dict[str, Call], repeats: int) -> dict[str, list[float]]:
    """Seconds of each call, every call once a turn, after one turn that warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def milliseconds(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Medians of `take_turns`."""
    return {name: 1e3 * float(np.median(turns)) for name, turns in seconds.items()}
