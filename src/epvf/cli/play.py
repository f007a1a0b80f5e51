"""`epvf play`: a video of policies."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from epvf.cli import arguments
from epvf.cli.arguments import Shown
from epvf.cli.results import print_result
from epvf.errors import UserError
from epvf.files import check_new, one_line
from epvf.runtime import startup


@dataclass(frozen=True)
class Options:
    """Make a video of one policy, or of several side by side.

    Robots are drawn by MuJoCo (with EGL, OSMesa or a display) and leave a trail of their torso,
    CartPole is drawn by Gymnasium.

    Attributes:
        what: folders of runs, or policy files.
        out: video to write, .mp4 or .gif.
        seconds: of the task's time, at most.
        perturbed: perturbations of each policy that play in the same scene, with its run's noise.
        width: of one policy's picture in pixels.
        height: of it.
        fps: pictures a second.
        policy: which of a run's policies.
        seed: of where episodes start, and of the perturbations.
        command: that episodes are asked for, of tasks that have one: 1 0 0 for go2.
        replace: replace the file if it is there already; the one in a run always is.
        json: print the result as JSON.
    """

    what: Annotated[
        tuple[Path, ...],
        Shown(
            "RUN|POLICY_FILE ...",
            positional=True,
            missing="which policies? epvf play RUN|POLICY_FILE ...",
        ),
    ]
    out: Annotated[
        Path | None,
        Shown("FILE", default="videos/<policy>.mp4 in the run, or beside the policy file"),
    ] = None
    seconds: Annotated[float | None, Shown("S", default="one whole episode")] = None
    perturbed: Annotated[int, Shown("N")] = 0
    width: int = 640
    height: int = 480
    fps: Annotated[float | None, Shown("F", default="25, or one an env step")] = None
    policy: Literal["best", "last"] = "best"
    seed: int = 0
    command: Annotated[tuple[float, ...], Shown("X ...", default="as episodes have it")] = ()
    replace: bool = False
    json: bool = False


def run(argv: list[str]) -> int:
    """Makes the video and prints where it is; returns the exit code."""
    asked = arguments.read(Options, "epvf play", argv)
    startup.use_compilation_cache()
    from epvf.view.cast import cast
    from epvf.view.film import Film, Settings
    from epvf.view.video import check_out, write_video

    settings = Settings(
        *(asked.seconds, asked.width, asked.height, asked.fps, asked.perturbed, asked.seed),
        command=asked.command,
    )
    actors = cast(asked.what, asked.policy)
    out = asked.out or _default_out(asked.what[0], asked.policy)
    in_run = asked.out is None and asked.what[0].is_dir()
    # a run gets its folder of videos only when there will be one
    check_out(asked.what[0] / out.name if in_run else out)
    check_new(out, asked.replace or in_run)
    with Film(actors, settings) as film:
        if in_run:
            _make_folder(out.parent)
        write_video(out, film.pictures(), film.fps)
        played = [policy._asdict() for policy in film.played]
    result = {"video": str(out), "fps": film.fps, "policies": played}
    print_result(result, _told(result), asked.json)
    return 0


def _default_out(first: Path, policy: str) -> Path:
    """Of several policies the video lies with the first."""
    return first / "videos" / f"{policy}.mp4" if first.is_dir() else first.with_suffix(".mp4")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make folder {folder}: {one_line(error)}; give --out") from error


def _told(result: dict[str, Any]) -> str:
    lines = []
    for one in result["policies"]:
        end = "over" if one["over"] else "goes on"
        lines.append(
            f"{one['name']}: return {one['episode_return']:.2f} in {one['length']} steps of "
            f"{one['task']}, {one['seconds']:.2f} s, {end}"
        )
        returns = one["perturbed_returns"]
        if returns:
            mean = sum(returns) / len(returns)
            lines.append(f"  {len(returns)} perturbed ({one['noise']}): mean return {mean:.2f}")
    return "\n".join([*lines, f"video: {result['video']}"])
