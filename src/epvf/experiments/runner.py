"""Running an experiment: every run to its end, finished ones kept, an interrupted one resumed."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeAlias

from epvf.config.schema import Config, flatten, reads, replace
from epvf.errors import UserError, brief
from epvf.experiments.launch.job import Job
from epvf.experiments.launch.launcher import Launcher
from epvf.experiments.paper import Arm
from epvf.files import check_inside, read_json, write_json
from epvf.methods.registry import METHODS
from epvf.runs.display import Display, Extra, clock
from epvf.runs.folder import Run, check_free, read_config, read_info
from epvf.runs.recorder import record
from epvf.training.prepare import prepare

FORMAT = "epvf-experiment/1"

OWN = (
    *("experiment.json", "runs", "results.csv", "summary.json", "report.md"),
    *("figure.png", "figure.pdf"),
)
"""What an experiment's folder holds."""

ShowWith: TypeAlias = Callable[[Extra], Display]


class Plan(NamedTuple):
    """What an experiment's folder is for.

    Attributes:
        name, scale, preset: as given on the command line.
        seeds: of each arm.
        arms: the runs, in order.
    """

    name: str
    scale: str
    preset: str
    seeds: int
    arms: list[Arm]


def open_folder(folder: Path, plan: Plan) -> None:
    """Makes the experiment's folder, or checks that it is one of the same experiment.

    A folder grows: more runs than it was made for may be asked for, in any order.

    Raises:
        UserError: if something else is there, or it is of another experiment, size or version, or
            holds runs that are not asked for.
    """
    wanted = {"format": FORMAT} | plan._asdict() | {"arms": [arm.name for arm in plan.arms]}
    check_inside(folder, OWN)
    manifest = folder / "experiment.json"
    if not manifest.exists():
        if folder.is_dir() and any(folder.iterdir()):
            raise UserError(f"{folder} exists already and is no experiment; choose another --out")
        check_free(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(manifest, wanted)
        return
    there = read_json(manifest)
    for field, value in wanted.items():
        # of how many seeds runs are, their own configurations tell
        if field not in ("arms", "seeds") and there.get(field) != value:
            raise UserError(
                f"{folder} holds another experiment: its {field} is {brief(there.get(field))}, "
                f"not {value!r}; choose another --out"
            )
    if not isinstance(there.get("arms"), list):
        raise UserError(f"{manifest} does not tell which runs are its own; choose another --out")
    if others := [name for name in there["arms"] if name not in wanted["arms"]]:
        raise UserError(
            f"{folder} holds runs that are not asked for, {len(others)} in all, such as "
            f"{brief(others[0])}; ask for them too or choose another --out"
        )
    for arm in plan.arms:
        _check_same(run_folder(folder, arm), arm.config)
    if there != wanted:
        write_json(manifest, wanted)


def run_folder(folder: Path, arm: Arm) -> Path:
    """Where an arm's run lies."""
    return folder / "runs" / arm.name.replace(" ", "-")


def complete(folder: Path, plan: Plan, show: ShowWith, argv: Sequence[str]) -> int:
    """Brings every run of the experiment to its end, one after the other.

    Args:
        folder: of the experiment.
        plan: its runs.
        show: makes the display of one run, given what to show of the whole.
        argv: the command line, for the runs' own records.

    Returns:
        0, or the exit code of the run that a signal ended: 128 plus the signal's number.

    Raises:
        UserError: if a run cannot be made or resumed.
        RunFailed: if one failed.
    """
    left = unfinished(folder, plan)
    begin = time.monotonic()
    for number, arm in enumerate(left):
        name = f"{len(plan.arms) - len(left) + number + 1}/{len(plan.arms)} {arm.name}"
        display = show(partial(_whole, name, number, len(left), begin))
        display.announce(f"run {name}")
        if code := _complete_run(run_folder(folder, arm), arm.config, argv, display):
            return code
    return 0


def complete_abreast(
    folder: Path,
    plan: Plan,
    launcher: Launcher,
    tell: Callable[[str], None],
    argv: Sequence[str],
) -> int:
    """Brings every run to its end, several at a time.

    Each prints its lines on stderr, or into a file of the launcher; `tell` is told of those that
    end. Otherwise as `complete`.
    """
    jobs = [
        Job(arm.name, partial(_complete_run, run_folder(folder, arm), arm.config, argv))
        for arm in unfinished(folder, plan)
    ]
    return launcher.run(folder, jobs, tell)


def _whole(name: str, done: int, runs: int, begin: float, progress: float) -> dict[str, str]:
    """Which run of how many this is, and the time left if those to come are like those before."""
    fraction = (done + progress) / runs
    seconds = (time.monotonic() - begin) * (1.0 - fraction) / max(fraction, 1e-9)
    return {"run": name, "all left": clock(seconds)}


def unfinished(folder: Path, plan: Plan) -> list[Arm]:
    """Runs that are not at their end, those that were not begun among them."""
    return [arm for arm in plan.arms if not is_finished(run_folder(folder, arm))]


def _complete_run(path: Path, config: Config, argv: Sequence[str], display: Display) -> int:
    """The exit code of a run that is begun or gone on with."""
    setup = prepare(config)
    run = open_run(path, setup.config, argv)
    try:
        return record(run, setup, display).exit_code
    finally:
        run.close()


def open_run(path: Path, config: Config, argv: Sequence[str]) -> Run:
    """The run at a path, to go on with or made anew."""
    if (path / "run.json").exists():
        if METHODS[config.method.name].resumable:
            run = Run.open(path)
            run.resumed(argv)
            return run
        Run.open(path).close()  # nobody else has it then
    # Killed while the folder was being made, or of a method that cannot go on: made anew.
    return Run.remake(path, config, argv)


def is_finished(path: Path) -> bool:
    """Whether the run at a path, if any, has been trained to its end."""
    return (path / "run.json").exists() and read_info(path)["status"] == "finished"


def _check_same(path: Path, config: Config) -> None:
    """Raises a `UserError` if the run at `path`, if any, differs in a field its method reads."""
    if not (path / "run.json").exists():
        return
    there = flatten(read_config(path))
    wanted = flatten(replace(config, {"task.backend": there["task.backend"]}))
    for field, value in wanted.items():
        if there.get(field) != value and reads(config.method.name, field):
            raise UserError(
                f"{path} was made with other settings or by another version: its {field} is "
                f"{brief(there.get(field))}, not {brief(value)}; choose another --out"
            )
