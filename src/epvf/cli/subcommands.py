"""Commands of two words: `epvf policy export ...`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from epvf.cli import arguments
from epvf.errors import UserError, unknown


class Subcommand(NamedTuple):
    """The second word of a command.

    Attributes:
        options: dataclass of what it takes; its docstring's first line says what it does.
        run: with these to the exit code.
    """

    options: type
    run: Callable[[Any], int]


def dispatch(prog: str, found: Mapping[str, Subcommand], argv: Sequence[str]) -> int:
    """Runs the command that the first word names; returns the exit code.

    Raises:
        UserError: if there is no such command, or what follows does not fit it.
    """
    if not argv:
        raise UserError(f"{prog} needs a command: {', '.join(found)}; see {prog} --help")
    name, *rest = argv
    if name in arguments.HELP:
        print(_overview(prog, found))
        return 0
    if name not in found:
        raise unknown(f"command of {prog}", name, found)
    return found[name].run(arguments.read(found[name].options, f"{prog} {name}", rest))


def _overview(prog: str, found: Mapping[str, Subcommand]) -> str:
    width = max(map(len, found))
    lines = [
        f"  {name:{width}}  {arguments.about(command.options).splitlines()[0]}"
        for name, command in found.items()
    ]
    told = f"{prog} COMMAND --help tells the options of a command."
    return "\n".join([f"usage: {prog} COMMAND ...", "", *lines, "", told])
