"""What a MuJoCo body is: a model, and formulas that every engine takes."""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import mujoco
import numpy as np
from jaxtyping import Bool, Float

from epvf.errors import UserError
from epvf.runtime import mujoco_log
from epvf.tasks.base import TaskSpec
from epvf.tasks.calls import applied
from epvf.types import Array

mujoco_log.divert()

_PACKAGE = __name__.partition(".")[0]

ALARMS = slice(int(mujoco.mjtWarning.mjWARN_BADQPOS), int(mujoco.mjtWarning.mjWARN_BADCTRL) + 1)
"""MuJoCo's warnings of a simulation that is no longer sound."""


class State(NamedTuple):
    """What formulas read, of one environment after an env step.

    From `sensordata` on it is what MuJoCo computed on the way: after its steps, that belongs to the
    positions one physics step before `qpos`; at the start of an episode, to those of then. An
    engine computes and carries only what the formulas read.

    Attributes:
        qpos: `[nq]` positions (m, rad, quaternions).
        qvel: `[nv]` velocities (m/s, rad/s).
        ctrl: `[nu]` the controls of the step, in the actuators' units; those of an action of zero
            at the start of an episode.
        previous_qpos: `[nq]` positions before the step; those of now at the start of an episode.
        time: seconds since the start of the episode, a scalar.
        command: `[c]` what this episode is asked for: the third part of the body's `starts`.
        sensordata: `[nsensordata]` all sensors of the model, in its order.
        xpos, xquat: `[nbody, 3]`, `[nbody, 4]` of the bodies' frames (m; quaternions); row 0 is the
            world.
        site_xpos: `[nsite, 3]` (m).
        cvel: `[nbody, 6]` velocities around the centre of mass: angular (rad/s), linear (m/s).
        cinert: `[nbody, 10]` inertias around the centre of mass, and masses.
        subtree_com: `[nbody, 3]` centres of mass of a body with all that hangs on it (m).
        qfrc_actuator, qfrc_constraint: `[nv]` forces of actuators and of constraints (N, N m).
        cfrc_ext: `[nbody, 6]` contact forces: torque, force; zero at the start of an episode.
        previous_xpos, previous_subtree_com: what these were an env step ago.
    """

    qpos: Any
    qvel: Any
    ctrl: Any
    previous_qpos: Any
    time: Any
    command: Any = None
    sensordata: Any = None
    xpos: Any = None
    xquat: Any = None
    site_xpos: Any = None
    cvel: Any = None
    cinert: Any = None
    subtree_com: Any = None
    qfrc_actuator: Any = None
    qfrc_constraint: Any = None
    cfrc_ext: Any = None
    previous_xpos: Any = None
    previous_subtree_com: Any = None


DERIVED = State._fields[State._fields.index("sensordata") : State._fields.index("previous_xpos")]
"""Fields that MuJoCo computes of positions, velocities and controls."""

REMEMBERED = {"previous_xpos": "xpos", "previous_subtree_com": "subtree_com"}
"""Fields of an env step ago, and what they were then."""


class Transition(NamedTuple):
    """What formulas make of a state.

    Attributes:
        observation: `[..., observation]`; entries that are not finite are 0, the others clipped to
            the body's limit.
        reward: `[...]` of the step; NaN where anything observed is not finite.
        terminated: `[...]` whether the episode is over; true where the observation or the reward is
            not finite.
    """

    observation: Float[Array, "*batch observation"]
    reward: Float[Array, "*batch"]
    terminated: Bool[Array, "*batch"]


class Actions(NamedTuple):
    """How actions in [-1, 1] become controls: `offset + scale * action`.

    Attributes:
        offset, scale: `[nu]` float64.
    """

    offset: np.ndarray
    scale: np.ndarray

    @property
    def plain(self) -> bool:
        """Whether controls are actions as they are."""
        return bool((self.offset == 0.0).all() and (self.scale == 1.0).all())

    def __call__(self, action: Any) -> Any:
        """Controls `[..., nu]` of actions `[..., nu]` of numpy or JAX."""
        if self.plain:
            return action
        dtype = action.dtype
        return self.offset.astype(dtype) + self.scale.astype(dtype) * action


