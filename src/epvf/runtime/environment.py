"""Variables of JAX, MuJoCo and numba that would change numbers, or end in a traceback.

A login script sets them for something else. Each is harmless, made so, or refused in a line.
"""

import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import cache
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
    "JAX_DEBUG_KEY_REUSE": Rule(
        _off, "its checker takes a key that is split and folded for one used twice"
    ),
    "JAX_NO_EXECUTION": Rule(_off, "nothing is computed"),
    "JAX_NO_TRACING": Rule(_off, "nothing can be compiled"),
    "JAX_DISABLE_JIT": Rule(_off, "uncompiled, a run takes a thousand times as long"),
    "JAX_DEFAULT_PRNG_IMPL": Rule(
        lambda value: value in ("", "threefry2x32"), "a seed would mean other numbers"
    ),
    "JAX_RANDOM_SEED_OFFSET": Rule(
        lambda value: value in ("", "0"), "a seed would mean other numbers"
    ),
    "JAX_THREEFRY_PARTITIONABLE": Rule(
        lambda value: value == "" or _on(value), "a seed would mean other numbers"
    ),
    "JAX_NUMPY_DTYPE_PROMOTION": Rule(
        lambda value: value in ("", "standard"), "epvf mixes types of numbers"
    ),
    "XLA_FLAGS": Rule(
        lambda value: not re.search(r"xla_cpu_enable_fast_math(?!=(false|0)\b)", value),
        "with fast math what is not finite is no longer seen",
    ),
    "NUMBA_DISABLE_JIT": Rule(_off, "uncompiled, a rollout takes a thousand times as long"),
    "NUMBA_NUM_THREADS": Rule(
        lambda value: value == "" or _positive(value), "it must be a number of threads"
    ),
}
"""Variables that may not have just any value."""

RULES |= {
    f"JAX_TRANSFER_GUARD{way}": Rule(
        lambda value: not value.startswith("disallow"), "a run takes numbers to the device and back"
    )
    for way in ("", "_HOST_TO_DEVICE", "_DEVICE_TO_DEVICE", "_DEVICE_TO_HOST")
}


CHOOSING = ("JAX_PLATFORM_NAME", "JAX_PLATFORMS")
"""Variables that say on what kind of device JAX computes."""

PATHS = ("JAX_COMPILATION_CACHE_DIR", *CHOOSING)
"""Variables that JAX reads as they are."""


def wrong(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What is set that a run cannot have, and why, by variable."""
    return {
        name: f"{name}={brief(environment[name])[1:-1]}: {rule.reason}; unset it"
        for name, rule in RULES.items()
        if name in environment and not rule.fine(environment[name])
    }


def unreadable(apart: bool = False) -> dict[str, str]:
    """Values that JAX and numba fall over when they are imported, by variable.

    Args:
        apart: whether JAX is tried in another process: where its import failed once, it cannot be
            imported again.
    """
    found = {}
    if any(name.startswith("NUMBA_") for name in os.environ):
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            import numba  # noqa: F401
        # numba would go on with a default, and show the traceback of its parser
        for name in re.findall(r"Environment variable \W*(NUMBA_\w+)", " ".join(map(str, warned))):
            found[name] = _unreadable(name, "numba")
    names = [name for name in os.environ if name.startswith("JAX_") and name not in PATHS]
    while names and (said := _import_failure(apart, without=found)) is not None:
        said_of = re.findall(r"JAX_\w+", said.upper())
        name = next((name for name in said_of if name in names), names[0])
        names.remove(name)
        found[name] = _unreadable(name, "JAX")
        if not apart:
            break
    return found


def _import_failure(apart: bool, without: Iterable[str]) -> str | None:
    """What JAX says where it cannot be imported; apart, without some variables."""
    if apart:
        command = [sys.executable, "-c", "import jax"]
        rest = {name: value for name, value in os.environ.items() if name not in without}
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=rest)
        return (done.stderr.splitlines() or [""])[-1] if done.returncode else None
    try:
        import jax  # noqa: F401
    except ValueError as error:
        return str(error)
    return None


def _unreadable(name: str, library: str) -> str:
    told = brief(os.environ[name])[1:-1]
    return f"{name}={told}: {library} cannot read it; unset it"


def unusable(starts: bool = True) -> dict[str, str]:
    """What JAX cannot start with, and why, by variable.

    Args:
        starts: whether JAX may be started here.
    """
    flags = os.environ.get("XLA_FLAGS")
    if flags and (said := _trial(flags)) is not None:
        # XLA ends the process at a flag that it does not know
        told = brief(flags)[1:-1]
        return {"XLA_FLAGS": f"XLA_FLAGS={told}: JAX cannot start with it ({said}); unset it"}
    if not starts:
        return {}
    import jax

    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # which one depends on JAX's version
        name = next((name for name in CHOOSING if os.environ.get(name)), None)
        if name is None:
            return {"JAX": f"JAX cannot start: {one_line(error)[:100]}"}
        told = brief(os.environ[name])[1:-1]
        return {name: f"{name}={told}: JAX finds no such device here; unset it, or set {name}=cpu"}
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
    for told in unreadable().values():
        raise UserError(told)
    if any(os.environ.get(name) for name in ("XLA_FLAGS", *CHOOSING)):
        for told in unusable(not joins).values():
            raise UserError(told)


SET_ASIDE = "EPVF_MUJOCO_GL"
"""Holds what `MUJOCO_GL` was."""


def drawing() -> str:
    """What `MUJOCO_GL` says of how to draw; empty: nothing."""
    told = os.environ.get(GL, "")
    return (os.environ.get(SET_ASIDE, told) if told == NO_DRAWING else told).lower().strip()


# without the rest of JAX, of which the import takes five times as long
_TRIAL = """
try:
    from jaxlib import xla_client
    xla_client.make_cpu_client()
except (ImportError, AttributeError, TypeError):  # of a version that has it elsewhere
    import jax
    jax.devices()
"""


@cache
def _trial(flags: str) -> str | None:
    """Starts XLA in another process; what it says where it fails, None where it does not."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _TRIAL],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TRIAL_SECONDS,
            env=dict(os.environ)
            | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "JAX_PLATFORM_NAME": ""},
        )
    except (OSError, subprocess.SubprocessError) as error:
        return type(error).__name__
    if done.returncode == 0:
        return None
    lines = [line for line in done.stderr.splitlines() if "nknown flag" in line]
    return lines[0].rpartition("] ")[2][:60] if lines else f"exit code {done.returncode}"
