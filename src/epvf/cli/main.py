"""The command line: parse, call, print.

Exit codes: 0 done; 1 failed at run time; 2 bad usage, configuration or file; 128 plus the signal's
number (130 for Ctrl-C, 143 for SIGTERM) where a signal ended a run, which is saved.

What a command needs is imported when it runs, so that `--help` is quick.
"""

import io
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import tyro

from epvf._version import __version__
from epvf.cli import usage
from epvf.errors import RunFailed, UserError, unknown
from epvf.files import strict_json
from epvf.runtime import startup

if TYPE_CHECKING:
    from epvf.config.schema import Config
    from epvf.experiments.launch.local import Cores
    from epvf.experiments.runner import Plan
    from epvf.policies.mlp import Policy
    from epvf.runs.folder import Run
    from epvf.tasks.base import SteppableTask, Task
    from epvf.types import Population

Command: TypeAlias = Callable[[list[str]], int]

EPISODES = 100
"""Rollouts behind the return that sums up a finished run."""


def console() -> None:
    """Entry point of the `epvf` script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal without θ and ± gets question marks rather than an exception.
            stream.reconfigure(errors="replace")
    sys.exit(main(sys.argv[1:]))


def main(argv: Sequence[str]) -> int:
    """Runs one command and returns its exit code; what went wrong is one line on stderr."""
    try:
        return _dispatch(list(argv))
    except UserError as error:
        return _fail(str(error), 2)
    except RunFailed as error:
        return _fail(str(error), 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        # Whoever read the output has seen enough of it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), 1)
    except SystemExit as end:
        # tyro leaves this way after printing help.
        return int(end.code or 0)


def train(argv: list[str]) -> int:
    """Train a task into a new run folder."""
    startup.quieten()
    from epvf.cli import options
    from epvf.runs.folder import Run, check_free, default_path
    from epvf.training.prepare import fit

    given = usage.parse(options.train_options(argv), "epvf train", argv)
    config, preset = options.train_config(given)
    if "out" in given:
        check_free(Path(given["out"]))
    config, task = fit(config)
    path = Path(given["out"]) if "out" in given else default_path(config, preset)
    run = Run.create(path, config, ["epvf", "train", *argv])
    try:
        return _record(run, task, given.get("json", False))
    finally:
        run.close()


def resume(argv: list[str]) -> int:
    """Go on with a run from its newest checkpoint."""
    asked = usage.parse(_Resume, "epvf resume", argv)
    startup.quieten()
    from epvf.runs.agent_recorder import check_resumable
    from epvf.runs.folder import Run, read_info
    from epvf.training.prepare import fit

    if read_info(asked.run)["status"] == "finished":
        result = {"run": str(asked.run), "status": "finished"}
        _print_result(result, f"run {asked.run} is finished; nothing to do", asked.json)
        return 0
    run = Run.open(asked.run)
    try:
        check_resumable(run)
        _, task = fit(run.config)
        run.resumed(["epvf", "resume", *argv])
        return _record(run, task, asked.json)
    finally:
        run.close()


def evaluate(argv: list[str]) -> int:
    """Roll out a policy many times and tell its return."""
    asked = usage.parse(_Eval, "epvf eval", argv)
    startup.quieten()
    startup.use_compilation_cache()
    from epvf.analysis.evaluation import evaluate as roll_out
    from epvf.config.schema import EvalConfig
    from epvf.policies.formats.safetensors import load_policy
    from epvf.runs.folder import policy_path, read_config

    path, jitter = asked.what, EvalConfig().jitter
    if path.is_dir():
        jitter = read_config(path).eval.jitter
        path = policy_path(path, asked.policy)
    saved = load_policy(path)
    result = roll_out(saved, asked.episodes, asked.backend, asked.seed, jitter).summary()
    _print_result(result | {"policy": str(path)}, _evaluated(result), asked.json)
    return 0


def bench(argv: list[str]) -> int:
    """Measure what an iteration costs: env steps per second, and learning."""
    asked = usage.parse(_Bench, "epvf bench", argv)
    if asked.sweep is not None:
        return _sweep(asked)
    if asked.out is not None:
        raise UserError("option --out goes with --sweep; see epvf bench --help")
    # without the cache of compiled programs, since their compilation is measured too
    startup.quieten()
    from epvf.bench.iteration import bench_iteration
    from epvf.bench.learning import with_num_envs
    from epvf.bench.rollouts import bench as measure
    from epvf.bench.rollouts import render
    from epvf.runtime import memory
    from epvf.training.prepare import fit

    config, task = fit(with_num_envs(_measured(asked), asked.num_envs))
    with memory.explained(f"num_envs {asked.num_envs}"):
        policy, thetas = _population(config, task)
        result = measure(task, policy, thetas, asked.repeats)
        result |= bench_iteration(config, task, result, asked.repeats)
    _print_result(result | {"preset": asked.preset}, render(result), asked.json)
    return 0


def _measured(asked: "_Bench") -> "Config":
    """The configuration whose iterations are measured."""
    from epvf.bench.iteration import check_method
    from epvf.cli.options import train_config

    given: dict[str, Any] = {"task_name": asked.task, "preset": asked.preset}
    if asked.backend != "auto":
        given["backend"] = asked.backend
    if asked.method is not None:
        given["method"] = asked.method
    if asked.config is not None:
        given["config"] = str(asked.config)
    if asked.representation is not None:
        given["representation"] = {"name": asked.representation}
    config, _ = train_config(given)
    check_method(config)
    return config


def _sweep(asked: "_Bench") -> int:
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
    _print_result(result, text, asked.json)
    return 0


def experiment(argv: list[str]) -> int:
    """Run and draw one of the paper's figures."""
    asked = usage.parse(_Experiment, "epvf experiment", argv)
    startup.quieten()
    from epvf.experiments import paper as figures
    from epvf.experiments import report, runner
    from epvf.experiments.launch import local as processes
    from epvf.training.prepare import fit

    parts = processes.shares(asked.jobs)
    delta = {} if asked.backend == "auto" else {"task.backend": asked.backend}
    arms, seeds = figures.planned(asked.name, asked.scale, asked.seeds, asked.preset, delta)
    for arm in arms:
        fit(arm.config)
    plan = runner.Plan(asked.name, asked.scale, asked.preset, seeds, arms)
    folder = asked.out or Path("experiments") / f"{asked.name}-{asked.scale}"
    runner.open_folder(folder, plan)
    if code := _complete(folder, plan, parts, ["epvf", "experiment", *argv]):
        text = f"interrupted; the same command goes on with {folder}"
        _print_result({"experiment": str(folder), "status": "interrupted"}, text, asked.json)
        return code
    result = report.write(folder, plan)
    text = f"{report.table(result)}\nexperiment: {folder}"
    _print_result(result | {"experiment": str(folder), "status": "finished"}, text, asked.json)
    return 0


