"""`epvf experiment`: one of the paper's figures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from epvf.cli import arguments
from epvf.cli.arguments import Shown
from epvf.cli.results import print_result


@dataclass(frozen=True)
class Options:
    """Run and draw one of the paper's figures; the same command again goes on where it stopped.

    Attributes:
        name: fig1, fig2-scaling, fig2-ablations, fig2-representations; and of what is not the
            paper's cartpole-one-env and v-theta.
        scale: full is the paper's size; small runs on two cores.
        seeds: of each setting.
        seeds_per_run: of them side by side in one program, which pays on a GPU.
        env_steps: after which each seed ends; schedules stay as they are.
        out: folder to make.
        preset: what every setting starts from.
        backend: the engine.
        jobs: runs at a time; on this machine each in a process of its own on its part of the cores.
        launcher: local, ray or slurm, which need a folder that all machines share.
        resources: of each job under slurm or ray: timeout_min=240 cpus_per_task=8.
        json: print the result as JSON.
    """

    name: Annotated[str, Shown("NAME", positional=True)]
    scale: Annotated[str, Shown("NAME")] = "full"
    seeds: Annotated[int | None, Shown(default="as many as the experiment wants")] = None
    seeds_per_run: Annotated[int | None, Shown("INT", default="as the experiment wants")] = None
    env_steps: Annotated[int | None, Shown("INT", default="as the experiment wants")] = None
    out: Annotated[Path | None, Shown("DIR", default="experiments/NAME-SCALE")] = None
    preset: Annotated[str, Shown("NAME")] = "paper"
    backend: Annotated[str, Shown("NAME")] = "auto"
    jobs: Annotated[int | None, Shown("INT", default="all; on this machine 1")] = None
    launcher: Annotated[str, Shown("{local,ray,slurm}")] = "local"
    resources: Annotated[tuple[str, ...], Shown("[NAME=VALUE ...]")] = ()
    json: bool = False


def run(argv: list[str]) -> int:
    """Runs and draws an experiment; returns the exit code."""
    asked = arguments.read(Options, "epvf experiment", argv)
    from epvf.cli import plans
    from epvf.experiments import paper, report, runner
    from epvf.experiments.launch import launcher
    from epvf.training.prepare import prepare

    where = launcher.understood(asked.launcher, asked.jobs, asked.resources)
    delta = {} if asked.backend == "auto" else {"task.backend": asked.backend}
    arms, seeds = paper.planned(
        *(asked.name, asked.scale, asked.seeds, asked.preset, delta),
        *(asked.seeds_per_run, asked.env_steps),
    )
    for arm in arms:
        prepare(arm.config)
    plan = runner.Plan(asked.name, asked.scale, asked.preset, seeds, arms)
    folder = asked.out or Path("experiments") / f"{asked.name}-{asked.scale}"
    runner.open_folder(folder, plan)
    if asked.scale == "full" and asked.launcher == "local":
        # elsewhere this machine's pace says nothing, and it may be one that is not to compute
        plans.tell_time(folder, plan)
    if code := plans.complete(folder, plan, where, ["epvf", "experiment", *argv]):
        text = f"interrupted; the same command goes on with {folder}"
        print_result({"experiment": str(folder), "status": "interrupted"}, text, asked.json)
        return code
    result = report.write(folder, plan)
    text = f"{report.table(result)}\nexperiment: {folder}"
    print_result(result | {"experiment": str(folder), "status": "finished"}, text, asked.json)
    return 0
