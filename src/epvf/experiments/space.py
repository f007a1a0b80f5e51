"""Search spaces: which fields of a configuration may take which values.

    psvf.noise=0.2:0.8                      a range
    policy-update.learning-rate=log:1e-4:1e-2
    policy.hidden-sizes=64 64|128 128       choices
    psvf.noise=0.2:0.8:4                    four values of a range, for a grid

and the same in a YAML or JSON file, `name: 0.2:0.8`, or `name: [[64, 64], [128, 128]]`.
"""

import itertools
import math
import typing
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from epvf.config import convert, reading
from epvf.config.schema import Config, Leaf, readable, replace
from epvf.errors import UserError

FIXED = ("seed", "num_seeds", "env_steps", "iterations", "eval.interval", "task.name")
"""What a sweep sets itself, the same in every trial."""

Value: TypeAlias = bool | int | float | str
"""As a study stores it: of a list of numbers, or none, the words."""


class Span(NamedTuple):
    """A field that takes any value of a range.

    Attributes:
        name: of the field, dotted.
        low, high: ends, both of them included.
        log: whether ratios count rather than differences.
        whole: whether only whole numbers will do.
        points: of a grid; None: it was not said how many.
    """

    name: str
    low: float
    high: float
    log: bool
    whole: bool
    points: int | None

    def __str__(self) -> str:
        ends = [f"{self.low:g}", f"{self.high:g}"]
        points = [] if self.points is None else [str(self.points)]
        return ":".join(["log"] * self.log + ends + points)


class Choices(NamedTuple):
    """A field that takes one of several values.

    Attributes:
        name: of the field, dotted.
        words: of each value, as on a command line.
        values: of the configuration, in the same order.
    """

    name: str
    words: tuple[str, ...]
    values: tuple[Any, ...]

    def __str__(self) -> str:
        return "|".join(self.words)


Axis: TypeAlias = Span | Choices


def parsed(words: Sequence[str], file: Path | None, config: Config) -> list[Axis]:
    """The axes that words of a command line, and a file, name.

    Args:
        words: `name=values` each.
        file: of more of them; None: no file.
        config: what a trial changes.

    Raises:
        UserError: for a field that nothing reads, is named twice or is the sweep's own, and for
            values that are none of the field's.
    """
    asked = [_halves(word) for word in words]
    asked += [] if file is None else list(reading.read(file, flat=True).items())
    if not asked:
        raise UserError("what is to be searched? --search psvf.noise=0.2:0.8, or --space FILE")
    axes = [_axis(str(name).replace("-", "_"), value, config) for name, value in asked]
    names = [axis.name for axis in axes]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{twice[0]} is searched twice; name it once")
    for axis in axes:
        _check_ends(axis, config)
    return axes


def applied(config: Config, space: Iterable[Axis], params: dict[str, Value]) -> Config:
    """The configuration of a trial with these values of its axes.

    Raises:
        UserError: if they contradict each other.
    """
    return replace(config, {axis.name: _value(axis, params[axis.name]) for axis in space})


def grid(space: Sequence[Axis]) -> Iterator[dict[str, Value]]:
    """Every combination of values, the last axis fastest.

    Raises:
        UserError: if a range does not say how many of its values are meant.
    """
    columns = [_points(axis) for axis in space]
    for values in itertools.product(*columns):
        yield {axis.name: value for axis, value in zip(space, values, strict=True)}


def _halves(word: str) -> tuple[str, str]:
    name, equals, values = word.partition("=")
    if not equals or not name or not values:
        raise UserError(f"--search {word}: give a field and its values, such as psvf.noise=0.2:0.8")
    return name, values


