"""Training a run folder to its end, and telling how its policy does and what to do next."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from epvf.analysis.evaluation import evaluate
from epvf.cli.results import evaluated, print_result
from epvf.config.schema import Config
from epvf.errors import UserError
from epvf.files import one_line
from epvf.methods.registry import METHODS
from epvf.policies.formats.registry import load_policy
from epvf.runs import team
from epvf.runs.display import Display, make_display
from epvf.runs.folder import Run
from epvf.runs.recorder import record
from epvf.runtime import hosts, meeting, startup
from epvf.tasks.adapters.cluster import Cluster, connect
from epvf.training.prepare import Setup
from epvf.zoo.keeper import Keeper

if TYPE_CHECKING:
    from epvf.view.meanwhile import Videos

EPISODES = 100
"""Rollouts behind the return that sums up a finished run."""


class Besides(NamedTuple):
    """What is done beside training and recording.

    Attributes:
        report: whether `report.html` is written at the end.
        track: more places for the records, of `runs.sinks.SINKS`.
        video_every: iterations from one video to the next; None: no videos.
    """

    report: bool = True
    track: Sequence[str] = ()
    video_every: int | None = None


def check_besides(besides: Besides, task: str) -> None:
    """Checks that it can be done here, before there is a folder.

    Raises:
        UserError: if not.
    """
    from epvf.runs.sinks import check_sinks

    check_sinks(besides.track)
    if besides.video_every is not None:
        from epvf.view.meanwhile import check_drawable

        check_drawable(task, besides.video_every)


def record_and_tell(
    run: Run,
    setup: Setup,
    as_json: bool,
    besides: Besides,
    checkpoint: int | None = None,
    keeper: Keeper | None = None,
) -> int:
    """Trains a run to its end, prints how its best policy does, and returns the exit code.

    With a keeper the run's policies also go into its zoo.
    """
    startup.use_compilation_cache()
    display = make_display()
    videos = _videos(run, besides, display)
    try:
        train = partial(
            record, run, display=display, sinks=besides.track, watch=videos, checkpoint=checkpoint
        )
        if keeper is None:
            outcome = train(setup=setup)
        else:
            with keeper:
                outcome = train(setup=keeper.watched(setup), listener=keeper.report)
    except BaseException:
        if videos is not None:
            videos.close(wait=False)
        raise
    hosts.part()
    if videos is not None:
        videos.close(wait=outcome.status == "finished")
    result: dict[str, Any] = {
        "run": str(run.path),
        "status": outcome.status,
        "iterations": outcome.iterations,
        "env_steps": outcome.env_steps,
    }
    text = f"run: {run.path}"
    if outcome.status == "finished":
        best = load_policy(run.policy("best"))
        summary = evaluate(best, EPISODES, jitter=run.config.eval.jitter).summary()
        result["evaluation"] = summary
        text = f"{evaluated(summary)}\n{text}"
        if besides.report and (page := write_report(run.path, display, summary)) is not None:
            result["report"] = str(page)
    else:
        text += f"\ninterrupted after {outcome.iterations} iterations{_go_on(run)}"
    print_result(result, text, as_json)
    if outcome.status == "finished" and not as_json:
        for name, command in _next(run, "report" in result).items():
            display.announce(f"{name + ':':8} {command}")
    return outcome.exit_code


def write_report(run: Path, display: Display, evaluation: dict[str, Any]) -> Path | None:
    """Sums a run up on a page; that this fails is told, and no reason for the run to."""
    from epvf.analysis import report

    try:
        report.note_evaluation(run, evaluation)
        return report.write([run], run / "report.html")
    except Exception as error:  # whatever it is, the run is finished and saved
        display.announce(f"no report: {one_line(error)}")
        return None


def _next(run: Run, reported: bool) -> dict[str, str]:
    """What may be done with a finished run."""
    path = run.path
    steps = {
        "watch": f"epvf play {path} --seconds 10",
        "page": f"{path / 'report.html'}" if reported else f"epvf report {path}",
        "measure": f"epvf eval {path} --episodes 1000",
        "curves": f"tensorboard --logdir {run.tensorboard}",
    }
    if METHODS[run.config.method.name].resumable:
        steps["go on"] = f"epvf resume {path} --iterations {2 * run.config.iterations}"
    return steps


def _videos(run: Run, besides: Besides, display: Display) -> "Videos | None":
    if besides.video_every is None:
        return None
    from epvf.view.meanwhile import Videos

    return Videos(run.path, besides.video_every, display.announce)


def join(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    purpose: Sequence[Any],
    alone: Mapping[str, bool],
) -> None:
    """Connects this process to those that train the same run, if there are any.

    Args:
        coordinator, num_processes, process_id: of the command line.
        purpose: what all have to have been asked for alike.
        alone: options that go with one process only, and whether they were given.

    Raises:
        UserError: if they cannot train together.
    """
    asked = meeting.asked_for(coordinator, num_processes, process_id)
    if asked is None:
        return
    for option, given in alone.items():
        if given:
            raise UserError(f"{option} does not go with several processes (--num-processes)")
    hosts.meet(asked, json.dumps([str(part) for part in purpose]))
    hosts.join()


def follow(setup: Setup) -> int:
    """Trains with process 0, which tells; returns the exit code."""
    startup.use_compilation_cache()
    code = team.follow(setup)
    hosts.part()
    return code


def cluster_of(where: str | None, config: Config) -> Cluster | None:
    """The cluster of a command line, each of whose workers has the threads of the engine."""
    return None if where is None else connect(where, config.task.num_threads)


def _go_on(run: Run) -> str:
    """How an interrupted run could go on."""
    name = run.config.method.name
    if not METHODS[name].resumable:
        return f"; method {name!r} cannot be resumed, but its policies are saved"
    return f"; go on: epvf resume {run.path}"
