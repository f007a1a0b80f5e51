"""`epvf bench`: what an iteration costs."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from epvf.cli import arguments
from epvf.cli.arguments import Shown
from epvf.cli.results import print_result
from epvf.errors import UserError

if TYPE_CHECKING:
    from epvf.config.schema import Config
    from epvf.tasks.base import SteppableTask, Task
    from epvf.training.prepare import Setup
    from epvf.types import Population


@dataclass(frozen=True)
class Options:
    """Measure what an iteration costs: env steps per second, and learning.

    Attributes:
        task: name of the task; see epvf tasks.
        backend: the engine.
        num_envs: policies evaluated at once.
        preset: whose policy, value function and updates are measured.
        method: that learns.
        representation: of a policy, for V(θ).
        config: JSON or YAML file of fields to change in the preset.
        repeats: turns, of which the median counts.
        sweep: sizes to measure one after the other, as in num_envs=512,1024,4096.
        out: folder for a sweep's results.json, results.csv and scaling.png and .pdf.
        json: print the result as JSON.
    """

    task: Annotated[str, Shown("TASK", positional=True)]
    backend: Annotated[str, Shown("NAME")] = "auto"
    num_envs: int = 1024
    preset: Annotated[str, Shown("NAME")] = "tuned"
    method: Annotated[str | None, Shown("NAME", default="the preset's")] = None
    representation: Annotated[str | None, Shown("NAME", default="the preset's")] = None
    config: Annotated[Path | None, Shown("FILE")] = None
    repeats: int = 5
    sweep: Annotated[str | None, Shown("FIELD=SIZES")] = None
    out: Annotated[Path | None, Shown("DIR")] = None
    json: bool = False


def run(argv: list[str]) -> int:
    """Measures and prints; returns the exit code."""
    asked = arguments.read(Options, "epvf bench", argv)
    if asked.sweep is not None:
        return _sweep(asked)
    if asked.out is not None:
        raise UserError("option --out goes with --sweep; see epvf bench --help")
    # without the cache of compiled programs, since their compilation is measured too
    from epvf.bench.iteration import bench_iteration, check_method
    from epvf.bench.rollouts import bench, render
    from epvf.runtime import memory
    from epvf.training.prepare import prepare

    setup = prepare(_measured(asked))
    check_method(setup)
    task = _steppable(setup.task)
    with memory.explained(f"num_envs {asked.num_envs}"):
        result = bench(task, setup.policy, _population(setup), asked.repeats)
        result |= bench_iteration(setup, result, asked.repeats)
    print_result(result | {"preset": asked.preset}, render(result), asked.json)
    return 0


def _steppable(task: "Task") -> "SteppableTask":
    """The task, of which it is now known that its engine can be timed alone."""
    if not hasattr(task, "bare_stepper"):
        name = task.spec.name
        raise UserError(f"task {name!r} has no `bare_stepper`, with which bench compares it")
    return cast("SteppableTask", task)


def _measured(asked: Options) -> "Config":
    """The configuration whose iterations are measured."""
    from epvf.bench.learning import with_num_envs
    from epvf.cli.options import Start, started
    from epvf.config.schema import replace

    start = Start(asked.task, asked.preset, asked.method, None, asked.config)
    delta: dict[str, Any] = {}
    if asked.backend != "auto":
        delta["task.backend"] = asked.backend
    if asked.representation is not None:
        delta["representation.name"] = asked.representation
    return with_num_envs(replace(started(start), delta), asked.num_envs)


def _sweep(asked: Options) -> int:
    """Measures one size after the other, and keeps what came out where `--out` says."""
    from epvf.bench import scaling as sweep

    sizes = sweep.parse(asked.sweep or "")
    if asked.out is not None:
        sweep.check_folder(asked.out)
    given = [(name, str(getattr(asked, name))) for name in ("backend", "preset", "repeats")]
    optional = {"method": asked.method, "representation": asked.representation}
    optional["config"] = None if asked.config is None else str(asked.config.absolute())
    given += [(name, value) for name, value in optional.items() if value is not None]
    options = (part for name, value in given for part in (f"--{name}", value))
    measure = sweep.measure_apart([asked.task, *options], sizes.field)
    rows = sweep.run(sizes, measure, lambda line: print(line, file=sys.stderr, flush=True))
    result: dict[str, Any] = {"sweep": sizes.field, "results": rows}
    text = sweep.table(sizes, rows)
    if asked.out is not None:
        files = sweep.write(asked.out, sizes, rows)
        result["files"] = list(map(str, files))
        text = "\n".join([text, *result["files"]])
    print_result(result, text, asked.json)
    return 0


def _population(setup: "Setup") -> "Population":
    """The population `[N, P]` of a run's first iteration.

    It is not drawn where the run would not do so either.
    """
    import jax
    import numpy as np

    from epvf.policies.population import drawn
    from epvf.training.loop import init_state
    from epvf.training.prepare import draws_late

    state = jax.tree.map(lambda leaf: leaf[0], init_state(setup).learner)
    thetas = jax.jit(setup.search.propose)(state, 0)
    late = setup.task.spec.draws or draws_late(setup.task)
    return thetas if late else np.asarray(drawn(thetas))
