"""Names of environments of other libraries: `library:ID`."""

from collections.abc import Iterable
from difflib import get_close_matches
from importlib.util import find_spec
from typing import NamedTuple

from epvf.errors import UserError


class Library(NamedTuple):
    """A library whose environments are tasks.

    Attributes:
        home: `module:function` from the name of a task to its `TaskEntry`.
        module: that has to be installed.
        extra: of `pip install epvf[extra]`, which it needs; None: it is always there.
        example: a name.
    """

    home: str
    module: str
    extra: str | None
    example: str


LIBRARIES = {
    "gymnasium": Library(
        "epvf.tasks.adapters.from_gymnasium:entry", "gymnasium", None, "gymnasium:Pendulum-v1"
    ),
    "gymnax": Library(
        "epvf.tasks.adapters.from_gymnax:entry", "gymnax", "gymnax", "gymnax:Acrobot-v1"
    ),
    "brax": Library("epvf.tasks.adapters.from_brax:entry", "brax", "brax", "brax:ant"),
    "playground": Library(
        "epvf.tasks.adapters.from_playground:entry",
        "mujoco_playground",
        "playground",
        "playground:CheetahRun",
    ),
}
"""By the prefix of their tasks' names."""


def library_of(name: str) -> Library | None:
    """The library that the name of a task begins with, if it does."""
    prefix, colon, _ = name.partition(":")
    return LIBRARIES.get(prefix) if colon else None


def installed(library: Library) -> bool:
    """Whether it could be imported, as far as can be told without doing so."""
    return find_spec(library.module) is not None


def check_named(name: str) -> None:
    """Checks that the name of a library's task says which, and that the library is there.

    Raises:
        UserError: if not.
    """
    library = library_of(name)
    assert library is not None, name
    if not installed(library):
        raise UserError(
            f"task {name!r} needs {library.module}: pip install 'epvf[{library.extra}]'"
        )
    if name.endswith(":"):
        raise UserError(f"task {name!r} lacks an environment's id, as in {library.example!r}")


def unknown_id(library: str, asked: str, valid: Iterable[str]) -> UserError:
    """The error for an id that a library does not know, with the nearest ones; they are many."""
    choices = sorted(valid)
    by_lower = {choice.lower(): choice for choice in choices}
    near = [by_lower[match] for match in get_close_matches(asked.lower(), by_lower, n=3)]
    hint = f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""
    return UserError(f"unknown environment {asked!r} of {library}{hint}; it has {len(choices)}")
