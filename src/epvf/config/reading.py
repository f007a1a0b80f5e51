"""Files of configuration to plain values: JSON and safe YAML, bounded in size, depth and expansion.

What is wrong is told in a line with its place. Names may be written as on the command line, with
dots and hyphens: `psvf.noise`, `num-envs`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from epvf.errors import UserError, brief, printable, shortened
from epvf.files import from_json, one_line, read_text

LARGEST = 4_000_000
"""Bytes of a file."""

DEEPEST = 20
"""Levels of lists and mappings within each other."""

MOST_VALUES = 20_000
"""Values of a file once every alias stands for what it names."""

SAID = 80
"""Characters of what a parser says."""

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read(path: Path, flat: bool = False) -> dict[str, Any]:
    """A `.json` or `.yaml` file of a mapping, dotted names taken apart unless it is to stay flat.

    Raises:
        UserError: if it cannot be read or is no mapping.
    """
    try:
        text = read_text(path, LARGEST)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read config {path}: {_reason(error)}") from error
    try:
        values = _json(text) if _is_json(path, text) else _yaml(text)
        if not isinstance(values, dict):
            raise _Wrong("is not a mapping of fields to values")
        return values if flat else nested(values)
    except _Wrong as wrong:
        place = "" if wrong.place is None else ", line {}, column {}".format(*wrong.place)
        told = wrong.args[0]
        if told.startswith("is "):
            raise UserError(f"config {path} {told}") from None
        raise UserError(f"cannot read config {path}{place}: {told}") from None


def nested(values: dict[Any, Any]) -> dict[str, Any]:
    """The values with `{"psvf.noise": x}` as `{"psvf": {"noise": x}}`, and `-` in names as `_`."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if not isinstance(name, str):
            raise _Wrong(f"{brief(name)} is no name of a field")
        *above, last = name.replace("-", "_").split(".")
        inner = found
        for group in above:
            inner = inner.setdefault(group, {})
            if not isinstance(inner, dict):
                raise _Wrong(f"{brief(group)} is a value and a group of fields at once")
        given = nested(value) if isinstance(value, dict) else value
        there = inner.get(last)
        if last not in inner:
            inner[last] = given
        elif (
            isinstance(there, dict) and isinstance(given, dict) and not there.keys() & given.keys()
        ):
            there.update(given)
        else:
            raise _Wrong(f"{brief(name)} is given twice")
    return found


class _Wrong(Exception):
    """What is wrong with a file, and where: line and column from 1."""

    def __init__(self, told: str, place: tuple[int, int] | None = None) -> None:
        super().__init__(told)
        self.place = place


def _is_json(path: Path, text: str) -> bool:
    return path.suffix == ".json" or text.lstrip()[:1] == "{"


def _json(text: str) -> Any:
    try:
        return from_json(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        try:
            return _yaml(
                text
            )  # what people write into JSON is often YAML: trailing commas, remarks
        except _Wrong:
            raise _Wrong(_said(error.msg), (error.lineno, error.colno)) from None
    except (ValueError, RecursionError) as error:
        raise _Wrong(_reason(error)) from None


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _Wrong(f"{brief(twice)} is given twice")
    return found


def _yaml(text: str) -> Any:
    try:
        _check_size(text)
        return yaml.load(text, Loader=_Careful)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = error.problem or error.context or "no YAML"
        raise _Wrong(_said(said), None if mark is None else _place(mark)) from None
    except yaml.reader.ReaderError as error:
        raise _Wrong(_said(error.reason), _place_at(text, error.position)) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _Wrong(_reason(error)) from None


def _check_size(text: str) -> None:
    """Goes through the file once, without building anything of it.

    Aliases are counted as large as what they name: nine times nine times ... is soon all memory.
    """
    sizes: dict[str, int] = {}
    open_parts: list[tuple[str | None, int]] = []
    total = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                _refuse(event, f"alias {brief(event.anchor)} is unknown, or within what it names")
            total += sizes[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            if event.anchor is not None:
                sizes.pop(event.anchor, None)
            total += 1
            open_parts.append((event.anchor, total))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_parts.pop()
            if anchor is not None:
                sizes[anchor] = total - before + 1
        if len(open_parts) > DEEPEST:
            _refuse(event, f"nested more than {DEEPEST} levels deep")
        if total > MOST_VALUES:
            _refuse(event, f"more than {MOST_VALUES} values")


def _refuse(event: Any, told: str) -> NoReturn:
    raise _Wrong(told, _place(event.start_mark))


class _Careful(_Loader):
    """Safe YAML that refuses what is given twice, and tells where a value cannot be."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            kind = node.tag.rpartition(":")[2]
            if isinstance(error, ValueError) and str(error).startswith("Exceeds the limit"):
                raise _Wrong("a number of too many digits", _place(node.start_mark)) from None
            raise _Wrong(f"no value of type {brief(kind)}", _place(node.start_mark)) from None

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[Any] = set()
        for key, _ in getattr(node, "value", ()):
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise _Wrong(f"{brief(key.value)} is given twice", _place(key.start_mark))
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _place(mark: Any) -> tuple[int, int]:
    return mark.line + 1, mark.column + 1


def _place_at(text: str, position: int) -> tuple[int, int]:
    before = text[:position]
    return before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1


def _said(text: str) -> str:
    return shortened(printable(" ".join(text.split())), SAID)


def _reason(error: BaseException) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8"
    if isinstance(error, ValueError) and str(error).startswith("Exceeds the limit"):
        return "a number of too many digits"
    return shortened(one_line(error), SAID)
