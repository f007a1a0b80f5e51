"""`epvf compare`: several methods on one task, on one page."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from epvf.cli import arguments
from epvf.cli.arguments import Shown
from epvf.cli.results import print_result
from epvf.errors import UserError


@dataclass(frozen=True)
class Options:
    """Train several methods on a task and compare them; the same command again goes on.

    Every method gets the same env steps, seeds and population, and its own hyperparameters.

    Attributes:
        task: name of the task; see epvf tasks.
        methods: that are compared; see epvf methods.
        seeds: of each method.
        env_steps: at which every run ends, e.g. 5e6.
        out: folder to make.
        preset: what every method starts from.
        backend: the engine.
        jobs: runs at a time, each in a process of its own on its part of the cores.
        report: write report.html, a page with everything in it, besides report.md.
        json: print the result as JSON.
    """

    task: Annotated[str, Shown("TASK", positional=True)]
    methods: Annotated[tuple[str, ...], Shown("[NAME ...]")] = ()
    seeds: int = 3
    env_steps: Annotated[int | None, Shown("INT", default="required")] = None
    out: Annotated[Path | None, Shown("DIR", default="comparisons/TASK")] = None
    preset: Annotated[str, Shown("NAME")] = "tuned"
    backend: Annotated[str, Shown("NAME")] = "auto"
    jobs: int = 1
    report: bool = True
    json: bool = False


def run(argv: list[str]) -> int:
    """Trains and compares methods; returns the exit code."""
    asked = arguments.read(Options, "epvf compare", argv)
    if asked.env_steps is None:
        raise UserError("how many env steps? epvf compare TASK --env-steps 5e6")
    from epvf.cli import plans
    from epvf.experiments import compare, compare_report, runner
    from epvf.experiments.launch import local

    parts = local.shares(asked.jobs)
    delta = {} if asked.backend == "auto" else {"task.backend": asked.backend}
    plan = compare.planned(
        asked.task, asked.methods, asked.seeds, asked.env_steps, asked.preset, delta
    )
    folder = asked.out or Path("comparisons") / asked.task
    runner.open_folder(folder, plan)
    command = ["epvf", "compare", *argv]
    if code := plans.complete(folder, plan, parts, command):
        text = f"interrupted; the same command goes on with {folder}"
        print_result({"comparison": str(folder), "status": "interrupted"}, text, asked.json)
        return code
    result = compare_report.write(folder, plan, shlex.join(command))
    if asked.report:
        compare_report.write_page(folder, plan)
    text = f"{compare_report.table(result)}\ncomparison: {folder / 'report.md'}"
    print_result(result | {"comparison": str(folder), "status": "finished"}, text, asked.json)
    return 0
