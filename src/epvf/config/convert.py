"""Plain values to typed ones: what JSON, YAML and the command line have in common."""

import math
import re
import types
import typing
from functools import cache
from typing import Annotated, Any, Literal

from epvf.errors import UserError, brief, unknown
from epvf.types import Range

LARGEST = 2**31 - 1
"""Of whole numbers, which end up in JAX's 32 bits; env steps are counted in more."""

LARGEST_FLOAT = 10**308

LARGEST_STEPS = 2**53
"""Of env steps, which floats have to count, too."""

_WIDE = ("env_steps",)

LONGEST_NUMBER = 100
"""Digits of a number."""

_UNITS = {"k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9}
_WITH_UNIT = re.compile(r"[0-9][0-9_]*(\.[0-9]*)?([kKmMgGbB])", re.ASCII)
_PLAIN_NUMBER = re.compile(
    r"[-+]?([0-9][0-9_]*(\.[0-9_]*)?|\.[0-9]+)(e[-+]?[0-9]+)?", re.ASCII | re.IGNORECASE
)


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
    if hint in (int, float) and isinstance(value, str | float):
        # YAML 1.1 reads 1e-3 and 1M as text, JSON 25e6 as a fraction
        value = _whole(number(value) if isinstance(value, str) else value, hint)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < LARGEST_FLOAT else math.copysign(math.inf, value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        word = hint is float and isinstance(value, str)
        raise _wrong_type(path, "a number" if word else f"of type {hint.__name__}", value)
    return value


def _whole(value: Any, hint: type) -> Any:
    """25e6 is a whole number to a person."""
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _wrong_type(path: str, wanted: str, value: Any) -> UserError:
    return UserError(f"{path} must be {wanted}, not {brief(value)}")


def text(words: list[str], hint: Any) -> Any:
    """The plain value that words of a command line stand for: a list where the hint is a tuple."""
    if _is_tuple(hint):
        return [] if [word.lower() for word in words] == ["none"] else [number(x) for x in words]
    word = words[0] if words else ""
    if word.lower() in ("none", "null"):
        return None
    return (
        {"true": True, "false": False}.get(word.lower(), number(word))
        if _is_bool(hint)
        else (number(word))
    )


def check_number(name: str, value: Any, hint: Any) -> None:
    """Raises a `UserError` for a number beyond the range of its annotation."""
    allowed = _range(hint)
    for item in value if isinstance(value, tuple) else (value,):
        if isinstance(item, bool) or not isinstance(item, int | float):
            continue
        largest = LARGEST_STEPS if name in _WIDE else LARGEST
        if isinstance(item, int) and item > largest:
            raise UserError(f"{name} is too large; the largest is {largest}")
        if not _within(item, allowed):
            raise UserError(f"{name} is {brief(item)}; it must be {_told(allowed)}")


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


def number(word: str) -> Any:
    """A number where the text is one, as in `0.5`, `25e6`, `1_000_000` or `1M`; else the text."""
    if _WITH_UNIT.fullmatch(word):
        value = float(word[:-1].replace("_", "")) * _UNITS[word[-1].lower()]
        return int(value) if value.is_integer() else value
    if word.lower().lstrip("+-") in ("inf", "infinity", "nan"):
        return float(word)
    if not _PLAIN_NUMBER.fullmatch(word) or len(word) > LONGEST_NUMBER:
        return word
    try:
        return int(word)
    except ValueError:
        pass
    value = float(word.replace("_", ""))
    # 25e6 is a whole number to a person.
    return int(value) if value.is_integer() and abs(value) < LARGEST_STEPS else value
