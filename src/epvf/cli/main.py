"""The command line: find the command, run it, tell what went wrong.

Exit codes: 0 done; 1 failed at run time; 2 bad usage, configuration or file; 128 plus the signal's
number (130 for Ctrl-C, 143 for SIGTERM) where a signal ended a run, which is saved.

A command is one module with a function `run(argv) -> exit code`, imported when it is asked for, so
that `epvf --help` is quick.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import NamedTuple

from epvf import __version__
from epvf.errors import RunFailed, UserError, printable, shortened, unknown
from epvf.runtime import hosts, meeting, signals


class Command(NamedTuple):
    """One command.

    Attributes:
        module: its home in `epvf.cli`.
        summary: what it does, in a line.
    """

    module: str
    summary: str


COMMANDS: dict[str, Command] = {
    "train": Command("train", "Train a task into a new run folder."),
    "resume": Command("resume", "Go on with a run from its newest checkpoint, or extend it."),
    "eval": Command("evaluate", "Roll out a policy many times and tell its return."),
    "play": Command("play", "Make a video of one policy, or of several side by side."),
    "view": Command("view", "Show a policy and the noise around it in a browser."),
    "policy": Command("policy", "Export a policy, import one of another library, tell of one."),
    "zoo": Command("zoo", "Keep many policies; rank and improve them by a value function."),
    "bench": Command("bench", "Measure what an iteration costs: env steps per second, learning."),
    "experiment": Command("experiment", "Run and draw one of the paper's figures."),
    "compare": Command("compare", "Train several methods on a task and compare them on one page."),
    "sweep": Command("sweep", "Search hyperparameters with Optuna."),
    "diagnose": Command("diagnose", "Measure what a run's value function knows."),
    "landscape": Command("landscape", "Draw V around a run's policy, with the true returns."),
    "report": Command("report", "Sum up a run, or several, on an HTML page."),
    "plot": Command("plot", "Draw learning curves of runs."),
    "doctor": Command("doctor", "Tell what epvf finds on this machine."),
    "runs": Command("runs", "List runs: how far they are, and how well they do."),
    "tasks": Command("tasks", "List the tasks, their engines, and what those need."),
    "methods": Command("methods", "List the methods, and what they need."),
    "completion": Command("completion", "Print a script that completes words in a shell."),
}


HELP = ("-h", "--help")


def console() -> None:
    """Entry point of the `epvf` script."""
    signals.guard()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started the program
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        else:
            # A terminal without θ and ± gets question marks rather than an exception.
            stream.reconfigure(errors="replace")
    code = main(sys.argv[1:])
    _flush()
    hosts.leave(code)
    sys.exit(code)


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
        from epvf.cli.results import silence_stdout

        silence_stdout()
        return 0
    except OSError as error:
        return _fail(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), 1)
    except (RuntimeError, ValueError):
        # JAX's collectives raise either where another process of the run is gone
        if (gone := hosts.lost()) is None:
            raise
        return _fail(gone, 1)
    except SystemExit as end:
        # tyro leaves this way after printing help.
        return int(end.code or 0)


def _dispatch(argv: list[str]) -> int:
    name, *rest = argv or ["--help"]
    if name == "--version":
        print(f"epvf {__version__}")
        return 0
    if name in ("-h", "--help"):
        print(_overview())
        return 0
    if name not in COMMANDS:
        raise unknown("command", name, COMMANDS)
    from epvf.runtime import environment, startup

    startup.quieten()
    if not any(word in HELP for word in rest):
        environment.prepare(
            computes=name != "doctor",
            joins=name in ("train", "resume") and meeting.named(rest),
        )
    code: int = import_module(f"epvf.cli.{COMMANDS[name].module}").run(rest)
    return code


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: epvf COMMAND ...",
            "",
            "Policy search by explicit policy-conditioned value functions V(θ).",
            "",
            *lines,
            "",
            "epvf COMMAND --help tells the options of a command, epvf --version the version.",
            "Where a RUN is asked for, `latest` is the newest one in runs/.",
            "Exit codes: 0 done, 1 failed at run time, 2 bad usage, configuration or file,",
            "128 + n ended by signal n with the run saved (130: Ctrl-C, 143: SIGTERM).",
        ]
    )


def _fail(message: str, code: int) -> int:
    told = shortened(f"epvf: error: {printable(' '.join(message.split()))}")
    with suppress(OSError, ValueError):  # nobody may be there to read it
        print(told, file=sys.stderr, flush=True)
    return code


def _flush() -> None:
    """Writes what is left; Python would complain at its end where nobody reads it."""
    for name in ("stdout", "stderr"):
        try:
            getattr(sys, name).flush()
        except (OSError, ValueError):
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
