"""Plain values to typed ones: what JSON, YAML and the command line have in common."""

import types
import typing
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml

from epvf.errors import UserError, unknown
from epvf.files import one_line
from epvf.types import Range

LARGEST = 2**31 - 1
"""Of whole numbers, which end up in JAX's 32 bits; env steps are counted in more."""

_WIDE = ("env_steps",)


def read(path: Path) -> dict[str, Any]:
    """A `.json` or `.yaml` file of a mapping.

    Raises:
        UserError: if it cannot be read or is no mapping.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read config {path}: {one_line(error)}") from error
    if not isinstance(values, dict):
        raise UserError(f"config {path} is not a mapping of fields to values")
    return values


@cache
def hints(kind: type[Any]) -> dict[str, Any]:
    """Annotations of a dataclass, with their ranges."""
    return typing.get_type_hints(kind, include_extras=True)


def field(kind: type, name: str, value: Any, path: str) -> Any:
    """A field's value, checked against its annotation; `path` is the group's name or empty."""
    return convert(value, hints(kind)[name], f"{path}.{name}" if path else name)


def convert(value: Any, hint: Any, path: str) -> Any:
    """Checks one plain value against its annotation; lists become tuples, ints may be floats."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return convert(value, options[0], path)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return convert(value, next(o for o in options if o is not type(None)), path)
    if origin is Literal:
        if value not in options:
            raise unknown(f"value for {path}:", value, [str(o) for o in options])
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _wrong_type(path, "a list", value)
        return tuple(convert(item, options[0], path) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):
        # YAML 1.1 reads 1e-3 as text.
        try:
            return float(value)
        except ValueError:
            raise _wrong_type(path, "a number", value) from None
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise _wrong_type(path, f"of type {hint.__name__}", value)
    return value


def _wrong_type(path: str, wanted: str, value: Any) -> UserError:
    return UserError(f"{path} must be {wanted}, not {value!r}")


def text(words: list[str], hint: Any) -> Any:
    """The plain value that words of a command line stand for: a list where the hint is a tuple."""
    if _is_tuple(hint):
        return [] if [word.lower() for word in words] == ["none"] else [_number(x) for x in words]
    word = words[0] if words else ""
    if word.lower() in ("none", "null"):
        return None
    return (
        {"true": True, "false": False}.get(word.lower(), _number(word))
        if _is_bool(hint)
        else (_number(word))
    )


def check_number(name: str, value: Any, hint: Any) -> None:
    """Raises a `UserError` for a number beyond the range of its annotation."""
    allowed = _range(hint)
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        if isinstance(number, int) and number > LARGEST and name not in _WIDE:
            raise UserError(f"{name} is too large; the largest is {LARGEST}")
        if not _within(number, allowed):
            raise UserError(f"{name} is {number}; it must be {_told(allowed)}")


def _within(number: float, allowed: Range | None) -> bool:
    if allowed is None:
        return 0 < number < float("inf")
    low, high, exclusive = allowed
    inside = low < number < high if exclusive else low <= number <= high
    return inside and abs(number) != float("inf")


def _told(allowed: Range | None) -> str:
    if allowed is None:
        return "finite and greater than 0"
    low, high, exclusive = allowed
    if high == float("inf"):
        return f"finite and at least {low:g}"
    if exclusive:
        return f"greater than {low:g} and less than {high:g}"
    return f"at least {low:g} and at most {high:g}"


def _range(hint: Any) -> Range | None:
    """The range that an annotation, or a part of it, carries."""
    if typing.get_origin(hint) is Annotated:
        return next((x for x in typing.get_args(hint)[1:] if isinstance(x, Range)), None)
    return next((r for part in typing.get_args(hint) if (r := _range(part)) is not None), None)


def _is_tuple(hint: Any) -> bool:
    return typing.get_origin(hint) is tuple


def _is_bool(hint: Any) -> bool:
    return hint is bool


def _number(word: str) -> Any:
    """A number where the text is one; otherwise the text."""
    try:
        return int(word)
    except ValueError:
        pass
    try:
        number = float(word)
    except ValueError:
        return word
    # 25e6 is a whole number to a person.
    return int(number) if number.is_integer() else number
