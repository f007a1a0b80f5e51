"""Training a run folder to its end, and telling how its policy does."""

from epvf.analysis.evaluation import evaluate
from epvf.cli.results import evaluated, print_result
from epvf.methods.registry import METHODS
from epvf.policies.formats.registry import load_policy
from epvf.runs.display import make_display
from epvf.runs.folder import Run
from epvf.runs.recorder import record
from epvf.runtime import startup
from epvf.training.prepare import Setup

EPISODES = 100
"""Rollouts behind the return that sums up a finished run."""


def record_and_tell(run: Run, setup: Setup, as_json: bool, checkpoint: int | None = None) -> int:
    """Trains a run to its end, prints how its best policy does, and returns the exit code."""
    startup.use_compilation_cache()
    display = make_display()
    display.announce(f"run: {run.path}")
    outcome = record(run, setup, display, checkpoint)
    result = {
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
    else:
        text += f"\ninterrupted after {outcome.iterations} iterations{_go_on(run)}"
    print_result(result, text, as_json)
    return outcome.exit_code


def _go_on(run: Run) -> str:
    """How an interrupted run could go on."""
    name = run.config.method.name
    if not METHODS[name].resumable:
        return f"; method {name!r} cannot be resumed, but its policies are saved"
    return f"; go on: epvf resume {run.path}"
