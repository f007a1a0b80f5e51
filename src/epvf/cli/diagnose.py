"""`epvf diagnose`: what a run's value function knows."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from epvf.cli import arguments
from epvf.cli.arguments import Shown
from epvf.cli.results import print_result
from epvf.runtime import startup


@dataclass(frozen=True)
class Options:
    """Measure what a run's value function knows at its newest checkpoint.

    Cosines of ∇V, of the matched evolution-strategies direction and of the ridge direction with a
    large-sample gradient; what steps along each of them gain; V's rank correlation with the
    returns of fresh populations.

    Attributes:
        run: folder of the run.
        population: policies behind each estimate.
        reference: antithetic populations behind the reference gradient.
        steps: lengths of the steps; 1 is as long as a typical perturbation.
        distances: of the fresh populations, as multiples of the run's noise.
        ridge: penalty of the ridge direction.
        seed: of perturbations and rollouts.
        out: folder for diagnosis.json and diagnosis.png.
        json: print the result as JSON.
    """

    run: Annotated[Path, Shown("RUN", positional=True)]
    population: Annotated[int | None, Shown(default="as many as the run has environments")] = None
    reference: int = 16
    steps: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0)
    distances: tuple[float, ...] = (0.3, 1.0, 2.0)
    ridge: float = 1.0
    seed: int = 0
    out: Annotated[Path | None, Shown("DIR", default="RUN/diagnosis")] = None
    json: bool = False


def run(argv: list[str]) -> int:
    """Measures, draws and prints; returns the exit code."""
    asked = arguments.read(Options, "epvf diagnose", argv)
    startup.use_compilation_cache()
    from epvf.analysis import diagnosis

    result = diagnosis.diagnose(
        asked.run,
        lambda message: print(message, file=sys.stderr, flush=True),
        population=asked.population,
        reference=asked.reference,
        steps=asked.steps,
        distances=asked.distances,
        ridge=asked.ridge,
        seed=asked.seed,
    )
    folder = asked.out or asked.run / "diagnosis"
    diagnosis.write(folder, result)
    print_result(result, f"{diagnosis.table(result)}\n\ndiagnosis: {folder}", asked.json)
    return 0