def compare(argv: list[str]) -> int:
    """Train several methods on a task and compare them on one page."""
    asked = usage.parse(_Compare, "epvf compare", argv)
    startup.quieten()
    from epvf.experiments import compare as comparison
    from epvf.experiments import compare_report, runner
    from epvf.experiments.launch import local as processes

    if asked.env_steps is None:
        raise UserError("how many env steps? epvf compare TASK --env-steps 5e6")
    parts = processes.shares(asked.jobs)
    delta = {} if asked.backend == "auto" else {"task.backend": asked.backend}
    plan = comparison.planned(
        asked.task, asked.methods, asked.seeds, asked.env_steps, asked.preset, delta
    )
    folder = asked.out or Path("comparisons") / asked.task
    runner.open_folder(folder, plan)
    command = ["epvf", "compare", *argv]
    if code := _complete(folder, plan, parts, command):
        text = f"interrupted; the same command goes on with {folder}"
        _print_result({"comparison": str(folder), "status": "interrupted"}, text, asked.json)
        return code
    result = compare_report.write(folder, plan, shlex.join(command))
    text = f"{compare_report.table(result)}\ncomparison: {folder / 'report.md'}"
    _print_result(result | {"comparison": str(folder), "status": "finished"}, text, asked.json)
    return 0


def _complete(folder: Path, plan: "Plan", parts: "list[Cores]", command: list[str]) -> int:
    """Brings all runs to their ends: one at a time, or one on each part of the cores."""
    startup.use_compilation_cache()
    from epvf.experiments import runner
    from epvf.runs.display import make_display

    if len(parts) > 1:
        tell = make_display().announce
        return runner.complete_abreast(folder, plan, parts, tell, command)
    return runner.complete(folder, plan, lambda extra: make_display(extra=extra), command)


def diagnose(argv: list[str]) -> int:
    """Measure what a run's value function knows: its gradient, its steps, its ranking."""
    asked = usage.parse(_Diagnose, "epvf diagnose", argv)
    startup.quieten()
    startup.use_compilation_cache()
    from epvf.analysis import diagnosis

    result = diagnosis.diagnose(
        asked.run,
        lambda message: print(message, file=sys.stderr, flush=True),
        population=asked.population,
        reference=asked.reference,
        steps=asked.steps,
        distances=asked.distances,
        ridge=asked.ridge,
        seed=asked.seed,
    )
    folder = asked.out or asked.run / "diagnosis"
    diagnosis.write(folder, result)
    _print_result(result, f"{diagnosis.table(result)}\n\ndiagnosis: {folder}", asked.json)
    return 0


