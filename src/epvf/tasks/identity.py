"""What decides what a body's functions compute, told without tracing them."""

import hashlib
from functools import cache
from importlib.metadata import version
from pathlib import Path

import mujoco
import numpy as np

from epvf.tasks.body import Body

_PACKAGE = __name__.partition(".")[0]
_LIBRARIES = ("jax", "mujoco", "mujoco-mjx", "numpy")


def of_body(body: Body) -> str | None:
    """A string that is equal only for bodies whose functions compute the same on MJX.

    None for formulas that are not of this package: what they depend on cannot be known, so that
    only their traces tell.
    """
    formulas = (body.observe, body.reward, body.terminated)
    if any(getattr(f, "__module__", "").partition(".")[0] != _PACKAGE for f in formulas if f):
        return None
    if any(getattr(f, "__closure__", None) for f in formulas):
        return None
    model = body.model()
    data = np.zeros(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, data)
    names = [f"{f.__module__}.{f.__qualname__}" if f else "" for f in formulas]
    about = (_sources(), body.name, body.frame_skip, body.observation_limit, names)
    return hashlib.sha256(repr(about).encode() + data.tobytes()).hexdigest()


@cache
def _sources() -> str:
    """A digest of this package's tasks, and the versions of what they call."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return f"{digest.hexdigest()} {[version(name) for name in _LIBRARIES]}"
