"""What decides what a body's functions compute, told without tracing them."""

import hashlib
from functools import cache
from importlib.metadata import version
from pathlib import Path

import mujoco
import numpy as np

from epvf.tasks.body import Body

_LIBRARIES = ("jax", "mujoco", "mujoco-mjx", "numpy")


def of_body(body: Body) -> str | None:
    """A string that is equal only for bodies whose functions compute the same on MJX.

    None for formulas that are not of this package: what they depend on cannot be known, so that
    only their traces tell. (`engines.fingerprint` tells when numba's code of formulas is out of
    date; here MJX's translation of them counts too, and all of it is source of this package.)
    """
    formulas = (body.observe, body.reward, body.terminated)
    if body.foreign or any(getattr(f, "__closure__", None) for f in formulas):
        return None
    model = body.model()
    data = np.zeros(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, data)
    names = [f"{f.__module__}.{f.__qualname__}" if f else "" for f in formulas]
    numbers = (body.frame_skip, body.observation_limit, body.command_size)
    actions = tuple(map(tuple, body.actions))
    about = (_sources(), body.name, numbers, actions, names)
    return hashlib.sha256(repr(about).encode() + data.tobytes()).hexdigest()


@cache
def _sources() -> str:
    """A digest of this package's tasks, and the versions of what they call."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return f"{digest.hexdigest()} {[version(name) for name in _LIBRARIES]}"
