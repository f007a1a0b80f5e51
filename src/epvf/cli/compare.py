"""`epvf compare`: several methods or settings on one task, on one page."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from epvf.cli import arguments
from epvf.cli.arguments import Shown
from epvf.cli.results import print_result
from epvf.errors import UserError

if TYPE_CHECKING:
    from epvf.config.schema import Config


@dataclass(frozen=True)
class Options:
    """Train several methods or settings of a task; the same command again goes on.

    Each gets the same env steps and seeds; a method has its own hyperparameters of the preset.

    Attributes:
        task: name of the task; see epvf tasks.
        methods: that are compared; see epvf methods.
        arm: settings that are compared, in options of epvf train: quiet='--psvf.noise 0.3'.
        seeds: of each method.
        env_steps: at which every run ends, e.g. 5e6.
        out: folder to make.
        preset: what every method starts from.
        backend: the engine.
        jobs: runs at a time; on this machine each in a process of its own on its part of the cores.
        launcher: local, ray or slurm, which need a folder that all machines share.
        resources: of each job under slurm or ray: timeout_min=240 cpus_per_task=8.
        report: write report.html, a page with everything in it, besides report.md.
        json: print the result as JSON.
    """

    task: Annotated[str, Shown("TASK", positional=True)]
    methods: Annotated[tuple[str, ...], Shown("[NAME ...]")] = ()
    arm: Annotated[tuple[str, ...], Shown("NAME='OPTIONS'")] = ()
    seeds: int = 3
    env_steps: Annotated[int | None, Shown("INT", default="required")] = None
    out: Annotated[Path | None, Shown("DIR", default="comparisons/TASK")] = None
    preset: Annotated[str, Shown("NAME")] = "tuned"
    backend: Annotated[str, Shown("NAME")] = "auto"
    jobs: Annotated[int | None, Shown("INT", default="all; on this machine 1")] = None
    launcher: Annotated[str, Shown("{local,ray,slurm}")] = "local"
    resources: Annotated[tuple[str, ...], Shown("[NAME=VALUE ...]")] = ()
    report: bool = True
    json: bool = False


def run(argv: list[str]) -> int:
    """Trains and compares methods; returns the exit code."""
    asked = arguments.read(Options, "epvf compare", _gathered(argv))
    if asked.env_steps is None:
        raise UserError("how many env steps? epvf compare TASK --env-steps 5e6")
    from epvf.cli import plans
    from epvf.experiments import compare, compare_report, runner
    from epvf.experiments.launch import launcher

    where = launcher.understood(asked.launcher, asked.jobs, asked.resources)
    delta = {} if asked.backend == "auto" else {"task.backend": asked.backend}
    plan = compare.planned(
        asked.task,
        asked.methods,
        asked.seeds,
        asked.env_steps,
        asked.preset,
        delta,
        _settings(asked),
    )
    folder = asked.out or Path("comparisons") / asked.task
    runner.open_folder(folder, plan)
    command = ["epvf", "compare", *argv]
    if code := plans.complete(folder, plan, where, command):
        text = f"interrupted; the same command goes on with {folder}"
        print_result({"comparison": str(folder), "status": "interrupted"}, text, asked.json)
        return code
    result = compare_report.write(folder, plan, shlex.join(command))
    if asked.report:
        compare_report.write_page(folder, plan)
    text = f"{compare_report.table(result)}\ncomparison: {folder / 'report.md'}"
    print_result(result | {"comparison": str(folder), "status": "finished"}, text, asked.json)
    return 0


def _gathered(argv: list[str]) -> list[str]:
    """The words with those of every `--arm` behind one."""
    rest: list[str] = []
    arms: list[str] = []
    into = rest
    for word in argv:
        if word == "--arm" or word.startswith("--arm="):
            into = arms
            arms += [word.removeprefix("--arm=")] * (word != "--arm")
        elif word.startswith("--"):
            into = rest
            rest.append(word)
        else:
            into.append(word)
    return [*rest, "--arm", *arms] if arms else [*rest, *["--arm"] * ("--arm" in argv)]


def _settings(asked: Options) -> dict[str, "Config"]:
    """The configuration of each arm, by name."""
    from epvf.cli import train

    found: dict[str, Config] = {}
    for arm in asked.arm:
        name, equals, text = arm.partition("=")
        if not equals:
            raise UserError(f"--arm {arm}: give a name and options: quiet='--psvf.noise 0.3'")
        if name in found:
            raise UserError(f"arm {name!r} is named twice")
        start = ["--preset", asked.preset]
        start += [] if asked.backend == "auto" else ["--backend", asked.backend]
        try:
            words = shlex.split(text)
            given, found[name], _ = train.understood([asked.task, *start, *words])
        except (UserError, ValueError) as error:
            raise UserError(f"arm {name}: {error}") from None
        if given.out or given.init or given.json or given.task_name != asked.task:
            raise UserError(f"arm {name}: give fields to change, --method, --variant or --config")
    return found
