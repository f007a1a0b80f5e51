"""How MuJoCo's scenes can be drawn here: without a display through EGL or OSMesa, or with one.

MuJoCo reads `MUJOCO_GL` when it is first imported, which is long before anybody asks for pictures;
so the context is made by name. Whether a way works is tried in another process: a driver can crash,
and an OpenGL library that was loaded in vain cannot be exchanged for another.
"""

import os
import subprocess
import sys
from functools import cache
from importlib import import_module
from typing import Any

from epvf.errors import UserError, brief
from epvf.files import one_line
from epvf.runtime import environment

VARIABLE = environment.GL
TO_INSTALL = (
    "on Debian and Ubuntu: apt install libegl1 libgl1 (EGL, also of a GPU's driver), "
    "or apt install libosmesa6; in Python: pip install pyopengl"
)
TRIAL_SECONDS = 60.0

_TRIAL = """
import os, sys
import mujoco
from mujoco.{way} import GLContext
context = GLContext(16, 16)
context.make_current()
model = mujoco.MjModel.from_xml_string("<mujoco/>")
mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
sys.stdout.write("drawn")
sys.stdout.flush()
os._exit(0)  # without what destructors may complain about
"""


def context(width: int, height: int) -> Any:
    """An OpenGL context, already current in this thread.

    Raises:
        UserError: if nothing here can draw.
    """
    way = chosen()
    try:
        made = import_module(f"mujoco.{way}").GLContext(width, height)
        made.make_current()
    except Exception as error:  # of whatever kind the library has
        raise UserError(f"cannot draw with {way}: {one_line(error)}; {TO_INSTALL}") from error
    return made


@cache
def chosen() -> str:
    """The way to draw: the one that `MUJOCO_GL` names, otherwise the first that works.

    Raises:
        UserError: if there is none.
    """
    asked = environment.drawing()
    if asked in environment.OFF:
        raise UserError(f"{VARIABLE}={asked} forbids drawing; unset it, or make it egl")
    if asked and asked not in environment.WAYS:
        told = f"{VARIABLE}={brief(asked)[1:-1]} is no way to draw"
        raise UserError(f"{told}; unset it, or make it one of {', '.join(environment.WAYS)}")
    reasons = []
    for way in [asked] if asked else candidates():
        reason = trial(way)
        if reason is None:
            return way
        reasons.append(f"{way}: {reason}")
    told = f"{VARIABLE}={asked} does not work" if asked else "nothing here can draw MuJoCo's scenes"
    raise UserError(f"{told} ({'; '.join(reasons)}); {TO_INSTALL}")


def candidates() -> list[str]:
    """Ways to draw that this kind of machine may have, the best first."""
    if sys.platform == "darwin":
        return ["cgl"]
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return ["egl", "osmesa", *(["glfw"] if display else [])]


def trial(way: str) -> str | None:
    """Tries a way in another process; why it does not work, or None if it does."""
    unset = ("PYOPENGL_PLATFORM",)
    environment = {k: v for k, v in os.environ.items() if k not in unset} | {VARIABLE: way}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _TRIAL.format(way=way)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=TRIAL_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"no picture after {TRIAL_SECONDS:g} s"
    if done.stdout.endswith("drawn"):
        return None
    if done.returncode < 0:
        return f"its driver crashed with signal {-done.returncode}"
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return said[-1][:160] if said else f"exit code {done.returncode}"
