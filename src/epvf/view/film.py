"""Videos of policies: one or several side by side, and the noise around them."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
from jaxtyping import UInt8

from epvf.analysis.evaluation import GYMNASIUM
from epvf.config.schema import check_seed
from epvf.errors import UserError
from epvf.tasks import make
from epvf.tasks.base import check_policy
from epvf.tasks.body import Body
from epvf.tasks.registry import engines
from epvf.tasks.starts import commanded
from epvf.view import video
from epvf.view.cast import Actor, What, cast, swarm
from epvf.view.scene import Camera, Stage
from epvf.view.tiles import (
    BodyTile,
    GymnasiumTile,
    Played,
    Tile,
    open_gymnasium,
    side_by_side,
)

FPS = 25.0
"""Pictures a second where nobody asks for another number and the task has as many steps."""
LAST_SECONDS = 0.6
"""How long the end of an episode is shown."""
MOST_PERTURBED = 256
SIDES = range(64, 4097)


@dataclass(frozen=True)
class Settings:
    """What a video is like.

    Attributes:
        seconds: of the task's time, at most; None: one whole episode.
        width, height: of one policy's picture, in pixels.
        fps: pictures a second; None: 25, or one an env step where these are fewer.
        perturbed: policies in the swarm around each.
        seed: of where episodes start, and of the swarm.
        camera: where the robot is seen from.
        command: that episodes are asked for; empty: as they have it.
    """

    seconds: float | None = None
    width: int = 640
    height: int = 480
    fps: float | None = None
    perturbed: int = 0
    seed: int = 0
    camera: Camera = field(default_factory=Camera)
    command: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.seconds is not None and not 0.0 < self.seconds < float("inf"):
            raise UserError(f"seconds is {self.seconds}, but must be finite and greater than 0")
        if self.fps is not None and not 1.0 <= self.fps <= 240.0:
            raise UserError(f"fps is {self.fps:g}, but must be at least 1 and at most 240")
        for name, side in (("width", self.width), ("height", self.height)):
            if side not in SIDES or side % 2:
                least, most = SIDES[0], SIDES[-1]
                raise UserError(f"{name} is {side}, but must be even, {least} to {most}")
        if not 0 <= self.perturbed <= MOST_PERTURBED:
            raise UserError(f"perturbed is {self.perturbed}, but must be 0 to {MOST_PERTURBED}")
        check_seed(self.seed)


class Film:
    """Policies that are ready to play. Close it, or use it in a `with`."""

    def __init__(self, actors: list[Actor], settings: Settings) -> None:
        self._settings = settings
        self._steps: list[float] = []
        with ExitStack() as stack:
            self._open = stack
            self._tiles = [self._tile(actor) for actor in actors]
            self._open = stack.pop_all()  # what is open stays so unless something was raised
        self.fps = settings.fps or min(FPS, 1.0 / max(self._steps))

    def __enter__(self) -> "Film":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives back what it draws with."""
        self._open.close()

    @property
    def played(self) -> list[Played]:
        """What came of each policy so far."""
        return [tile.played for tile in self._tiles]

    def pictures(self) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """All pictures, drawn one after the other; to be had once."""
        seconds, number = self._settings.seconds, 0
        most = float("inf") if seconds is None else max(1, round(seconds * self.fps))
        while number < most:
            over = self._over
            whole = side_by_side([tile.picture(number / self.fps) for tile in self._tiles])
            yield whole
            number += 1
            if over:
                break
        for _ in range(round(min(LAST_SECONDS * self.fps, most - number))):
            yield whole

    @property
    def _over(self) -> bool:
        return all(tile.over for tile in self._tiles)

    def _tile(self, actor: Actor) -> Tile:
        name = actor.saved.task
        if "native" in engines(name):
            return self._body_tile(actor)
        if name not in GYMNASIUM:
            raise UserError(
                f"task {name!r} cannot be drawn: it is neither a body on MuJoCo nor one of "
                f"{', '.join(GYMNASIUM)}"
            )
        return self._gymnasium_tile(actor)

    def _body_tile(self, actor: Actor) -> Tile:
        saved, settings = actor.saved, self._settings
        task: Any = make(saved.task, backend="native", episode_length=_trained_length(actor))
        check_policy(task.spec, saved.policy)
        body: Body = task.body
        if settings.command:
            body = commanded(body, settings.command)
        around = swarm(actor, settings.perturbed, settings.seed) if settings.perturbed else None
        interval = body.step_seconds
        self._steps.append(interval)
        most = self._most_steps(task.spec.episode_length, interval)
        return BodyTile(actor, body, self._stage(body), around, settings.seed, most)

    def _stage(self, body: Body) -> Stage:
        settings = self._settings
        size = settings.width, settings.height
        stage = Stage(body.model(), *size, 1 + settings.perturbed, settings.camera)
        self._open.callback(stage.close)
        return stage

    def _gymnasium_tile(self, actor: Actor) -> Tile:
        saved, settings = actor.saved, self._settings
        if settings.command:
            raise UserError(f"task {saved.task!r} takes no command")
        if settings.perturbed:
            raise UserError(f"perturbed policies of {saved.task!r} cannot be drawn in one scene")
        spec = make(saved.task, episode_length=_trained_length(actor)).spec
        check_policy(spec, saved.policy)
        environment = open_gymnasium(GYMNASIUM[saved.task])
        self._open.callback(environment.close)
        interval = 1.0 / float(environment.metadata["render_fps"])
        self._steps.append(interval)
        most = self._most_steps(spec.episode_length, interval)
        size = settings.width, settings.height
        return GymnasiumTile(actor, environment, size, settings.seed, most)

    def _most_steps(self, episode_length: int, interval: float) -> int:
        """Those of a whole episode, or of as many seconds as asked for."""
        seconds = self._settings.seconds
        return episode_length if seconds is None else max(1, round(seconds / interval))


