"""Steps on MuJoCo's C engine, for comparison with other engines."""

from typing import Any

import mujoco
import numpy as np

from epvf.policies.mlp import Policy
from epvf.tasks import ant
from epvf.tasks.engines.episode import NOWHERE, Episode, ReplayRows


def c_transitions(num: int = 900) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Steps of the C engine under held random controls.

    Returns states and controls before and velocities after each step, and how flat the feet
    lay on the floor: horizontal share of the axis of the steepest foot in contact, 1 if none is.
    """
    model, rng = ant.model(), np.random.default_rng(0)
    before, after, flatness = [], [], []
    for _ in range(num // 150):
        data = mujoco.MjData(model)
        for t in range(150):
            ctrl = rng.uniform(-1.0, 1.0, 8).astype(np.float32) if t % 5 == 0 else data.ctrl
            state = (data.qpos, data.qvel, data.qacc_warmstart, ctrl)
            before.append([np.array(x, np.float32) for x in state])
            data.ctrl[:] = ctrl
            mujoco.mj_step(model, data)
            after.append(data.qvel.copy())
            feet = [contact.geom.max() for contact in data.contact]
            axes = [data.geom_xmat[foot].reshape(3, 3)[:, 2] for foot in feet]
            flatness.append(min([1.0, *(np.hypot(*axis[:2]) for axis in axes)]))
    columns = [np.stack(column) for column in zip(*before, strict=True)]
    return columns, np.stack(after), np.array(flatness)


def c_steps(model: mujoco.MjModel, states: list[np.ndarray]) -> np.ndarray:
    """Velocities after a step of the C engine from each of the states."""
    data, after = mujoco.MjData(model), []
    for row in zip(*states, strict=True):
        data.qpos[:], data.qvel[:], data.qacc_warmstart[:], data.ctrl[:] = row
        mujoco.mj_step(model, data)
        after.append(data.qvel.copy())
    return np.array(after)


def replayed(body: Any, actions: np.ndarray, start: np.ndarray = NOWHERE) -> ReplayRows:
    """What given actions `[T, nu]` lead to in a body that starts so far from its model's state."""
    sizes = body.observation_size, len(body.actions.offset)
    rows = ReplayRows(
        np.zeros((len(actions), sizes[0]), np.float32),
        np.zeros(len(actions), np.float32),
        np.zeros(len(actions), bool),
    )
    Episode(Policy(sizes, output="clip"), body).replay(actions, rows, start)
    return rows