class Draws(Protocol):
    """Random numbers: a generator of numpy's, or on engines in JAX one that draws from a key."""

    def uniform(self, low: float, high: float, size: tuple[int, ...]) -> Any: ...

    def standard_normal(self, size: tuple[int, ...]) -> Any: ...


Formula: TypeAlias = Callable[[Any], Any]
"""A function of one `State`, in plain operators, methods of arrays, and `epvf.tasks.formulas`."""


@dataclass(frozen=True)
class Body:
    """A task on MuJoCo. Its formulas are written once and run on every engine.

    They are functions of a `State` of one environment, compiled by numba on `native` (float64) and
    traced by JAX on `mjx`, `lanes` and `warp` (float32): no `if` on numbers but `where` or
    products, `&` and `|` rather than `and` and `or`, no Python loops over arrays but sums and
    slices. Functions of `numpy` and `math` are JAX's where JAX traces them. Constants are taken as
    they are when the formulas are first compiled.

    Attributes:
        name: of the task.
        model: of its physics; called once or more, so that it should be cached.
        frame_skip: physics' steps in an env step.
        episode_length: longest episode in env steps.
        observe: to the observation: an array, or a tuple of arrays and numbers in their order.
        reward: to the reward of the step that led there.
        terminated: to whether the episode is over there; None: never before its longest.
        starts: random numbers and N to positions `[N, nq]` and velocities `[N, nv]` where episodes
            start, as offsets from the model's own, and, where formulas read `s.command`, commands
            `[N, c]`; None: every episode starts there.
        observation_limit: observations are clipped to ± this.
        quickest: the engine that `auto` means on a CPU.
        quickest_on_gpu: the one that it means on an NVIDIA GPU.
        action_offset, action_scale: `[nu]` of how an action in [-1, 1] becomes a control; None:
            over the actuators' whole range, or as it is where an actuator has none.
        towards: names of objectives to the body that is asked for one of them in each episode;
            None: it has no objectives.
    """

    name: str
    model: Callable[[], mujoco.MjModel]
    frame_skip: int
    episode_length: int
    observe: Formula
    reward: Formula
    terminated: Formula | None = None
    starts: Callable[[Draws, int], tuple[Any, ...]] | None = None
    observation_limit: float = float("inf")
    quickest: str = "native"
    quickest_on_gpu: str = "mjx"
    action_offset: tuple[float, ...] | None = None
    action_scale: tuple[float, ...] | None = None
    towards: Callable[[tuple[str, ...]], "Body"] | None = None

    @cached_property
    def observation_size(self) -> int:
        """Length of an observation."""
        return len(transition(self, first_state(self)).observation)

    @cached_property
    def command_size(self) -> int:
        """Length of a command; 0 where episodes have none."""
        if self.starts is None:
            return 0
        parts = self.starts(np.random.default_rng(0), 1)
        return int(parts[2].shape[1]) if len(parts) > 2 else 0

    @property
    def foreign(self) -> tuple[str, ...]:
        """The formulas that are not of this package, so that nobody has tried them on engines."""
        return tuple(
            which
            for which in FORMULAS
            if (formula := getattr(self, which)) is not None
            and (getattr(formula, "__module__", None) or "").partition(".")[0] != _PACKAGE
        )

    @cached_property
    def reads(self) -> frozenset[str]:
        """The fields of `State` that the formulas read."""
        seen: set[str] = set()
        watched: Any = _Watched(first_state(self), seen)
        for which in FORMULAS:
            if getattr(self, which) is not None:
                applied(self, which, watched)
        return frozenset(seen)

    @cached_property
    def derived(self) -> tuple[str, ...]:
        """What of `DERIVED` the formulas read, now or from the step before."""
        read = self.reads | {source for name, source in REMEMBERED.items() if name in self.reads}
        return tuple(name for name in DERIVED if name in read)

    @cached_property
    def remembered(self) -> tuple[str, ...]:
        """What of `REMEMBERED` the formulas read."""
        return tuple(name for name in REMEMBERED if name in self.reads)

    @cached_property
    def actions(self) -> Actions:
        """How actions become controls."""
        model = self.model()
        limited = model.actuator_ctrllimited.astype(bool)
        low, high = model.actuator_ctrlrange.T
        offset = np.where(limited, (low + high) / 2.0, 0.0)
        scale = np.where(limited, (high - low) / 2.0, 1.0)
        return Actions(
            offset if self.action_offset is None else np.array(self.action_offset, float),
            scale if self.action_scale is None else np.array(self.action_scale, float),
        )

    @property
    def step_seconds(self) -> float:
        """Seconds of an env step."""
        return float(self.model().opt.timestep) * self.frame_skip

    def spec(self, backend: str, episode_length: int | None, traceable: bool) -> TaskSpec:
        """The task's sizes on an engine."""
        return TaskSpec(
            name=self.name,
            backend=backend,
            observation_size=self.observation_size,
            action_size=int(self.model().nu),
            discrete=False,
            episode_length=self.episode_length if episode_length is None else episode_length,
            deterministic_reset=self.starts is None,
            traceable=traceable,
            terminates=self.terminated is not None,
            draws=traceable,
            step_seconds=self.step_seconds,
        )


