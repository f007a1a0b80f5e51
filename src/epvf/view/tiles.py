"""One policy's part of the picture: it plays, is drawn, and says how it does."""

import os
import warnings
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import gymnasium
import numpy as np
from jaxtyping import UInt8

from epvf.errors import UserError
from epvf.files import one_line
from epvf.tasks.body import Body
from epvf.view import captions
from epvf.view.cast import Actor, Swarm
from epvf.view.rollouts import BodyRollout, GymnasiumRollout, Rollout, play_until, start_of
from epvf.view.scene import Pose, Stage

SPEED_SECONDS = 0.5
"""Speed is the way of so long."""
TRAIL_STEP = 0.03
"""m between points of a trail."""
OPACITY = 0.4
"""Of a single ghost; many of them share about four times as much."""
FALLEN = 0.4
"""What is left of a ghost's opacity when its episode is over."""


class Played(NamedTuple):
    """What came of a policy.

    Attributes:
        name: as written in the picture.
        task: that it played.
        episode_return: undiscounted, of what was seen; NaN where anything was not finite.
        length: env steps.
        seconds: of the task's time.
        over: whether the episode ended in what was seen.
        noise: what the perturbed policies around it are drawn with; empty where there are none.
        perturbed_returns: `[N]` theirs.
    """

    name: str
    task: str
    episode_return: float
    length: int
    seconds: float
    over: bool
    noise: str = ""
    perturbed_returns: tuple[float, ...] = ()


class Tile(Protocol):
    """A policy that plays."""

    @property
    def over(self) -> bool:
        """Whether nothing will move any more."""
        ...

    @property
    def played(self) -> Played:
        """What came of it so far."""
        ...

    def picture(self, seconds: float) -> UInt8[np.ndarray, "h w 3"]:
        """What is to be seen after so long; never earlier than before."""
        ...


class BodyTile:
    """A policy in a body on MuJoCo, perhaps with a swarm of perturbed ones in the same scene."""

    def __init__(
        self, actor: Actor, body: Body, stage: Stage, swarm: Swarm | None, seed: int, most: int
    ) -> None:
        start = start_of(body, seed)
        thetas = [actor.saved.theta, *(() if swarm is None else swarm.thetas)]
        self._rollouts = [BodyRollout(body, actor.saved.policy, t, start, most) for t in thetas]
        self._actor, self._stage, self._swarm = actor, stage, swarm
        self._time = 0.0
        self._trail: list[np.ndarray] = []
        self._recent: deque[tuple[float, np.ndarray]] = deque()

    @property
    def over(self) -> bool:
        return all(rollout.over for rollout in self._rollouts)

    @property
    def played(self) -> Played:
        first, *others = self._rollouts
        noise = "" if self._swarm is None else self._swarm.noise
        returns = tuple(rollout.total for rollout in others)
        return _played(self._actor, first)._replace(noise=noise, perturbed_returns=returns)

    def picture(self, seconds: float) -> UInt8[np.ndarray, "h w 3"]:
        for rollout in self._rollouts:
            play_until(rollout, seconds)
        first, *others = self._rollouts
        torso = self._stage.torso(first.data.qpos)
        if not first.over or not self._recent:
            self._remember(seconds, torso)
        self._stage.follow(torso, seconds - self._time)
        self._time = seconds
        opacity = OPACITY * min(1.0, 4.0 / max(1, len(others)))
        poses = [Pose(first.data.qpos)]
        for other in others:
            poses.append(Pose(other.data.qpos, opacity * (FALLEN if other.over else 1.0)))
        picture = self._stage.draw(poses, [*self._trail, torso])
        return captions.write(picture, [self._actor.name], self._told())

    def _remember(self, seconds: float, torso: np.ndarray) -> None:
        if not self._trail or np.linalg.norm(torso - self._trail[-1]) >= TRAIL_STEP:
            self._trail.append(torso)
        self._recent.append((seconds, torso))
        while self._recent[-1][0] - self._recent[0][0] > SPEED_SECONDS + 1e-9:
            self._recent.popleft()

    @property
    def _speed(self) -> float:
        """Over ground (m/s)."""
        (begin, there), (end, here) = self._recent[0], self._recent[-1]
        return float(np.linalg.norm((here - there)[:2]) / (end - begin)) if end > begin else 0.0

    def _told(self) -> list[str]:
        first, *others = self._rollouts
        lines = [_line(first, "" if first.over else f"   speed {self._speed:.1f} m/s")]
        if others:
            returns = np.array([rollout.total for rollout in others])
            known = returns[np.isfinite(returns)]
            spread = f"{known.mean():.1f} ± {known.std():.1f}" if len(known) else "not finite"
            lines.append(f"{len(others)} perturbed: return {spread}")
        return lines


class GymnasiumTile:
    """A policy in one of Gymnasium's own environments, drawn by it."""

    def __init__(
        self, actor: Actor, environment: Any, size: tuple[int, int], seed: int, most: int
    ) -> None:
        saved = actor.saved
        self._rollout = GymnasiumRollout(environment, saved.policy, saved.theta, seed, most)
        self._actor, self._size = actor, size

    @property
    def over(self) -> bool:
        return self._rollout.over

    @property
    def played(self) -> Played:
        return _played(self._actor, self._rollout)

    def picture(self, seconds: float) -> UInt8[np.ndarray, "h w 3"]:
        play_until(self._rollout, seconds)
        drawn = captions.fitted(np.asarray(self._rollout.environment.render()), *self._size)
        return captions.write(drawn, [self._actor.name], [_line(self._rollout)])


def open_gymnasium(name: str) -> gymnasium.Env[Any, Any]:
    """An environment that draws itself.

    Raises:
        UserError: if it lacks what it draws with.
    """
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # no window is opened
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what pygame imports
            import pygame  # noqa: F401
        return gymnasium.make(name, render_mode="rgb_array")
    except (ImportError, gymnasium.error.Error) as error:
        reason = one_line(error).rstrip(".")
        raise UserError(f"cannot draw Gymnasium's {name}: {reason}; pip install pygame") from None


def side_by_side(
    pictures: Sequence[UInt8[np.ndarray, "h w 3"]],
) -> UInt8[np.ndarray, "H W 3"]:
    """Pictures of one size in a row, from four on in rows of about as many."""
    height, width = pictures[0].shape[:2]
    columns = columns_of(len(pictures))
    rows = -(-len(pictures) // columns)
    whole = np.zeros((rows * height, columns * width, 3), np.uint8)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        place = whole[row * height : (row + 1) * height, column * width : (column + 1) * width]
        place[:] = picture
        if column:
            place[:, :2] = 0  # a line between them
    return whole


def columns_of(num: int) -> int:
    """How many pictures stand side by side."""
    return num if num <= 3 else int(np.ceil(np.sqrt(num)))


def _line(rollout: Rollout, more: str = "") -> str:
    seconds = rollout.steps * rollout.interval
    end = "   over" if rollout.over else ""
    return f"return {rollout.total:.1f}   {seconds:.1f} s{more}{end}"


def _played(actor: Actor, rollout: Rollout) -> Played:
    seconds = rollout.steps * rollout.interval
    task = actor.saved.task
    return Played(actor.name, task, rollout.total, rollout.steps, seconds, rollout.over)