def _axis(name: str, value: Any, config: Config) -> Axis:
    fields = readable(config)
    if name in FIXED:
        raise UserError(f"{name} cannot be searched: it is the same in every trial")
    if name not in fields:
        guess = get_close_matches(name, fields, n=1)
        hint = f" (did you mean {guess[0]}?)" if guess else ""
        raise UserError(
            f"method {config.method.name!r} reads no field {name}{hint}; epvf train "
            f"{config.task.name} --help lists those it reads"
        )
    leaf = fields[name]
    if isinstance(value, list):
        items = (item if isinstance(item, list) else [item] for item in value)
        return _choices(leaf, [" ".join(map(_word, item)) or "none" for item in items])
    if not isinstance(value, str):
        raise UserError(f"{name} must be a range such as 0.2:0.8 or a list, not {value!r:.60}")
    return _span(leaf, value) if ":" in value else _choices(leaf, value.split("|"))


def _word(value: Any) -> str:
    """A value of a file as on a command line."""
    return "none" if value is None else str(value)


def _span(leaf: Leaf, text: str) -> Span:
    kind = _number(leaf.hint)
    if kind is None:
        raise UserError(f"{leaf.name} takes no numbers; list its values: {leaf.name}=A|B")
    log, *rest = text.split(":") if text.startswith("log:") else ["", *text.split(":")]
    wrong = UserError(f"{leaf.name}={text}: a range is LOW:HIGH or log:LOW:HIGH, LOW below HIGH")
    try:
        numbers = [float(word) for word in rest]
    except ValueError:
        raise wrong from None
    if len(numbers) not in (2, 3) or not all(map(math.isfinite, numbers)):
        raise wrong
    low, high = numbers[:2]
    points = None if len(numbers) == 2 else numbers[2]
    if not low < high or (log and low <= 0):
        raise wrong
    if kind is int and (low % 1 or high % 1):
        raise UserError(f"{leaf.name} takes whole numbers; {text} has others")
    if points is not None and (points < 2 or points % 1):
        raise UserError(f"{leaf.name}={text}: the third number says how many values, 2 or more")
    number = None if points is None else int(points)
    return Span(leaf.name, low, high, bool(log), kind is int, number)


def _choices(leaf: Leaf, texts: Sequence[str]) -> Choices:
    words = tuple(" ".join(text.split()) for text in texts)
    if not all(words) or len(set(words)) < len(words):
        raise UserError(f"{leaf.name} has an empty or a repeated value in {'|'.join(words)}")
    values = [
        convert.convert(convert.text(word.split(), leaf.hint), leaf.hint, leaf.name)
        for word in words
    ]
    return Choices(leaf.name, words, tuple(values))


def _check_ends(axis: Axis, config: Config) -> None:
    """Refuses values that a configuration would not take, before anything has been trained."""
    ends = axis.values if isinstance(axis, Choices) else [_value(axis, x) for x in axis[1:3]]
    for end in ends:
        replace(config, {axis.name: end})


def _value(axis: Axis, stored: Value) -> Any:
    if isinstance(axis, Choices):
        return axis.values[axis.words.index(str(stored))]
    return int(stored) if axis.whole else float(stored)


def _points(axis: Axis) -> list[Value]:
    if isinstance(axis, Choices):
        return list(axis.words)
    if axis.points is None:
        raise UserError(
            f"a grid needs a number of values: {axis.name}={axis}:4, or {axis.name}=A|B|C"
        )
    parts = [i / (axis.points - 1) for i in range(axis.points)]
    if axis.log:
        values = [axis.low * (axis.high / axis.low) ** part for part in parts]
    else:
        values = [axis.low + (axis.high - axis.low) * part for part in parts]
    values[-1] = axis.high  # to the bit
    return list(dict.fromkeys(round(x) for x in values)) if axis.whole else list(values)


def _number(hint: Any) -> type | None:
    """`int` or `float` where a field takes one number of that kind."""
    if hint in (int, float):
        kind: type | None = hint
        return kind
    if typing.get_origin(hint) is tuple:
        return None
    return next((kind for part in typing.get_args(hint) if (kind := _number(part))), None)
