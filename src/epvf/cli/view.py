"""`epvf view`: policies in a browser."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from epvf.cli import arguments
from epvf.cli.arguments import Shown
from epvf.cli.results import print_result
from epvf.errors import UserError
from epvf.runtime import startup


@dataclass(frozen=True)
class Options:
    """Show a policy and the noise around it in a browser, also of a run that is training.

    Perturbed policies are coloured by what V predicts of them or by their true returns; a slider
    moves θ along ∇V, and any policy of the run's past can be chosen. Ctrl-C ends it.

    Attributes:
        what: folder of a run, or a policy file.
        perturbed: policies around θ, with its run's noise.
        host: interface to listen at. With any other than the loopback one the page needs a token,
            which is part of the address that is printed.
        port: to listen at.
        seconds: after which it ends.
        seed: of where episodes start, and of the perturbations.
        command: that episodes are asked for, of tasks that have one: 1 0 0 for go2.
        json: print the address as JSON.
    """

    what: Annotated[
        Path,
        Shown("RUN|POLICY_FILE", positional=True, missing="which policy? epvf view RUN|POLICY"),
    ]
    perturbed: Annotated[int, Shown("N")] = 16
    host: Annotated[str, Shown("ADDRESS")] = "127.0.0.1"
    port: int = 8080
    seconds: Annotated[float | None, Shown("S", default="until Ctrl-C")] = None
    seed: int = 0
    command: Annotated[tuple[float, ...], Shown("X ...", default="as episodes have it")] = ()
    json: bool = False


def run(argv: list[str]) -> int:
    """Serves the page; returns the exit code."""
    asked = arguments.read(Options, "epvf view", argv)
    if asked.seconds is not None and not 0.0 < asked.seconds < float("inf"):
        raise UserError(f"seconds is {asked.seconds:g}, but must be finite and greater than 0")
    startup.use_compilation_cache()
    from epvf.view.browser import Page, Settings
    from epvf.view.choices import choices

    settings = Settings(asked.perturbed, asked.host, asked.port, asked.seed, asked.command)
    with Page(choices(asked.what), settings) as page:
        print_result({"address": page.address}, f"look at {page.address}", asked.json)
        page.play(asked.seconds)
    return 0