def plot(argv: list[str]) -> int:
    """Draw learning curves of runs, grouped by what differs in their configurations."""
    asked = usage.parse(_Plot, "epvf plot", argv)
    from epvf.analysis.drawing import plot_runs

    path = plot_runs(asked.runs, asked.out, asked.x, asked.smooth)
    _print_result({"plot": str(path)}, f"plot: {path}", asked.json)
    return 0


def doctor(argv: list[str]) -> int:
    """Tell what epvf finds on this machine, and what could be installed."""
    asked = usage.parse(_Doctor, "epvf doctor", argv)
    startup.quieten()
    from epvf.cli.doctor import examine, render

    findings = examine()
    _print_result(findings, render(findings), asked.json)
    return 0


COMMANDS: dict[str, Command] = {
    "train": train,
    "resume": resume,
    "eval": evaluate,
    "bench": bench,
    "experiment": experiment,
    "compare": compare,
    "diagnose": diagnose,
    "plot": plot,
    "doctor": doctor,
}


@dataclass(frozen=True)
class _Resume:
    """Go on with a run from its newest checkpoint.

    Attributes:
        run: folder of the run.
        json: print the result as JSON.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    json: bool = False


@dataclass(frozen=True)
class _Eval:
    """Roll out a policy many times and tell its return.

    CartPole is played in Gymnasium's own environment. Where a task resets deterministically, every
    episode runs a copy of the policy with its weights jittered.

    Attributes:
        what: folder of a run, or a policy file.
        episodes: rollouts.
        backend: the engine.
        policy: which of a run's policies.
        seed: of resets and jitter.
        json: print the result as JSON.
    """

    what: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN|POLICY_FILE")]
    episodes: int = 100
    backend: str = "auto"
    policy: Literal["best", "last"] = "best"
    seed: int = 0
    json: bool = False


@dataclass(frozen=True)
class _Bench:
    """Measure what an iteration costs: env steps per second, and learning.

    Attributes:
        task: name of the task.
        backend: the engine.
        num_envs: policies evaluated at once.
        preset: whose policy, value function and updates are measured.
        method: that learns; as for `epvf train` if not given.
        representation: of a policy, for V(θ).
        config: JSON or YAML file of fields to change in the preset.
        repeats: turns, of which the median counts.
        sweep: sizes to measure one after the other, as in num_envs=512,1024,4096.
        out: folder for a sweep's results.json, results.csv and scaling.png and .pdf.
        json: print the result as JSON.
    """

    task: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TASK")]
    backend: str = "auto"
    num_envs: int = 1024
    preset: str = "tuned"
    method: str | None = None
    representation: str | None = None
    config: Path | None = None
    repeats: int = 5
    sweep: str | None = None
    out: Path | None = None
    json: bool = False


@dataclass(frozen=True)
class _Experiment:
    """Run and draw one of the paper's figures; the same command again goes on where it stopped.

    Attributes:
        name: fig1, fig2-scaling, fig2-ablations or fig2-representations.
        scale: full is the paper's size; small runs on two cores.
        seeds: of each setting. Default: as many as the experiment wants.
        out: folder to make. Default: experiments/NAME-SCALE.
        preset: what every setting starts from.
        backend: the engine.
        jobs: runs at a time, each in a process of its own on its part of the cores.
        json: print the result as JSON.
    """

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    scale: str = "full"
    seeds: int | None = None
    out: Path | None = None
    preset: str = "paper"
    backend: str = "auto"
    jobs: int = 1
    json: bool = False


@dataclass(frozen=True)
class _Compare:
    """Train several methods on a task and compare them; the same command again goes on.

    Every method gets the same env steps, seeds and population, and its own hyperparameters.

    Attributes:
        task: name of the task.
        methods: that are compared; see epvf train TASK --help.
        seeds: of each method.
        env_steps: at which every run ends, e.g. 5e6.
        out: folder to make. Default: comparisons/TASK.
        preset: what every method starts from.
        backend: the engine.
        jobs: runs at a time, each in a process of its own on its part of the cores.
        json: print the result as JSON.
    """

    task: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TASK")]
    methods: tuple[str, ...] = ()
    seeds: int = 3
    env_steps: float | None = None
    out: Path | None = None
    preset: str = "tuned"
    backend: str = "auto"
    jobs: int = 1
    json: bool = False


@dataclass(frozen=True)
class _Diagnose:
    """Measure what a run's value function knows at its newest checkpoint.

    Cosines of ∇V, of the matched evolution-strategies direction and of the ridge direction with a
    large-sample gradient; what steps along each of them gain; V's rank correlation with the
    returns of fresh populations.

    Attributes:
        run: folder of the run.
        population: policies behind each estimate. Default: as many as the run has environments.
        reference: antithetic populations behind the reference gradient.
        steps: lengths of the steps; 1 is as long as a typical perturbation.
        distances: of the fresh populations, as multiples of the run's noise.
        ridge: penalty of the ridge direction.
        seed: of perturbations and rollouts.
        out: folder for diagnosis.json and diagnosis.png. Default: RUN/diagnosis.
        json: print the result as JSON.
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    population: int | None = None
    reference: int = 16
    steps: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0)
    distances: tuple[float, ...] = (0.3, 1.0, 2.0)
    ridge: float = 1.0
    seed: int = 0
    out: Path | None = None
    json: bool = False


