"""`epvf eval`: a policy's return over many episodes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from epvf.cli import arguments
from epvf.cli.arguments import Shown
from epvf.cli.results import evaluated, print_result
from epvf.errors import UserError
from epvf.runtime import startup


@dataclass(frozen=True)
class Options:
    """Roll out a policy many times and tell its return.

    CartPole is played in Gymnasium's own environment. Where a task resets deterministically, every
    episode runs a copy of the policy with its weights jittered.

    Attributes:
        what: folder of a run, or a policy file.
        episodes: rollouts.
        backend: the engine.
        policy: which of a run's policies.
        task: of a policy that does not tell its own.
        seed: of resets and jitter.
        command: that episodes are asked for, of tasks that have one: 1 0 0 for go2.
        json: print the result as JSON.
    """

    what: Annotated[Path, Shown("RUN|POLICY_FILE", positional=True)]
    episodes: int = 100
    backend: Annotated[str, Shown("NAME")] = "auto"
    policy: Literal["best", "last"] = "best"
    task: Annotated[str | None, Shown("TASK")] = None
    seed: int = 0
    command: Annotated[tuple[float, ...], Shown("X ...", default="as episodes have it")] = ()
    json: bool = False


def run(argv: list[str]) -> int:
    """Evaluates a policy and prints a summary; returns the exit code."""
    asked = arguments.read(Options, "epvf eval", argv)
    startup.use_compilation_cache()
    from epvf.analysis.evaluation import evaluate
    from epvf.config.schema import EvalConfig
    from epvf.policies.formats.registry import load_policy
    from epvf.runs.folder import policy_path, read_config

    path, jitter = asked.what, EvalConfig().jitter
    if path.is_dir():
        jitter = read_config(path).eval.jitter
        path = policy_path(path, asked.policy)
    saved = load_policy(path)
    if not saved.task and asked.task is None:
        raise UserError(f"{path} does not tell its task; give --task")
    if asked.task not in (None, saved.task) and saved.task:
        raise UserError(f"{path} is a policy of task {saved.task!r}, not {asked.task!r}")
    saved = saved._replace(task=saved.task or asked.task or "")
    result = evaluate(
        saved, asked.episodes, asked.backend, asked.seed, jitter, asked.command
    ).summary()
    print_result(result | {"policy": str(path)}, evaluated(result), asked.json)
    return 0
