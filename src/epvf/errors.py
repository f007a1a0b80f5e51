"""The exceptions whose message is for the user: what cannot be, and what could not be done."""

from collections.abc import Iterable
from reprlib import Repr
from typing import Any

LONGEST_LINE = 200
"""Characters of a message on the command line."""

LISTED = 400
"""Characters of a list of valid names in a message."""

VALID = "; valid: "


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
    from difflib import get_close_matches  # slow to import, and seldom needed

    choices = list(valid)
    guess = get_close_matches(name, choices, n=1) if isinstance(name, str) else []
    hint = f" (did you mean {guess[0]!r}?)" if guess else ""
    return UserError(f"unknown {kind} {brief(name)}{hint}{VALID}{_listed(choices)}")


def brief(value: object) -> str:
    """A value as a message shows it: never in full where it is long, deep or large."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a number of {value.bit_length()} bits"
    return printable(_BRIEF.repr(value))


def printable(text: str, keep: str = "") -> str:
    r"""Text that a terminal only shows: other characters as Python escapes them, as in `\x1b`.

    Args:
        text: from anywhere.
        keep: characters that stay although they control something, such as line ends.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else _escaped(c) for c in text)


def shortened(text: str, length: int = LONGEST_LINE) -> str:
    """Text of at most so many characters: a list at its end is cut, or the middle left out."""
    if len(text) <= length:
        return text
    if 0 < text.find(VALID) < length - 40:
        return text[: length - 5].rpartition(", ")[0] + ", ..."
    end = length // 3
    return f"{text[: length - end - 3]}...{text[-end:]}"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _listed(names: list[str]) -> str:
    told = ", ".join(names)
    if len(told) <= LISTED:
        return told
    return told[:LISTED].rpartition(", ")[0] + ", ..."


class _Brief(Repr):
    """Short whatever comes; `reprlib` writes whole numbers in full first, which may be refused."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 40
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = 2
        self.maxlevel = 2

    def repr_int(self, x: int, level: int) -> str:
        return brief(x) if x.bit_length() > 128 else repr(x)

    def repr_str(self, x: str, level: int) -> str:
        return super().repr_str(x[: 2 * self.maxstring], level)

    def repr_instance(self, x: Any, level: int) -> str:
        try:
            return super().repr_instance(x, level)
        except Exception:
            return f"<{type(x).__name__}>"


_BRIEF = _Brief()
