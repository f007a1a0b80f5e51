"""`epvf resume`: on with a run, to the end that it had or to a later one."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from epvf.cli import arguments
from epvf.cli.arguments import Shown
from epvf.cli.results import print_result
from epvf.errors import UserError, brief, shortened

if TYPE_CHECKING:
    from epvf.config.schema import Config


@dataclass(frozen=True)
class Options:
    """Go on with a run from its newest checkpoint, or extend a finished one.

    Learning rates and deviations keep the schedule that they had, and stay at its end.

    Attributes:
        run: folder of the run.
        iterations: at which the run ends from now on, counted from its start.
        env_steps: at which it ends instead, counted from its start, e.g. 5e6.
        zoo: folder to keep all policies in that are rolled out, with their returns.
        video_every: iterations from one video of the policy, in the run's videos/, to the next.
        track: where records go besides metrics.jsonl and TensorBoard: wandb, mlflow.
        report: write report.html at the end.
        devices: of this machine that share the run, for engines on JAX: a number, or all.
        coordinator: HOST:PORT of process 0, where several processes train one run.
        num_processes: so many; with SLURM all three are known (1: a run of its own).
        process_id: which of them this one is, from 0.
        cluster: whose workers roll out: local:N, auto, HOST:PORT or ray://HOST:PORT.
        checkpoint: update of the checkpoint to go on from; those after it are set aside.
        json: print the result as JSON.
    """

    run: Annotated[Path, Shown("RUN", positional=True)]
    iterations: Annotated[int | None, Shown(default="as asked for before")] = None
    env_steps: Annotated[int | None, Shown(default="as asked for before")] = None
    zoo: Annotated[Path | None, Shown("DIR")] = None
    video_every: Annotated[int | None, Shown("N")] = None
    track: Annotated[tuple[str, ...], Shown("[NAME ...]")] = ()
    report: bool = True
    devices: Annotated[str, Shown("INT|all")] = "1"
    coordinator: Annotated[str | None, Shown("HOST:PORT")] = None
    num_processes: Annotated[int | None, Shown("INT")] = None
    process_id: Annotated[int | None, Shown("INT")] = None
    cluster: Annotated[str | None, Shown("WHERE")] = None
    checkpoint: Annotated[int | None, Shown("UPDATE", default="the newest")] = None
    json: bool = False


def run(argv: list[str]) -> int:
    """Trains a run on from its newest checkpoint; returns the exit code."""
    asked = arguments.read(Options, "epvf resume", argv)
    from epvf.cli import recording
    from epvf.config.schema import to_dict
    from epvf.runs.folder import Run, current_info, extended, read_config
    from epvf.runtime import hosts
    from epvf.runtime.handles import make_room
    from epvf.training.prepare import prepare
    from epvf.zoo.keeper import Keeper
    from epvf.zoo.store import Zoo

    recording.join(
        asked.coordinator,
        asked.num_processes,
        asked.process_id,
        [asked.iterations, asked.env_steps, asked.devices, asked.checkpoint],
        {"--zoo": asked.zoo is not None, "--cluster": asked.cluster is not None},
    )
    if hosts.follows():
        return _follow(asked.devices)
    extends = asked.iterations is not None or asked.env_steps is not None
    info = current_info(asked.run)
    if info["status"] == "finished" and not extends and asked.checkpoint is None:
        hosts.share(b"")
        hosts.part()
        _tell_finished(asked)
        return 0
    _check_resumable(asked.run, read_config(asked.run))
    besides = recording.Besides(asked.report, asked.track, asked.video_every)
    recording.check_besides(besides, read_config(asked.run).task.name)
    opened = Run.open(asked.run)
    try:
        config = opened.config
        if extends:
            config = extended(config, asked.iterations, asked.env_steps)
        initial = opened.initial
        hosts.share(json.dumps(to_dict(config)).encode())
        hosts.share(b"" if initial is None else initial.tobytes())
        setup = prepare(
            config,
            initial=initial,
            devices=asked.devices,
            cluster=recording.cluster_of(asked.cluster, config),
        )
        make_room(config.num_seeds)
        _tell_machine(info)
        if extends:
            _tell_schedules(opened.config)
            opened.reconfigure(setup.config)
        keeper = None
        if asked.zoo is not None:
            keeper = Keeper(Zoo.create(asked.zoo), setup, f"{opened.path}", goes_on=True)
        opened.resumed(["epvf", "resume", *argv])
        return recording.record_and_tell(
            opened, setup, asked.json, besides, asked.checkpoint, keeper
        )
    finally:
        opened.close()


def _follow(devices: str) -> int:
    """Trains with process 0, which alone has the run's folder."""
    import numpy as np

    from epvf.cli import recording
    from epvf.config.schema import from_dict
    from epvf.files import from_json
    from epvf.runtime import hosts
    from epvf.training.prepare import prepare

    told = hosts.share(None)
    if not told:
        hosts.part()
        return 0
    theta = np.frombuffer(hosts.share(None), np.float32)
    initial = theta if theta.size else None
    return recording.follow(prepare(from_dict(from_json(told)), initial=initial, devices=devices))


def _tell_finished(asked: Options) -> None:
    text = (
        f"run {asked.run} is finished; nothing to do. To extend it: epvf resume {asked.run} "
        "--iterations N"
    )
    print_result({"run": str(asked.run), "status": "finished"}, text, asked.json)


def _tell_schedules(before: "Config") -> None:
    length = before.schedule_iterations or before.iterations
    print(
        f"schedules keep their length of {length} iterations; after it they stay at their "
        "final values",
        file=sys.stderr,
        flush=True,
    )


def _tell_machine(info: dict[str, Any]) -> None:
    """Says so where the run began on another processor, or with other versions: they may round
    otherwise."""
    from epvf.runs import provenance

    devices = info.get("devices")
    before = devices.get("cpu") if isinstance(devices, dict) else None
    here = provenance.processor()
    if isinstance(before, dict) and before != here:
        told = f"on {brief(before.get('model'))}, here it is {brief(here['model'])}"
        if before.get("model") == here["model"]:
            told = f"on a {brief(before.get('model'))} with other features"
        _tell_began(told)
    if changed := _changed_versions(info.get("versions"), provenance.versions()):
        _tell_began(f"with {', '.join(changed)}")


def _changed_versions(before: Any, here: dict[str, str | None]) -> list[str]:
    """What is installed in another version than a run began with, in words."""
    if not isinstance(before, dict):
        return []
    return [
        f"{name} {brief(before[name])[1:-1]} (here {version or 'none'})"
        for name, version in here.items()
        if isinstance(before.get(name), str) and before[name] != version
    ]


def _tell_began(told: str) -> None:
    print(
        f"note: the run began {shortened(told, 120)}: it goes on, but not to the bit as there",
        file=sys.stderr,
        flush=True,
    )


def _check_resumable(path: Path, config: "Config") -> None:
    from epvf.methods.registry import METHODS

    name = config.method.name
    if not METHODS[name].resumable:
        raise UserError(
            f"a run of method {name!r} cannot be resumed; start anew with epvf train "
            f"{config.task.name} --method {name}, or use what it saved: epvf eval {path} "
            "--policy last"
        )
