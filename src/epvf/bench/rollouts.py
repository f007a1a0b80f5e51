"""How fast a task evaluates policies, next to how fast its engine steps alone."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from epvf.bench.roofline import roofline
from epvf.errors import UserError
from epvf.policies.mlp import Policy
from epvf.runtime.memory import measure_peak
from epvf.tasks.base import SteppableTask, Stepped
from epvf.types import Evaluation, Population

BARE_SECONDS = 1.0
"""How long at least bare stepping is timed in each turn."""


def bench(
    task: SteppableTask, policy: Policy, thetas: Population, repeats: int = 5
) -> dict[str, Any]:
    """Times the closed loop and bare stepping turn by turn, so that both see the same machine.

    The closed loop is `Evaluate`: one policy an environment, observations, rewards and
    terminations. Bare stepping is the engine alone on as many environments, with random actions;
    of a JAX engine compiled as `jax.jit` does it, without this library's options.

    Args:
        task: any task.
        policy: an architecture that fits it.
        thetas: `[N, P]` the policies.
        repeats: turns; the medians over them are reported.

    Returns:
        `steps_per_second`, `bare_steps_per_second` and their `ratio`; `peak_memory_bytes`, how far
        the first evaluation (with its compilation) raised the process' resident memory at its
        highest, and `peak_device_bytes`, the highest use of the accelerator's memory up to then,
        None where they are not known; `rollout_compile_seconds`, by how much the first evaluation
        took longer than later ones; `code_bytes` of a step's own machine code, of `lanes`;
        `theta_bytes`; the `roofline`; and what was run.

    Raises:
        UserError: if the policies do not fit the task, none of them can be run, or `repeats` is
            not positive.
    """
    if repeats < 1:
        raise UserError(f"repeats is {repeats}, but must be at least 1")
    evaluate = task.evaluator(policy)
    key = jax.random.key(0)

    def closed_loop() -> Evaluation:
        return jax.block_until_ready(evaluate(key, thetas))

    begin = time.perf_counter()
    evaluation, peak = measure_peak(closed_loop)
    first = time.perf_counter() - begin
    env_steps = int(np.asarray(evaluation.lengths).sum(dtype=np.int64))
    if env_steps == 0:
        raise UserError("none of the policies could be run: their parameters are not finite")
    bare = task.bare_stepper(policy, thetas)
    closed_rates, bare_rates = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        closed_loop()
        closed_rates.append(env_steps / (time.perf_counter() - start))
        bare_rates.append(_bare_rate(bare))
    steps_per_second = float(np.median(closed_rates))
    return {
        "task": task.spec.name,
        "backend": task.spec.backend,
        "device": jax.devices()[0].device_kind if task.spec.traceable else "cpu",
        "num_envs": thetas.shape[0],
        "env_steps": env_steps,
        "repeats": repeats,
        "steps_per_second": steps_per_second,
        "bare_steps_per_second": float(np.median(bare_rates)),
        "ratio": float(np.median(np.divide(closed_rates, bare_rates))),
        "rollout_compile_seconds": max(0.0, first - env_steps / steps_per_second),
        "peak_memory_bytes": peak.host,
        "peak_device_bytes": peak.device,
        "code_bytes": getattr(task, "code_bytes", None),
        "theta_bytes": int(thetas.nbytes),
        "roofline": roofline(task, policy, thetas.shape[0], steps_per_second),
    }


def _bare_rate(bare: Callable[[], Stepped]) -> float:
    """Steps per second, over so many calls that a short disturbance does not decide."""
    steps, seconds = 0, 0.0
    while seconds < BARE_SECONDS:
        stepped = bare()
        steps, seconds = steps + stepped.steps, seconds + stepped.seconds
    return steps / seconds


def render(result: dict[str, Any]) -> str:
    """The numbers as lines of text."""
    lines = []
    for name, value in result.items():
        inner = value if isinstance(value, dict) else {None: value}
        for part, number in inner.items():
            label = name if part is None else f"{name}[{part}]"
            shown = f"{number:,.4g}" if isinstance(number, float) and number < 1e4 else number
            shown = f"{shown:,.0f}" if isinstance(shown, float) else shown
            lines.append(f"{label}: {shown}")
    return "\n".join(lines)
