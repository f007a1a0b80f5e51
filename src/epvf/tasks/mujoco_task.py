"""A robot of one's own: a MuJoCo model, and what it sees, is paid for and ends by."""

from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any, TypeAlias

import mujoco
import numpy as np

from epvf.errors import UserError
from epvf.tasks.body import FORMULAS, Body, Draws, Formula, first_state, in_parts
from epvf.tasks.calls import LONGEST, applied, complaint, place_of, refused
from epvf.tasks.starts import Around

Model: TypeAlias = str | Path | mujoco.MjSpec | mujoco.MjModel
"""A file or the text of MJCF (or URDF), or what MuJoCo made of one."""

Starts: TypeAlias = float | Callable[[Draws, int], tuple[Any, ...]]


def MujocoTask(  # noqa: N802  # to its users it is a thing, not an action
    model: Model,
    *,
    observe: Formula,
    reward: Formula,
    terminated: Formula | None = None,
    starts: Starts | None = None,
    frame_skip: int = 1,
    episode_length: int = 1000,
    observation_limit: float = float("inf"),
    action_offset: Any = None,
    action_scale: Any = None,
    name: str = "robot",
) -> Body:
    """A task on MuJoCo, for every engine: `native`, `mjx`, `lanes` and `warp`.

    Formulas are functions of one state `s` of one environment, in plain operators and functions of
    `numpy` or `math`. It has `qpos`, `qvel`, `ctrl`, `previous_qpos`, `time`, `command`, and what
    MuJoCo computes: `sensordata`, `xpos`, `xquat`, `site_xpos`, `cvel`, `cinert`, `subtree_com`,
    `qfrc_actuator`, `qfrc_constraint`, `cfrc_ext`, `previous_xpos`, `previous_subtree_com`; their
    shapes and units are told by `epvf.tasks.body.State`. No `if`, `and`, `or` on numbers of a
    state: `epvf.tasks.formulas.where`, `&` and `|` do that on every engine.

    Actions of policies are in [-1, 1] and spread over each actuator's control range; `s.ctrl` is
    in the actuator's units.

    Example:
        >>> import epvf
        >>> pole = epvf.MujocoTask(
        ...     '''<mujoco><worldbody><body><joint name="hinge" axis="0 1 0"/>
        ...     <geom type="capsule" fromto="0 0 0 0 0 .5" size=".02"/></body></worldbody>
        ...     <actuator><motor joint="hinge" ctrlrange="-3 3"/></actuator></mujoco>''',
        ...     observe=lambda s: (s.qpos, s.qvel),
        ...     reward=lambda s: 1.0 - s.qpos[0] ** 2,
        ...     terminated=lambda s: abs(s.qpos[0]) > 0.5,
        ...     starts=0.05,
        ... )
        >>> pole.observation_size, float(pole.actions(pole.actions.scale)[0])
        (2, 9.0)

    Args:
        model: path of an MJCF file, its text, a `mujoco.MjSpec` or a `mujoco.MjModel`.
        observe: to what the policy sees: an array, or a tuple of arrays and numbers.
        reward: to the reward of the step that led there.
        terminated: to whether the episode is over there; None: only after its longest.
        starts: where episodes start. A number: every position and velocity uniformly within ± it of
            the model's own. A function of random numbers and N: offsets of the positions `[N, nq]`
            and velocities `[N, nv]` and, where `s.command` is read, commands `[N, c]`. None: every
            episode starts where the model does.
        frame_skip: physics' steps in an env step.
        episode_length: longest episode, in env steps.
        observation_limit: observations are clipped to ± this.
        action_offset, action_scale: `[nu]` of how actions become controls instead: `offset + scale
            * action`.
        name: of the task, where it is not given one by its place (`file.py:attribute`).

    Returns:
        A body: `epvf train file.py:attribute` takes it, or a function that makes it; so do
        `epvf.register_task` and `epvf.train`.

    Raises:
        UserError: if the model does not compile or has no actuators, a formula fails or makes
            something of the wrong kind, or a start is of the wrong size or not finite.
    """
    made = _compiled(model)
    if made.nu < 1:
        raise UserError("the model has no actuators, so that a policy could do nothing; add some")
    _check_whole("frame_skip", frame_skip)
    _check_whole("episode_length", episode_length)
    given = _Given(made)
    if isinstance(starts, float | int):
        if not 0.0 <= float(starts) < float("inf"):
            raise UserError(f"starts is {starts}, but must be finite and at least 0")
        starts = Around(given, float(starts))
    body = Body(
        name=name,
        model=given,
        frame_skip=frame_skip,
        episode_length=episode_length,
        observe=observe,
        reward=reward,
        terminated=terminated,
        starts=starts,
        observation_limit=observation_limit,
        action_offset=_per_actuator("action_offset", action_offset, made.nu),
        action_scale=_per_actuator("action_scale", action_scale, made.nu),
    )
    _check_starts(body)
    _check_formulas(body)
    return body