@dataclass(frozen=True)
class _Plot:
    """Draw learning curves of runs, grouped by what differs in their configurations.

    Each group is the mean over its seeds with a 95 % confidence interval by bootstrap over them.

    Attributes:
        runs: folders of the runs.
        out: image file to write; its suffix says the format. Default: plots/return.png in the run,
            or return.png here for several.
        x: what to draw over.
        smooth: iterations of a running mean; 1 draws what was measured.
        json: print the result as JSON.
    """

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN")]
    out: Path | None = None
    x: Literal["env-steps", "iterations", "seconds"] = "env-steps"
    smooth: int = 1
    json: bool = False


@dataclass(frozen=True)
class _Doctor:
    """Tell what epvf finds on this machine, and what could be installed.

    Attributes:
        json: print the findings as JSON.
    """

    json: bool = False


def _dispatch(argv: list[str]) -> int:
    if not argv:
        raise UserError(f"no command given; valid: {', '.join(COMMANDS)}; see epvf --help")
    name, *rest = argv
    if name == "--version":
        print(f"epvf {__version__}")
        return 0
    if name in ("-h", "--help"):
        print(_overview())
        return 0
    if name not in COMMANDS:
        raise unknown("command", name, COMMANDS)
    return COMMANDS[name](rest)


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {kind.__doc__}" for name, kind in COMMANDS.items()]
    return "\n".join(
        [
            "usage: epvf COMMAND ...",
            "",
            "Policy search by explicit policy-conditioned value functions V(θ).",
            "",
            *lines,
            "",
            "epvf COMMAND --help tells the options of a command, epvf --version the version.",
            "Exit codes: 0 done, 1 failed at run time, 2 bad usage, configuration or file,",
            "130 or 143 ended by Ctrl-C or SIGTERM with the run saved.",
        ]
    )


def _population(config: "Config", task: "Task") -> "tuple[Policy, Population]":
    """An architecture and a population `[N, P]` of it, as in a run's first iteration.

    It is not drawn where the run would not do so either.
    """
    import jax
    import numpy as np

    from epvf.policies.population import drawn
    from epvf.training.loop import init_state, make_learner

    learner = make_learner(config, task.spec)
    states = init_state(config, learner, task).learner
    state = jax.tree.map(lambda leaf: leaf[0], states)
    thetas = jax.jit(learner.propose)(state, 0)
    return learner.policy, thetas if task.spec.draws else np.asarray(drawn(thetas))


def _record(run: "Run", task: "SteppableTask", as_json: bool) -> int:
    """Trains a run to its end and tells how its best policy does."""
    startup.use_compilation_cache()
    from epvf.analysis.evaluation import evaluate as roll_out
    from epvf.policies.formats.safetensors import load_policy
    from epvf.runs.display import make_display
    from epvf.training.prepare import record

    outcome = record(run, task, make_display())
    result = {
        "run": str(run.path),
        "status": outcome.status,
        "iterations": outcome.iterations,
        "env_steps": outcome.env_steps,
    }
    text = f"run: {run.path}"
    if outcome.status == "finished":
        best = load_policy(run.policy("best"))
        evaluation = roll_out(best, EPISODES, jitter=run.config.eval.jitter).summary()
        result["evaluation"] = evaluation
        text = f"{_evaluated(evaluation)}\n{text}"
    else:
        text += f"\ninterrupted after {outcome.iterations} iterations{_go_on(run)}"
    _print_result(result, text, as_json)
    return outcome.exit_code


def _go_on(run: "Run") -> str:
    """How an interrupted run could go on."""
    from epvf.methods.agents.settings import AGENTS

    if run.config.method in AGENTS:
        return f"; method {run.config.method!r} cannot be resumed, but its policies are saved"
    return f"; go on: epvf resume {run.path}"


def _evaluated(result: dict[str, Any]) -> str:
    return (
        "evaluated return: {episode_return:.2f} ± {episode_return_std:.2f} (min "
        "{episode_return_min:.2f}, max {episode_return_max:.2f}) over {episodes} episodes of "
        "{task}, {engine}"
    ).format(**result)


def _print_result(result: dict[str, Any], text: str, as_json: bool) -> None:
    print(strict_json(result) if as_json else text)


def _fail(message: str, code: int) -> int:
    print(f"epvf: error: {' '.join(message.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    console()