@overload
def render(
    what: What,
    out: None = None,
    *,
    which: str = ...,
    seconds: float | None = ...,
    width: int = ...,
    height: int = ...,
    fps: float | None = ...,
    perturbed: int = ...,
    seed: int = ...,
    camera: Camera | None = ...,
    command: tuple[float, ...] = ...,
) -> UInt8[np.ndarray, "T H W 3"]: ...


@overload
def render(
    what: What,
    out: str | Path,
    *,
    which: str = ...,
    seconds: float | None = ...,
    width: int = ...,
    height: int = ...,
    fps: float | None = ...,
    perturbed: int = ...,
    seed: int = ...,
    camera: Camera | None = ...,
    command: tuple[float, ...] = ...,
) -> Path: ...


def render(
    what: What,
    out: str | Path | None = None,
    *,
    which: str = "best",
    seconds: float | None = None,
    width: int = 640,
    height: int = 480,
    fps: float | None = None,
    perturbed: int = 0,
    seed: int = 0,
    camera: Camera | None = None,
    command: tuple[float, ...] = (),
) -> Path | UInt8[np.ndarray, "T H W 3"]:
    """Draws policies that play an episode: a video, or its pictures.

    Bodies on MuJoCo play on its C engine and are drawn by its renderer, which needs EGL, OSMesa or
    a display; CartPole by Gymnasium's, which needs pygame. A MuJoCo episode starts as `seed` says
    where that is random. Robots leave a trail of their torso.

    Example:
        >>> import epvf, tempfile
        >>> config = epvf.preset("cartpole", "debug").replace({"iterations": 1})
        >>> run = epvf.train(config, out=f"{tempfile.mkdtemp()}/run").run
        >>> epvf.render(run, seconds=0.12, width=160, height=120).shape
        (3, 120, 160, 3)

    Args:
        what: the folder of a run, a policy file, a policy as `load_policy` returns it, several of
            these, or a mapping from names to them: side by side, from four on in rows.
        out: the video, `.mp4` or `.gif` (at most 300 kB a second); None: return the pictures.
        which: of a run's policies, `best` or `last`.
        seconds: of the task's time, at most; None: one whole episode.
        width: of one policy's picture in pixels, an even number.
        height: of it, likewise.
        fps: pictures a second; None: 25, or one an env step where these are fewer.
        perturbed: perturbations of each policy that play in the same scene, transparent; with the
            noise of its run, where that is known.
        seed: of where episodes start, and of the perturbations.
        camera: where the robot is seen from; it follows the torso.
        command: that episodes are asked for, of tasks that have one; empty: as they have it.

    Returns:
        Path of the video; or, without `out`, pictures `[T, H, W, 3]`, uint8.

    Raises:
        UserError: if a policy cannot be read, does not fit its task or cannot be drawn, nothing
            here can draw, ffmpeg is missing, or a number is out of range.
        RunFailed: if the video cannot be written.
    """
    settings = Settings(seconds, width, height, fps, perturbed, seed, camera or Camera(), command)
    path = None if out is None else Path(out)
    if path is not None:
        video.check_out(path)
    with Film(cast(what, which), settings) as film:
        if path is None:
            return np.stack(list(film.pictures()))
        video.write_video(path, film.pictures(), film.fps)
    return path


def _trained_length(actor: Actor) -> int | None:
    """Longest episode as in training, where the file tells."""
    text = actor.saved.metadata.get("episode_length", "")
    return int(text) if text.isdigit() else None
