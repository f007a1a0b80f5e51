"""Variables of JAX, MuJoCo and numba that would change numbers, or end in a traceback.

A login script sets them for something else. Each is harmless, made so, or refused in a line.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import NamedTuple

from epvf.errors import UserError, brief
from epvf.files import one_line

FALSE = ("", "0", "false", "off", "no", "n", "f")
TRUE = ("1", "true", "on", "yes", "y", "t")

TRIAL_SECONDS = 120.0

GL = "MUJOCO_GL"
NO_DRAWING = "disable"
OFF = ("disable", "disabled", "off", "false", "0")
WAYS = ("egl", "osmesa", "glfw", "cgl")
"""Of drawing that MuJoCo knows."""


class Rule(NamedTuple):
    """What is known of a variable.

    Attributes:
        fine: whether a value does no harm.
        reason: why it does otherwise.
    """

    fine: Callable[[str], bool]
    reason: str


def _off(value: str) -> bool:
    return value.lower() in FALSE


def _on(value: str) -> bool:
    return value.lower() in TRUE


def _positive(value: str) -> bool:
    return value.isascii() and value.isdigit() and 1 <= int(value[:9]) <= 10_000


RULES: dict[str, Rule] = {
    "JAX_ENABLE_X64": Rule(_off, "epvf computes in 32 bits"),
    "JAX_DEBUG_NANS": Rule(_off, "epvf itself masks and counts what is not finite"),
    "JAX_DEBUG_INFS": Rule(_off, "epvf itself masks and counts what is not finite"),
    "JAX_DISABLE_JIT": Rule(_off, "uncompiled, a run takes a thousand times as long"),
    "JAX_DEFAULT_PRNG_IMPL": Rule(
        lambda value: value in ("", "threefry2x32"), "a seed would mean other numbers"
    ),
    "JAX_THREEFRY_PARTITIONABLE": Rule(
        lambda value: value == "" or _on(value), "a seed would mean other numbers"
    ),
    "JAX_NUMPY_DTYPE_PROMOTION": Rule(
        lambda value: value in ("", "standard"), "epvf mixes types of numbers"
    ),
    "NUMBA_DISABLE_JIT": Rule(_off, "uncompiled, a rollout takes a thousand times as long"),
    "NUMBA_NUM_THREADS": Rule(
        lambda value: value == "" or _positive(value), "it must be a number of threads"
    ),
}
"""Variables that may not have just any value."""


def wrong(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What is set that a run cannot have, and why, by variable."""
    return {
        name: f"{name}={brief(environment[name])[1:-1]}: {rule.reason}; unset it"
        for name, rule in RULES.items()
        if name in environment and not rule.fine(environment[name])
    }


def unusable(starts: bool = True) -> dict[str, str]:
    """What JAX cannot start with, and why, by variable.

    Args:
        starts: whether JAX may be started here.
    """
    if os.environ.get("XLA_FLAGS") and (said := _trial()) is not None:
        # XLA ends the process at a flag that it does not know
        told = brief(os.environ["XLA_FLAGS"])[1:-1]
        return {"XLA_FLAGS": f"XLA_FLAGS={told}: JAX cannot start with it ({said}); unset it"}
    if not starts:
        return {}
    import jax

    platforms = os.environ.get("JAX_PLATFORMS", "")
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # which one depends on JAX's version
        if not platforms:
            return {"JAX": f"JAX cannot start: {one_line(error)[:100]}"}
        told = brief(platforms)[1:-1]
        return {
            "JAX_PLATFORMS": f"JAX_PLATFORMS={told}: JAX finds no such device here; unset it, or "
            "set JAX_PLATFORMS=cpu"
        }
    return {}


def check() -> None:
    """Raises a `UserError` naming the first variable that would change numbers."""
    for told in wrong().values():
        raise UserError(told)


def prepare(computes: bool, joins: bool = False) -> None:
    """Makes what is harmless so, and refuses the rest, before anything is written.

    Args:
        computes: whether JAX will be used.
        joins: whether JAX will be started together with other processes, and not before.

    Raises:
        UserError: naming the first variable that is wrong, and what to do.
    """
    if os.environ.get(GL, NO_DRAWING) not in ("", NO_DRAWING):
        # MuJoCo loads what draws when it is imported, and fails where that is not there; whoever
        # draws asks for `drawing`
        os.environ[SET_ASIDE] = os.environ[GL]
        os.environ[GL] = NO_DRAWING
    if not computes:
        return
    check()
    if any(os.environ.get(name) for name in ("XLA_FLAGS", "JAX_PLATFORMS")):
        for told in unusable(not joins).values():
            raise UserError(told)


SET_ASIDE = "EPVF_MUJOCO_GL"
"""Holds what `MUJOCO_GL` was."""


def drawing() -> str:
    """What `MUJOCO_GL` says of how to draw; empty: nothing."""
    told = os.environ.get(GL, "")
    return (os.environ.get(SET_ASIDE, told) if told == NO_DRAWING else told).lower().strip()


def _trial() -> str | None:
    """Starts JAX in another process; what it says where it fails, None where it does not."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", "import jax; jax.devices()"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TRIAL_SECONDS,
            env=dict(os.environ) | {"JAX_PLATFORMS": "cpu"},
        )
    except (OSError, subprocess.SubprocessError) as error:
        return type(error).__name__
    if done.returncode == 0:
        return None
    lines = [line for line in done.stderr.splitlines() if "nknown flag" in line]
    return lines[0].rpartition("] ")[2][:60] if lines else f"exit code {done.returncode}"
