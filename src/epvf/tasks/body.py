"""What a MuJoCo body is: a model, and formulas that every engine takes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol, TypeAlias

import mujoco
import numpy as np
from jaxtyping import Bool, Float

from epvf.errors import UserError
from epvf.tasks.base import TaskSpec
from epvf.types import Array

ALARMS = slice(int(mujoco.mjtWarning.mjWARN_BADQPOS), int(mujoco.mjtWarning.mjWARN_BADCTRL) + 1)
"""MuJoCo's warnings of a simulation that is no longer sound."""


class State(NamedTuple):
    """What formulas read, of one environment after an env step.

    Attributes:
        qpos: `[nq]` positions (m, rad, quaternions).
        qvel: `[nv]` velocities (m/s, rad/s).
        ctrl: `[nu]` the controls of the step; zero at the start of an episode.
        previous_qpos: `[nq]` positions before the step; those of now at the start of an episode.
        time: seconds since the start of the episode, a scalar.
    """

    qpos: Any
    qvel: Any
    ctrl: Any
    previous_qpos: Any
    time: Any


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
    traced by JAX on `mjx` and `warp` (float32): no `if` on numbers but `where` or products, no
    Python loops over arrays but sums and slices. Constants are taken as they are when the
    formulas are first compiled.

    Attributes:
        name: of the task.
        model: of its physics; called once or more, so that it should be cached.
        frame_skip: physics' steps in an env step.
        episode_length: longest episode in env steps.
        observe: to the observation: an array, or a tuple of arrays and numbers in their order.
        reward: to the reward of the step that led there.
        terminated: to whether the episode is over there; None: never before its longest.
        starts: random numbers and N to positions `[N, nq]` and velocities `[N, nv]` where episodes
            start, as offsets from the model's own; None: every episode starts there.
        observation_limit: observations are clipped to ± this.
        quickest: the engine that `auto` means on a CPU, and on an NVIDIA GPU if it is `lanes`.
    """

    name: str
    model: Callable[[], mujoco.MjModel]
    frame_skip: int
    episode_length: int
    observe: Formula
    reward: Formula
    terminated: Formula | None = None
    starts: Callable[[Draws, int], tuple[Any, Any]] | None = None
    observation_limit: float = float("inf")
    quickest: str = "native"

    @cached_property
    def observation_size(self) -> int:
        """Length of an observation."""
        return len(transition(self, first_state(self.model())).observation)

    @cached_property
    def reads(self) -> frozenset[str]:
        """The fields of `State` that the formulas read."""
        seen: set[str] = set()
        watched: Any = _Watched(first_state(self.model()), seen)
        for formula in (self.observe, self.reward, self.terminated):
            if formula is not None:
                formula(watched)
        return frozenset(seen)

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
        )


class _Watched:
    """A state that writes down which of its fields are read."""

    def __init__(self, state: State, seen: set[str]) -> None:
        self._state, self._seen = state, seen

    def __getattr__(self, name: str) -> Any:
        if name not in State._fields:
            raise UserError(f"a formula reads s.{name}, but a state has {', '.join(State._fields)}")
        self._seen.add(name)
        return getattr(self._state, name)


def first_state(model: mujoco.MjModel) -> State:
    """The state of a model before anything moved, in numpy."""
    qpos = np.array(model.qpos0)
    return State(qpos, np.zeros(model.nv), np.zeros(model.nu), qpos, 0.0)


def transition(body: Body, state: State) -> Transition:
    """Observation, reward and termination of a state of numpy or JAX arrays.

    What the engines compute, and the reference for those that compile the formulas themselves.
    """
    xp: Any = state.qpos.__array_namespace__()
    parts = body.observe(state)
    raw = xp.concat([_row(xp, part, state.qpos.dtype) for part in in_parts(parts)], axis=-1)
    finite = xp.isfinite(raw)
    healthy = finite.all(axis=-1)
    observation = xp.where(finite, raw, 0.0)
    if np.isfinite(body.observation_limit):
        observation = xp.clip(observation, -body.observation_limit, body.observation_limit)
    reward = xp.where(healthy, body.reward(state), xp.nan)
    over = ~healthy if body.terminated is None else body.terminated(state) | ~healthy
    return Transition(observation, reward, over | ~xp.isfinite(reward))


def in_parts(observed: Any) -> tuple[Any, ...]:
    """What `observe` returns, as a tuple of its parts."""
    return observed if isinstance(observed, tuple) else (observed,)


def _row(xp: Any, part: Any, dtype: Any) -> Any:
    return xp.reshape(xp.asarray(part, dtype=dtype), (-1,))
