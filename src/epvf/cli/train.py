"""`epvf train`: a task into a new run folder."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from epvf.cli import arguments, options
from epvf.cli.arguments import Option, Shown
from epvf.config.presets import PRESETS, chosen
from epvf.config.schema import Config, to_dict
from epvf.config.variants import VARIANTS
from epvf.errors import UserError
from epvf.methods.registry import METHODS

if TYPE_CHECKING:
    from epvf.policies.formats.safetensors import SavedPolicy
    from epvf.training.prepare import Setup

PROG = "epvf train"


def _choices(names: Any) -> str:
    return "{" + ",".join(names) + "}"


@dataclass(frozen=True)
class Options:
    """Train a task into a new run folder; every field that the run reads is an option.

    Attributes:
        task_name: what to solve: a task's name, package.module:factory, or file.py:factory.
        preset: named configuration.
        method: what learns; the fields that it reads are options.
        variant: one of the paper's ablations, applied to the preset.
        config: JSON or YAML file of fields to change.
        init: policy file to start from.
        out: run folder to make.
        zoo: folder to keep all policies in that are rolled out, with their returns.
        backend: the engine; the same as --task.backend.
        objectives: of a task that has several; each episode is asked for one of them.
        video_every: iterations from one video of the policy, in the run's videos/, to the next.
        track: where records go besides metrics.jsonl and TensorBoard: wandb, mlflow.
        report: write report.html at the end.
        devices: of this machine that share the run, for engines on JAX: a number, or all.
        coordinator: HOST:PORT of process 0, where several processes train one run.
        num_processes: so many; with SLURM all three are known (1: a run of its own).
        process_id: which of them this one is, from 0.
        cluster: whose workers roll out: local:N, auto, HOST:PORT or ray://HOST:PORT.
        dry_run: check everything and tell the run's size and time, but do not train.
        timing: with --dry-run: run the first iterations, to tell the time.
        json: print the result as JSON.
    """

    task_name: Annotated[
        str,
        Shown("TASK", positional=True, missing="which task? epvf train TASK; see epvf tasks"),
    ]
    preset: Annotated[str | None, Shown(_choices(PRESETS), default=options.DEFAULT_PRESET)] = None
    method: Annotated[str | None, Shown(_choices(METHODS.names()))] = None
    variant: Annotated[str | None, Shown(_choices(VARIANTS))] = None
    config: Annotated[Path | None, Shown("FILE")] = None
    init: Annotated[Path | None, Shown("POLICY")] = None
    out: Annotated[Path | None, Shown("DIR", default="runs/TASK/TIME-PRESET-sSEED")] = None
    zoo: Annotated[Path | None, Shown("DIR")] = None
    backend: Annotated[str | None, Shown("NAME", default="as --task.backend")] = None
    objectives: Annotated[tuple[str, ...], Shown("NAME ...", default="none")] = ()
    video_every: Annotated[int | None, Shown("N")] = None
    track: Annotated[tuple[str, ...], Shown("[NAME ...]")] = ()
    report: bool = True
    devices: Annotated[str, Shown("INT|all")] = "1"
    coordinator: Annotated[str | None, Shown("HOST:PORT")] = None
    num_processes: Annotated[int | None, Shown("INT")] = None
    process_id: Annotated[int | None, Shown("INT")] = None
    cluster: Annotated[str | None, Shown("WHERE")] = None
    dry_run: bool = False
    timing: bool = True
    json: bool = False


def run(argv: list[str]) -> int:
    """Trains a run from its start; returns the exit code."""
    asked, config, origin = understood(argv)
    # only now, as neither help nor a refusal needs to wait for them
    from epvf.cli import recording
    from epvf.policies.formats.registry import load_policy
    from epvf.runs.folder import Run, check_free
    from epvf.runtime import hosts
    from epvf.runtime.handles import make_room
    from epvf.training.prepare import prepare
    from epvf.zoo.keeper import Keeper
    from epvf.zoo.store import Zoo

    besides = recording.Besides(asked.report, asked.track, asked.video_every)
    if asked.out is not None and not asked.process_id:
        check_free(asked.out)
    saved = None if asked.init is None else load_policy(asked.init)
    recording.join(
        asked.coordinator,
        asked.num_processes,
        asked.process_id,
        [to_dict(config), asked.devices, asked.dry_run, None if saved is None else saved.theta],
        {"--zoo": asked.zoo is not None, "--cluster": asked.cluster is not None},
    )
    setup = prepare(
        config,
        initial=None if saved is None else saved.theta,
        devices=asked.devices,
        cluster=recording.cluster_of(asked.cluster, config),
    )
    if saved is not None:
        _check_fits(asked.init, saved, setup)
    recording.check_besides(besides, config.task.name)
    if asked.dry_run:
        from epvf.cli import dry_run

        if not hosts.follows():
            # whose first iterations would be those of all processes
            dry_run.tell(setup, asked.timing and not hosts.several(), asked.json)
        hosts.part()
        return 0
    if hosts.follows():
        return recording.follow(setup)
    make_room(config.num_seeds)
    zoo = None if asked.zoo is None else Zoo.create(asked.zoo)
    _tell_if_not_resumable(config)
    _tell_what_was_chosen(config, origin)
    command = ["epvf", "train", *argv]
    if asked.out is not None:
        made = Run.create(asked.out, setup.config, command, init=saved)
    else:
        made = Run.create_default(setup.config, origin, command, init=saved)
    keeper = None if zoo is None else Keeper(zoo, setup, f"{made.path}")
    try:
        return recording.record_and_tell(made, setup, asked.json, besides, keeper=keeper)
    except UserError:  # a place for its records says no, say
        made.discard()
        raise
    finally:
        made.close()


def understood(argv: list[str]) -> tuple[Options, Config, str]:
    """The options of a command line, its configuration, and a word for where that comes from.

    Raises:
        UserError: if anything is unknown, of the wrong type, or contradicts something else.
    """
    own = arguments.fields(Options)
    start = options.started_by(own, argv)
    base = options.started(start)
    own = [_with_value(option, base) for option in own]
    values = arguments.parse(
        [*own, *options.options(base)],
        PROG,
        argv,
        arguments.about(Options),
        options.group_texts(base),
        lambda flag: options.unread(base, flag),
    )
    asked = Options(**{option.name: values[option.name] for option in own})
    if asked.backend is not None:
        if values["task.backend"] != base.task.backend:
            raise UserError("--backend and --task.backend say the same; give one of them")
        values["task.backend"] = asked.backend
    given = arguments.split([*own, *options.of_all_methods()], argv).named
    return asked, options.changed(base, values, given), start.origin


def _with_value(option: Option, base: Config) -> Option:
    """An option whose value help can only show now."""
    if option.name != "method":
        return option
    return replace(option, shown=option.shown._replace(default=base.method.name))


def _check_fits(path: Path | None, saved: "SavedPolicy", setup: "Setup") -> None:
    if saved.policy != setup.policy:
        raise UserError(
            f"policy {path} is {saved.policy.describe()}, but this run's is "
            f"{setup.policy.describe()}"
        )


def _tell_what_was_chosen(config: Config, origin: str) -> None:
    line = chosen(config.task.name, origin, config.method.name)
    if line is not None:
        print(f"note: {line}", file=sys.stderr, flush=True)


def _tell_if_not_resumable(config: Config) -> None:
    name = config.method.name
    if not METHODS[name].resumable:
        print(
            f"note: a run of method {name!r} cannot be resumed once it has ended or is interrupted",
            file=sys.stderr,
            flush=True,
        )