class _Given:
    """A model that is there already, as a body asks for it."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model = model

    def __call__(self) -> mujoco.MjModel:
        return self._model


def _compiled(model: Model) -> mujoco.MjModel:
    if isinstance(model, mujoco.MjModel):
        return model
    try:
        if isinstance(model, mujoco.MjSpec):
            return model.compile()
        if isinstance(model, str) and model.lstrip().startswith("<"):
            return mujoco.MjModel.from_xml_string(model)
        if isinstance(model, str | Path):
            path = Path(model)
            if not path.is_file():
                raise UserError(f"there is no file {path} to take a model from")
            return mujoco.MjModel.from_xml_path(str(path))
    except (ValueError, mujoco.FatalError) as error:
        told = ", ".join(line.strip() for line in str(error).splitlines() if line.strip())
        raise UserError(_short(f"the model does not compile: {told}")) from error
    raise UserError(
        f"a model is a path, MJCF text, an MjSpec or an MjModel, not {type(model).__name__}"
    )


def _check_whole(what: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{what} is {value!r}, but must be a whole number of at least 1")


def _per_actuator(what: str, values: Any, num: int) -> tuple[float, ...] | None:
    if values is None:
        return None
    row = np.asarray(values, float)
    row = np.full(num, row) if row.ndim == 0 else row
    if row.shape != (num,) or not np.isfinite(row).all():
        raise UserError(f"{what} must be {num} finite numbers, one an actuator, not {values!r:.60}")
    return tuple(map(float, row))


def _check_starts(body: Body) -> None:
    """Draws two starts and looks at their sizes.

    Raises:
        UserError: if they cannot be drawn, do not fit the model, or are not finite.
    """
    if body.starts is None:
        return
    model, place = body.model(), place_of(body.starts)
    try:
        parts = tuple(body.starts(np.random.default_rng(0), 2))
    except UserError:
        raise
    except Exception as error:  # whatever somebody's function does
        raise refused(body.name, "starts", body.starts, error) from error
    sizes = (("positions", model.nq), ("velocities", model.nv), ("commands", None))
    if len(parts) not in (2, 3):
        raise UserError(f"starts ({place}) makes {len(parts)} parts, not positions and velocities")
    for part, (what, size) in zip(parts, sizes, strict=False):
        row = np.asarray(part)
        width = size if size is not None else (row.shape[-1] if row.ndim == 2 else "c")
        if row.shape != (2, width):
            raise UserError(
                f"starts ({place}) makes {what} of shape {list(row.shape)} for 2 episodes, not "
                f"[2, {width}]"
            )
        if not np.isfinite(row.astype(float)).all():
            raise UserError(f"starts ({place}) makes {what} that are not finite")


def _check_formulas(body: Body) -> None:
    """Tries the formulas in numpy, at the first state.

    Raises:
        UserError: if one is no function, reads what there is not, fails, or makes something of the
            wrong kind.
    """
    for which in FORMULAS:
        formula = getattr(body, which)
        if not isinstance(formula, FunctionType) and (formula is not None or which != "terminated"):
            raise UserError(f"{which} must be a plain function of a state, not {formula!r:.60}")
    assert body.reads is not None
    state = first_state(body)
    parts = in_parts(applied(body, "observe", state))
    rows = [np.asarray(part) for part in parts]
    _expect(body, "observe", all(row.dtype.kind in "fiub" for row in rows), "real numbers", parts)
    size = sum(row.size for row in rows)
    _expect(body, "observe", size > 0, "at least one number", parts)
    paid = np.asarray(applied(body, "reward", state))
    _expect(body, "reward", paid.shape == () and paid.dtype.kind in "fiub", "one number", paid)
    if body.terminated is not None:
        over = np.asarray(applied(body, "terminated", state))
        _expect(body, "terminated", over.shape == () and over.dtype == bool, "true or false", over)


def _expect(body: Body, which: str, right: bool, wanted: str, made: Any) -> None:
    if not right:
        what = f"{type(made).__name__} {made!r:.40}"
        if isinstance(made, np.ndarray):
            what = f"{made.dtype} of shape {list(made.shape)}"
        place = place_of(getattr(body, which))
        raise complaint(body.name, which, place, f"it makes {what}, not {wanted}")


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 4] + " ..."
