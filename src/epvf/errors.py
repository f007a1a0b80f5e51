"""The exceptions whose message is for the user: what cannot be, and what could not be done."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Bad input. The message is one line: what was wrong and what would be right.

    Example:
        >>> import epvf
        >>> try:
        ...     epvf.make("cartpol")
        ... except epvf.UserError as error:
        ...     print(str(error).split(";")[0])
        unknown task 'cartpol' (did you mean 'cartpole'?)

    The command line prints it without a traceback and exits with code 2.
    """


class RunFailed(RuntimeError):
    """What was asked for is right, but could not be done. The message is one line.

    The command line prints it without a traceback and exits with code 1.
    """


def unknown(kind: str, name: object, valid: Iterable[str]) -> UserError:
    """Builds the error for a name that is not among the valid ones, with the nearest guess."""
    choices = list(valid)
    guess = get_close_matches(str(name), choices, n=1)
    hint = f" (did you mean {guess[0]!r}?)" if guess else ""
    return UserError(f"unknown {kind} {name!r}{hint}; valid: {', '.join(choices)}")
