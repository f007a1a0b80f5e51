"""What commands print: text for people, or one line of JSON."""

import errno
import os
import sys
from collections.abc import Sequence
from typing import Any

from epvf.errors import printable
from epvf.files import strict_json


def print_result(result: dict[str, Any], text: str, as_json: bool) -> None:
    """Prints a command's result on stdout, the one way or the other.

    Where nobody reads it any more, it is lost, but not the command's exit code.
    """
    shown = strict_json(result) if as_json else printable(text, keep="\n")
    try:
        print(shown, flush=True)
    except (BrokenPipeError, ValueError):
        silence_stdout()
    except OSError as error:
        if error.errno != errno.EIO:  # of a terminal that was closed
            raise
        silence_stdout()


def silence_stdout() -> None:
    """Has the rest of the output, and what Python flushes at its end, go nowhere."""
    nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    try:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    except (OSError, ValueError):  # not a stream of the system's
        sys.stdout = nowhere


def evaluated(result: dict[str, Any]) -> str:
    """A summary of an evaluation in a line."""
    return (
        "evaluated return: {episode_return:.2f} ± {episode_return_std:.2f} (min "
        "{episode_return_min:.2f}, max {episode_return_max:.2f}) over {episodes} episodes of "
        "{task}, {engine}"
    ).format(**result)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows in aligned columns, the first of them the header."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = ((f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join("  ".join(row).rstrip() for row in cells)
