"""What a run would take, told before it is begun."""

import math
from typing import Any

import jax

from epvf.cli.results import print_result
from epvf.methods.registry import METHODS
from epvf.runs.checkpoints import size_on_disk
from epvf.runs.display import clock, make_display
from epvf.runtime import startup
from epvf.runtime.memory import free_device_bytes, free_host_bytes
from epvf.training import pace
from epvf.training.loop import init_state
from epvf.training.prepare import Setup, draws_late, run_needs


def tell(setup: Setup, timing: bool, as_json: bool) -> None:
    """Prints the parameters, memory and env steps of a run, and the time it takes if asked to."""
    told = size(setup) | (seconds(setup) if timing else {})
    print_result(told, _text(told), as_json)


def seconds(setup: Setup) -> dict[str, Any]:
    """Least and most seconds of a run, from its first iterations; None for agents."""
    expected = None
    if setup.method is not None:
        startup.use_compilation_cache()
        announce = make_display().announce
        announce("timing the first iterations ...")
        expected = pace.expect(setup, pace.measure(setup))
    return {
        "seconds_short_episodes": expected and expected.short,
        "seconds_long_episodes": expected and expected.long,
    }


def size(setup: Setup) -> dict[str, Any]:
    """Parameters, bytes and env steps of a run; None for what is not known before it."""
    config, spec = setup.config, setup.task.spec
    segment = METHODS[config.method.name].segment(config.method)
    longest = segment or spec.episode_length
    most = config.num_envs * config.iterations * longest
    steps = most if config.env_steps is None else min(most, config.env_steps)
    free = free_device_bytes()
    return {
        "task": spec.name,
        "backend": spec.backend,
        "method": config.method.name,
        "policy": setup.policy.describe(),
        "policy_parameters": setup.policy.num_parameters,
        "value_parameters": None if setup.method is None else _value_parameters(setup),
        "iterations": config.iterations,
        "env_steps_per_iteration": config.num_envs * longest,
        "env_steps": steps,
        "num_seeds": config.num_seeds,
        "memory_bytes": None if setup.method is None else _memory(setup),
        "memory_free_bytes": free_host_bytes() if free is None else free,
        "checkpoint_bytes": None if setup.method is None else _checkpoint(setup),
    }


def _memory(setup: Setup) -> int:
    traceable = setup.task.spec.traceable
    copies = 1 if traceable or free_device_bytes() is not None else 2
    late = draws_late(setup.task)
    needs = run_needs(setup.search, setup.config.num_seeds, traceable, copies, late)
    return needs.fixed + setup.config.num_envs * needs.per_policy


def _state(setup: Setup) -> Any:
    return jax.eval_shape(setup.search.init_state, jax.eval_shape(lambda: jax.random.key(0)))


def _checkpoint(setup: Setup) -> int:
    return size_on_disk(jax.eval_shape(lambda: init_state(setup).learner))


def _value_parameters(setup: Setup) -> int | None:
    """Of V's network; None for methods without one."""
    leaves = jax.tree.leaves(getattr(_state(setup), "value", None))
    return sum(math.prod(leaf.shape) for leaf in leaves) if leaves else None


def _text(told: dict[str, Any]) -> str:
    value = told["value_parameters"]
    lines = [
        f"{told['method']} on {told['task']}, backend {told['backend']}",
        f"policy: {told['policy']}, {told['policy_parameters']:,} parameters"
        + ("" if value is None else f"; value function: {value:,}"),
        f"steps: {told['iterations']:,} iterations of up to {told['env_steps_per_iteration']:,} "
        f"env steps, {told['env_steps']:,} at most"
        + (f", of each of {told['num_seeds']} seeds" if told["num_seeds"] > 1 else ""),
    ]
    if told["memory_bytes"] is not None:
        free = told["memory_free_bytes"]
        lines.append(
            f"memory: at least {told['memory_bytes'] / 1e6:,.1f} MB"
            + ("" if free is None else f" of {free / 1e6:,.0f} MB that are free")
            + f"; a checkpoint takes up to {told['checkpoint_bytes'] / 1e6:,.1f} MB of disk"
        )
    if told.get("seconds_long_episodes") is not None:
        short, long = (clock(told[f"seconds_{which}_episodes"]) for which in ("short", "long"))
        lines.append(
            f"time: {short} on this machine if episodes stay as they begin, "
            f"{long} if all run to their end"
        )
    return "\n".join([*lines, "nothing was trained (--dry-run)"])
