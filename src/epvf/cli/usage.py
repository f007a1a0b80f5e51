"""Command lines through tyro, with every complaint in one line of ours instead of its boxes."""

import io
import re
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from difflib import get_close_matches
from typing import Any

import tyro
from tyro import (
    _errors as events,
)  # private: pyproject.toml keeps tyro below the next minor version

from epvf.errors import UserError


def parse(kind: Any, prog: str, argv: Sequence[str]) -> Any:
    """Parses arguments into `kind`, a dataclass or TypedDict; `--help` prints and exits.

    Raises:
        UserError: for an unknown option, a missing value, or one of the wrong type.
    """

    def complain(event: events.ParseErrorEvent) -> None:
        raise UserError(f"{_describe(event, kind)}; see {prog} --help")

    boxes = io.StringIO()
    try:
        with redirect_stderr(boxes), events.on_parse_error(complain):
            return tyro.cli(kind, prog=prog, args=list(argv))
    except SystemExit as end:
        if not end.code:
            raise
        raise UserError(f"cannot make sense of {' '.join(argv)!r}; see {prog} --help") from None


def _describe(event: events.ParseErrorEvent, kind: Any) -> str:
    if isinstance(event, events.UnrecognizedArgs):
        return _unrecognized(event.tokens, kind)
    if isinstance(event, events.MissingArgs):
        names = [missing.arg.lowered.metavar for missing in event.missing_arguments]
        return f"missing: {', '.join(map(str, names))}"
    if isinstance(event, events.BadValue):
        return f"option {_name(event.argument)} needs a value"
    if isinstance(event, events.InvalidChoice):
        valid = ", ".join(event.choices)
        return f"unknown value {event.value!r} for {_name(event.argument)}; valid: {valid}"
    if isinstance(event, events.InstantiationFailure) and event.argument is not None:
        return f"option {_name(event.argument)}: {_reword(event.message)}"
    return type(event).__name__


def _unrecognized(tokens: Sequence[str], kind: Any) -> str:
    options = [token for token in tokens if token.startswith("--")]
    if not options or not tokens[0].startswith("-"):
        return f"unexpected argument {tokens[0]!r}"
    asked = options[0].split("=")[0].replace("_", "-")
    guesses = get_close_matches(asked, _options(kind), n=1, cutoff=0.75)
    hint = f" (did you mean {guesses[0]}?)" if guesses else ""
    return f"unknown option {options[0]}{hint}"


def _options(kind: Any) -> list[str]:
    """All options of a command, as its help has them."""
    text = io.StringIO()
    with redirect_stdout(text), suppress(SystemExit):
        tyro.cli(kind, args=["--help"])
    return re.findall(r"--[a-z][a-z0-9.-]*", text.getvalue())


def _name(argument: Any) -> str:
    return str(argument.lowered.name_or_flags[0])


def _reword(message: str) -> str:
    # of a union every type complains; the last is the one that takes more than a word
    message = re.split(r"- <class '\w+'>: ", message)[-1]
    for python, plain in (
        ("invalid literal for int() with base 10:", "not a whole number:"),
        ("could not convert string to float:", "not a number:"),
    ):
        message = message.replace(python, plain)
    return message
