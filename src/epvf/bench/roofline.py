"""How fast a device could step at best: a step's bytes and operations against the device's rates.

Both sides are found here: XLA tells what the compiled step accesses and computes, and the rates are
measured with a large copy and a large matrix product, so that no table of devices is needed.
"""

import time
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from epvf.policies.mlp import Policy
from epvf.tasks.base import Task
from epvf.tasks.engines.rollout import Environment, JaxTask

COPY_BYTES = 1 << 28
"""Far more than caches hold."""

CALLS, TURNS = 5, 4
"""Calls in flight at once, so that their launch costs little; the best turn counts."""


class Cost(NamedTuple):
    """What a program accesses and computes.

    Attributes:
        bytes: read and written by all its kernels, whether from memory or a cache.
        flops: floating-point operations.
    """

    bytes: float
    flops: float


class Rates(NamedTuple):
    """What a device reaches: bytes per second of a copy, flops per second of a float32 product."""

    bytes: float
    flops: float


def roofline(
    task: Task, policy: Policy, num_envs: int, steps_per_second: float
) -> dict[str, Any] | None:
    """The bound on env steps per second that follows from one step of the closed loop.

    Loops inside a step count once, and a cache may save accesses: an estimate, no law. Where a
    step's data fits a cache it can be exceeded.

    Args:
        task: what is stepped.
        policy: the architecture of the policies that act.
        num_envs: policies; those that wait for a slot are not stepped meanwhile.
        steps_per_second: what was reached.

    Returns:
        `step_bytes` and `step_flops` of one env step; the device's `bytes_per_second` and
        `flops_per_second`; `bound_steps_per_second`, what sets it (`bound_by`), and the `fraction`
        of it that was reached. None where XLA does not know the step, as with engines of others.
    """
    if not isinstance(task, JaxTask) or not task.spec.traceable:
        return None
    width = min(num_envs, task.num_slots or num_envs)
    cost = step_cost(task, policy, width)
    if cost is None:
        return None
    rates = device_rates()
    seconds = {"bytes": cost.bytes / rates.bytes, "flops": cost.flops / rates.flops}
    slower = max(seconds, key=lambda name: seconds[name])
    bound = width / seconds[slower]
    return {
        "step_bytes": cost.bytes / width,
        "step_flops": cost.flops / width,
        "bytes_per_second": rates.bytes,
        "flops_per_second": rates.flops,
        "bound_steps_per_second": bound,
        "bound_by": slower,
        "fraction": steps_per_second / bound,
    }


def step_cost(task: JaxTask, policy: Policy, num_envs: int) -> Cost | None:
    """What it costs to step `num_envs` environments once, each with a policy of its own.

    The step is compiled apart, because XLA counts the body of a rollout's loop once.
    """
    shape = jax.ShapeDtypeStruct((num_envs, policy.num_parameters), jnp.float32)
    layers = jax.eval_shape(policy.unravel, shape)
    states = jax.eval_shape(partial(_reset, task.environment, num_envs))
    step = jax.jit(partial(_step, task.environment, policy))
    return program_cost(step.lower(layers, states).compile())


def program_cost(compiled: Any) -> Cost | None:
    """What XLA tells of a compiled program; None where it does not."""
    told = compiled.cost_analysis() or {}
    accessed, flops = told.get("bytes accessed", 0), told.get("flops", 0)
    return Cost(accessed, flops) if accessed > 0 and flops > 0 else None


@cache
def device_rates() -> Rates:
    """Measures JAX's first device; takes a second or a few."""
    return Rates(_copy_rate(), _product_rate(4096 if jax.default_backend() != "cpu" else 1024))


def _copy_rate() -> float:
    add = jax.jit(lambda x: x + 1.0, donate_argnums=0)
    x = jnp.zeros(COPY_BYTES // 4)
    # every element is read and written
    return 2 * COPY_BYTES / _best_seconds(add, x)


def _product_rate(size: int) -> float:
    scale = 1.0 / size

    def multiply(x: jax.Array) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            return (x @ x) * scale

    return 2.0 * size**3 / _best_seconds(jax.jit(multiply), jnp.ones((size, size)))


def _best_seconds(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> float:
    """Seconds of a call, in a chain of calls, in the fastest of several turns."""
    x = jax.block_until_ready(function(x))
    seconds = []
    for _ in range(TURNS):
        start = time.perf_counter()
        for _ in range(CALLS):
            x = function(x)
        jax.block_until_ready(x)
        seconds.append((time.perf_counter() - start) / CALLS)
    return min(seconds)


def _reset(environment: Environment, num_envs: int) -> Any:
    return jax.vmap(environment.reset)(jax.random.split(jax.random.key(0), num_envs))


def _step(environment: Environment, policy: Policy, layers: Any, states: Any) -> Any:
    # float32 products, as in rollouts
    with jax.default_matmul_precision("highest"):
        actions = jax.vmap(policy.apply)(layers, jax.vmap(environment.observe)(states))
        return jax.vmap(environment.step)(states, actions)
