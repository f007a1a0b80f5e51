"""What commands print: text for people, or one line of JSON."""

from collections.abc import Sequence
from typing import Any

from epvf.files import strict_json


def print_result(result: dict[str, Any], text: str, as_json: bool, flush: bool = False) -> None:
    """Prints a command's result on stdout, the one way or the other."""
    print(strict_json(result) if as_json else text, flush=flush)


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
