"""Names of things that can be added to: an object, a lazy `module:attribute`, or an entry point."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, cast

from epvf.errors import UserError, unknown

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

OWN = "epvf"
REGISTERED = "registered"

T = TypeVar("T")


class Entry(NamedTuple):
    """Where a name comes from.

    Attributes:
        name: in the registry.
        origin: `epvf`; `registered`, for what a program added; or the distribution's name.
    """

    name: str
    origin: str


class Registry(Generic[T]):
    """A name -> an object, loaded when it is first asked for.

    Own entries come first, then those that a program registered, then those that other installed
    packages offer as entry points of `group`. Nothing is imported and no package looked for before
    a name is asked for.

    Example:
        >>> shapes = Registry("shape", {"square": 4, "pi": "math:pi"})
        >>> shapes.register("triangle", 3)
        >>> shapes.names(), shapes["triangle"], round(shapes["pi"])
        (('square', 'pi', 'triangle'), 3, 3)
    """

    def __init__(
        self,
        kind: str,
        entries: Mapping[str, T | str],
        group: str | None = None,
        wanted: type[T] | None = None,
    ) -> None:
        """A registry of the library's own entries.

        Args:
            kind: what it holds, for errors: `task`.
            entries: name to an object or to `module:attribute`.
            group: of the entry points of other packages; None: there are none.
            wanted: what its objects have to be; None: anything.
        """
        self._kind = kind
        self._own = dict(entries)
        self._registered: dict[str, T | str] = {}
        self._group = group
        self._wanted = wanted
        self._loaded: dict[str, T] = {}

    def register(self, name: str, value: T | str) -> None:
        """Adds an object, or a `module:attribute` to be loaded when it is asked for.

        Raises:
            UserError: if something else has this name.
        """
        there = self._origin(name)
        if there is value or (isinstance(value, str) and there == value):
            return
        if name in self:
            raise UserError(f"there already is a {self._kind} {name!r}; choose another name")
        self._registered[name] = value

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):  # files may hold anything
            return False
        return name in self._own or name in self._registered or name in self._found.usable

    def names(self) -> tuple[str, ...]:
        """All names: own ones, registered ones, those of other packages sorted."""
        return (*self._own, *self._registered, *sorted(self._found.usable))

    def entries(self) -> tuple[Entry, ...]:
        """All names and where they come from; nothing is loaded."""
        return (
            *(Entry(name, OWN) for name in self._own),
            *(Entry(name, REGISTERED) for name in self._registered),
            *(Entry(name, _distribution(self._found.usable[name])) for name in self._offered),
        )

    def __getitem__(self, name: str) -> T:
        """The object of this name.

        Raises:
            UserError: if there is none, or it cannot be loaded.
        """
        if name not in self:
            raise unknown(self._kind, name, self.names())
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def broken(self) -> dict[str, str]:
        """Entry points that do not work, and why, each in a line. Loads all others."""
        wrong = dict(self._found.ignored)
        for name in self._offered:
            try:
                self[name]
            except UserError as error:
                wrong[name] = str(error)
        return wrong

    def usable(self) -> tuple[str, ...]:
        """All names whose objects can be loaded, which it does."""
        return tuple(name for name in self.names() if self._loads(name))

    def _loads(self, name: str) -> bool:
        try:
            self[name]
        except UserError:
            return False
        return True

    @property
    def _offered(self) -> list[str]:
        return sorted(self._found.usable)

    @cached_property
    def _found(self) -> _Found:
        return _Found({}, {}) if self._group is None else self._look(self._group)

    def _look(self, group: str) -> _Found:
        from importlib.metadata import entry_points

        found = _Found({}, {})
        for point in sorted(entry_points(group=group), key=_distribution):
            if point.name in self._own:
                owner = OWN
            elif point.name in found.usable:
                owner = _distribution(found.usable[point.name])
            else:
                found.usable[point.name] = point
                continue
            if owner == _distribution(point):
                continue  # the same package, found in two places of the path
            found.ignored[point.name] = (
                f"{self._kind} {point.name!r} of package {_distribution(point)!r} is ignored, "
                f"since {owner!r} has one of this name"
            )
        return found

    def _origin(self, name: str) -> Any:
        return self._registered.get(name, self._own.get(name))

    def _load(self, name: str) -> T:
        if name in self._own or name in self._registered:
            value = self._origin(name)
            return self._fitting(load(value) if isinstance(value, str) else value)
        point = self._found.usable[name]
        try:
            return self._fitting(load(point.value))
        except UserError as error:
            package = _distribution(point)
            raise UserError(f"{self._kind} {name!r} of package {package!r}: {error}") from error

    def _fitting(self, value: Any) -> T:
        if self._wanted is not None and not isinstance(value, self._wanted):
            kinds = type(value).__name__, self._wanted.__name__
            raise UserError(f"what stands for it is of type {kinds[0]}, not {kinds[1]}")
        return cast(T, value)


class _Found(NamedTuple):
    """Entry points by name, and of those that are ignored why."""

    usable: dict[str, EntryPoint]
    ignored: dict[str, str]


def load(reference: str) -> Any:
    """The object that `package.module:attribute` names; the attribute may have dots.

    Raises:
        UserError: if there is no such module or attribute, or importing it fails.
    """
    module, _, attribute = reference.partition(":")
    try:
        value: Any = import_module(module)
    except UserError:
        raise
    except Exception as error:  # whatever a foreign module does when it is imported
        raise UserError(f"cannot import {module!r}: {in_a_line(error)}") from error
    for part in attribute.split("."):
        if not hasattr(value, part):
            raise UserError(f"module {module!r} has no attribute {attribute!r}")
        value = getattr(value, part)
    return value


def look_here() -> None:
    """Lets modules be imported that lie where one works, as with `python -m`."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)


def in_a_line(error: BaseException) -> str:
    """An exception's name, and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "unknown"
