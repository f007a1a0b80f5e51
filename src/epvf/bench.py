"""How fast a task evaluates policies, next to how fast its engine steps alone."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from epvf.errors import UserError
from epvf.policy import Policy
from epvf.tasks.base import SteppableTask, Stepped
from epvf.types import Evaluation, Population

BARE_SECONDS = 1.0
"""How long at least bare stepping is timed in each turn."""


def bench(
    task: SteppableTask, policy: Policy, thetas: Population, repeats: int = 5
) -> dict[str, Any]:
    """Times the closed loop and bare stepping turn by turn, so that both see the same machine.

    The closed loop is `Evaluate`: one policy an environment, observations, rewards and
    terminations. Bare stepping is the engine alone on as many environments, with random actions.

    Args:
        task: any task.
        policy: an architecture that fits it.
        thetas: `[N, P]` the policies.
        repeats: turns; the medians over them are reported.

    Returns:
        `steps_per_second`, `bare_steps_per_second` and their `ratio`; `peak_memory_bytes`, how far
        the first evaluation (with its compilation) raised the process' resident memory at its
        highest, None where that is not known; `theta_bytes`; and what was run.

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

    evaluation, memory = _peak_memory(closed_loop)
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
    return {
        "task": task.spec.name,
        "backend": task.spec.backend,
        "device": jax.devices()[0].device_kind if task.spec.traceable else "cpu",
        "num_envs": thetas.shape[0],
        "env_steps": env_steps,
        "repeats": repeats,
        "steps_per_second": float(np.median(closed_rates)),
        "bare_steps_per_second": float(np.median(bare_rates)),
        "ratio": float(np.median(np.divide(closed_rates, bare_rates))),
        "peak_memory_bytes": memory,
        "theta_bytes": int(thetas.nbytes),
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


def _peak_memory(run: Callable[[], Evaluation]) -> tuple[Evaluation, int | None]:
    """What `run` returns, and by how much its peak resident memory exceeds that before it."""
    resettable = _reset_peak()
    before = _peak_bytes()
    result = run()
    after = _peak_bytes()
    if before is None or after is None:
        return result, None
    # without a reset an earlier, higher peak would hide this one
    return result, after - before if resettable or after > before else None


def _reset_peak() -> bool:
    """Makes Linux forget the peak of this process' resident memory; false elsewhere."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _peak_bytes() -> int | None:
    if os.name != "posix":
        return None
    import resource  # not there on Windows
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