FORMULAS = ("observe", "reward", "terminated")
"""The fields of a body that are formulas of a state."""


class _Watched:
    """A state that writes down which of its fields are read."""

    def __init__(self, state: State, seen: set[str]) -> None:
        self._state, self._seen = state, seen

    def __getattr__(self, name: str) -> Any:
        if name not in State._fields:
            guess = get_close_matches(name, State._fields, n=1)
            hint = f" (did you mean s.{guess[0]}?)" if guess else ""
            raise UserError(
                f"a formula reads s.{name}, which a state does not have{hint}; what it has is "
                "listed by help(epvf.MujocoTask)"
            )
        self._seen.add(name)
        value = getattr(self._state, name)
        if value is None:
            raise UserError("a formula reads s.command, but `starts` returns no commands [N, c]")
        return value


def first_state(body: Body) -> State:
    """The state of a body before anything moved, in numpy; its command is zero."""
    data = mujoco.MjData(body.model())
    data.ctrl[:] = body.actions.offset
    mujoco.mj_forward(body.model(), data)
    command = np.zeros(body.command_size) if body.command_size else None
    return state_of(data, DERIVED, None, command)


def state_of(
    data: mujoco.MjData, derived: tuple[str, ...], before: State | None, command: Any = None
) -> State:
    """What formulas read of MuJoCo's data, in copies.

    Args:
        data: after the steps of an env step, or at the start of an episode.
        derived: the fields of `DERIVED` that are asked for.
        before: the state before these steps; None at the start.
        command: of the episode.
    """
    now: dict[str, Any] = {name: np.array(getattr(data, name)) for name in derived}
    qpos = np.array(data.qpos)
    earlier = {
        name: now[source] if before is None else getattr(before, source)
        for name, source in REMEMBERED.items()
        if source in now
    }
    previous = qpos if before is None else before.qpos
    qvel, ctrl = np.array(data.qvel), np.array(data.ctrl)
    return State(qpos, qvel, ctrl, previous, data.time, command, **now, **earlier)


def transition(body: Body, state: State) -> Transition:
    """Observation, reward and termination of a state of numpy or JAX arrays.

    What the engines compute, and the reference for those that compile the formulas themselves.
    """
    xp: Any = state.qpos.__array_namespace__()
    traced = isinstance(state.qpos, jax.Array)
    parts = applied(body, "observe", state, traced)
    raw = xp.concat([_row(xp, part, state.qpos.dtype) for part in in_parts(parts)], axis=-1)
    finite = xp.isfinite(raw)
    healthy = finite.all(axis=-1)
    observation = xp.where(finite, raw, 0.0)
    if np.isfinite(body.observation_limit):
        observation = xp.clip(observation, -body.observation_limit, body.observation_limit)
    reward = xp.where(healthy, applied(body, "reward", state, traced), xp.nan)
    over = ~healthy
    if body.terminated is not None:
        over = applied(body, "terminated", state, traced) | ~healthy
    return Transition(observation, reward, over | ~xp.isfinite(reward))


def in_parts(observed: Any) -> tuple[Any, ...]:
    """What `observe` returns, as a tuple of its parts."""
    return observed if isinstance(observed, tuple) else (observed,)


def _row(xp: Any, part: Any, dtype: Any) -> Any:
    return xp.reshape(xp.asarray(part, dtype=dtype), (-1,))
