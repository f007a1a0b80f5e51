"""`epvf landscape`: V around θ, with the true returns."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from epvf.cli import arguments
from epvf.cli.arguments import Shown
from epvf.cli.results import print_result
from epvf.runtime import startup


@dataclass(frozen=True)
class Options:
    """Draw V over a plane through a run's θ at its newest checkpoint, with true returns.

    Contours are what V predicts, dots of the same colours true returns; where the two part by more
    than their noise the plane is hatched. The line is where θ has been.

    Attributes:
        run: folder of the run.
        along: what spans the plane: where θ has been, ∇V and a random direction, or two random
            ones.
        points: true returns on each side of the plane, an odd number.
        detail: V is drawn at so many times as many points a side.
        episodes: behind each true return.
        reach: how far the plane goes from θ, in lengths of a typical perturbation.
        seed_of_run: which of a run's several seeds.
        seed: of directions and rollouts.
        out: folder for landscape.json and landscape.png.
        json: print the result as JSON.
    """

    run: Annotated[Path, Shown("RUN", positional=True)]
    along: Annotated[
        Literal["trail", "gradient", "random"] | None,
        Shown(default="trail where the run has noted one, otherwise gradient"),
    ] = None
    points: int = 9
    detail: int = 3
    episodes: int = 8
    reach: Annotated[float | None, Shown(default="as far as θ's way, 2 to 30")] = None
    seed_of_run: Annotated[int | None, Shown("SEED", default="the first")] = None
    seed: int = 0
    out: Annotated[Path | None, Shown("DIR", default="RUN/landscape")] = None
    json: bool = False


def run(argv: list[str]) -> int:
    """Measures, draws and prints; returns the exit code."""
    asked = arguments.read(Options, "epvf landscape", argv)
    startup.use_compilation_cache()
    from epvf.analysis import landscape

    result = landscape.landscape(
        asked.run,
        lambda message: print(message, file=sys.stderr, flush=True),
        asked.seed_of_run,
        along=asked.along,
        points=asked.points,
        detail=asked.detail,
        episodes=asked.episodes,
        reach=asked.reach,
        seed=asked.seed,
    )
    folder = asked.out or asked.run / "landscape"
    landscape.write(folder, result)
    text = f"{landscape.table(result)}\nlandscape: {folder / 'landscape.png'}"
    print_result(result, text, asked.json)
    return 0
