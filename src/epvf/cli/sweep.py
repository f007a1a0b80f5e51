"""`epvf sweep`: hyperparameters of a task, searched."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from epvf.cli import arguments
from epvf.cli.arguments import Shown
from epvf.cli.results import print_result, table
from epvf.errors import UserError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from epvf.experiments.launch.launcher import Launcher
    from epvf.experiments.study import Study, Sweep

LEADERS = 5
"""Trials that are shown as the best."""


@dataclass(frozen=True)
class Options:
    """Search hyperparameters with Optuna; the same command again, or beside it, goes on.

    A trial trains one setting to the same env steps as all; one that is behind where others were
    is given up early. Several processes or hosts work on one sweep if they share its folder.

    Attributes:
        task: name of the task; see epvf tasks.
        search: fields and their values: psvf.noise=0.2:0.8 log:1e-4:1e-2 '64 64|128 128'.
        space: YAML or JSON file of more of them.
        env_steps: at which every trial ends, e.g. 5e6.
        trials: in all, over all processes.
        seeds: of each trial, trained side by side.
        metric: perturbed or unperturbed, whose return at the end counts.
        sampler: tpe, random or grid; a grid needs lists, or LOW:HIGH:POINTS.
        pruner: hyperband or none.
        method: what learns.
        preset: what every trial starts from.
        config: JSON or YAML file of fields to change in every trial.
        backend: the engine.
        storage: where the study is kept: a file, or the URL of a database.
        out: folder to make.
        jobs: processes that work on it; on this machine each has its part of the cores.
        launcher: local, ray or slurm, which need a folder that all machines share.
        resources: of each job under slurm or ray: timeout_min=240 cpus_per_task=8.
        json: print the result as JSON.
    """

    task: Annotated[str, Shown("TASK", positional=True)]
    search: Annotated[tuple[str, ...], Shown("[FIELD=VALUES ...]")] = ()
    space: Annotated[Path | None, Shown("FILE")] = None
    env_steps: Annotated[int | None, Shown("INT", default="required")] = None
    trials: Annotated[int | None, Shown("INT", default="40, or all of a grid")] = None
    seeds: int = 1
    metric: Annotated[str, Shown("NAME")] = "unperturbed"
    sampler: Annotated[str, Shown("{tpe,random,grid}")] = "tpe"
    pruner: Annotated[str | None, Shown("{hyperband,none}")] = "hyperband"
    method: Annotated[str | None, Shown("NAME", default="the preset's")] = None
    preset: Annotated[str, Shown("NAME")] = "tuned"
    config: Annotated[Path | None, Shown("FILE")] = None
    backend: Annotated[str, Shown("NAME")] = "auto"
    storage: Annotated[str | None, Shown("FILE|URL", default="OUT/study.journal")] = None
    out: Annotated[Path | None, Shown("DIR", default="sweeps/TASK")] = None
    jobs: Annotated[int | None, Shown("INT", default="1 on this machine")] = None
    launcher: Annotated[str, Shown("{local,ray,slurm}")] = "local"
    resources: Annotated[tuple[str, ...], Shown("[NAME=VALUE ...]")] = ()
    json: bool = False


def run(argv: list[str]) -> int:
    """Works on a sweep until no trial is left to begin; returns the exit code."""
    asked = arguments.read(Options, "epvf sweep", argv)
    if asked.env_steps is None:
        raise UserError("how many env steps? epvf sweep TASK --env-steps 5e6")
    from epvf.experiments import sweep_report
    from epvf.experiments.launch import launcher
    from epvf.experiments.study import leaders, open_study, optuna

    optuna()
    where = launcher.understood(asked.launcher, asked.jobs, asked.resources)
    if not where.alone and where.jobs is None:
        raise UserError(f"how many workers? --launcher {where.name} --jobs N")
    folder = asked.out or Path("sweeps") / asked.task
    sweep = _understood(asked, folder)
    study = open_study(folder, sweep)
    command = ["epvf", "sweep", *argv]
    code = _work(folder, sweep, where, command)
    under_way = len(study.trials()) - len(study.ended())
    if code:
        text = f"interrupted; the same command goes on with {folder}"
        print_result({"sweep": str(folder), "status": "interrupted"}, text, asked.json)
        return code
    result = sweep_report.write(folder, study, sweep, shlex.join(command))
    lines = [table(leaders(study, sweep, LEADERS)), f"sweep: {folder / 'report.md'}"]
    if under_way:
        lines.append(f"{under_way} trials are still under way in other processes")
    status = "under way elsewhere" if under_way else "finished"
    print_result(result | {"status": status}, "\n".join(lines), asked.json)
    return 0


def _understood(asked: Options, folder: Path) -> "Sweep":
    """The sweep that options describe; nothing has been written yet."""
    from epvf.config.schema import load_fields
    from epvf.experiments import space, study, sweep

    assert asked.env_steps is not None
    pruner = asked.pruner or "none"  # the word for nothing at all
    study.check_names(asked.sampler, pruner)
    metric = sweep.metric_of(asked.metric)
    written: dict[str, Any] = {} if asked.config is None else load_fields(asked.config)
    delta = {} if asked.backend == "auto" else {"task.backend": asked.backend}
    config = sweep.base_config(
        asked.task, asked.preset, asked.method, written, delta, asked.env_steps, asked.seeds
    )
    axes = space.parsed(asked.search, asked.space, config)
    return study.Sweep(
        name=asked.task,
        config=config,
        preset=asked.preset,
        space=tuple(axes),
        trials=sweep.num_trials(asked.trials, asked.sampler, axes),
        metric=metric,
        sampler=asked.sampler,
        pruner=pruner,
        storage=asked.storage or str(folder / "study.journal"),
    )


def _work(folder: Path, sweep: "Sweep", where: "Launcher", command: list[str]) -> int:
    from epvf.experiments import sweep as sweeping
    from epvf.runs.display import Display, Extra, make_display
    from epvf.runtime import startup

    startup.use_compilation_cache()
    if not where.alone:
        assert where.jobs is not None
        jobs = sweeping.workers(folder, sweep, where.jobs, command)
        return where.run(folder, jobs, make_display().announce)

    def show(extra: Extra, study: "Study") -> Display:
        return make_display(extra=extra, below=lambda: _best(study, sweep))

    return sweeping.work(folder, sweep, show, command)


def _best(study: "Study", sweep: "Sweep") -> "RenderableType":
    from rich.table import Table

    from epvf.experiments.study import leaders

    header, *rows = leaders(study, sweep, LEADERS)
    board = Table(*header, title="best so far" if rows else "", title_justify="left")
    for row in rows:
        board.add_row(*row)
    return board if rows else ""
