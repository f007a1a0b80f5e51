"""Words of a command line to typed values: read and documented by tyro, refused in one line.

A command's options are the fields of a dataclass, documented in its docstring:

    @dataclass(frozen=True)
    class Options:
        '''Roll out a policy.

        Attributes:
            what: folder of a run.
            episodes: rollouts.
        '''

        what: Annotated[Path, Shown("RUN", positional=True)]
        episodes: int = 100

    asked = read(Options, "epvf eval", argv)
"""

import dataclasses
import io
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import docstring_parser
import tyro

from epvf.errors import UserError, brief, shortened

T = TypeVar("T")

REQUIRED: Any = object()
"""As a default: there is none."""

HELP = ("-h", "--help")

LATEST = Path("latest")
"""Stands for the newest run in `runs/`."""


class Shown(NamedTuple):
    """What help says of an option, beside what its type and default say.

    Attributes:
        metavar: stands for the value.
        positional: whether it is given by its place rather than by its name.
        default: in words, where the value tells nothing.
        missing: the complaint where a required one is not given.
    """

    metavar: str = ""
    positional: bool = False
    default: str = ""
    missing: str = ""


PLAIN = Shown()
"""Nothing more than type and default say."""


@dataclasses.dataclass(frozen=True)
class Option:
    """One value that a command takes.

    Attributes:
        name: dotted where it is of a group: `psvf.noise`.
        hint: annotation of the value.
        default: where it is not given; `REQUIRED`: it must be.
        text: what it is.
        shown: what else help says.
    """

    name: str
    hint: Any
    default: Any = REQUIRED
    text: str = ""
    shown: Shown = PLAIN

    @property
    def flag(self) -> str:
        """As it is given: `--policy-update.learning-rate`."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def negation(self) -> str:
        """As a switch is turned off: `--value.no-layer-norm`."""
        group, _, last = self.flag[2:].rpartition(".")
        return f"--{group}.no-{last}" if group else f"--no-{last}"

    @property
    def switch(self) -> bool:
        """Whether it takes no value."""
        return _bare(self.hint) is bool

    @property
    def many(self) -> bool:
        """Whether it takes a list."""
        return typing.get_origin(_bare(self.hint)) is tuple


class Words(NamedTuple):
    """A command line, taken apart.

    Attributes:
        named: option's name to the words given with it.
        loose: those that belong to no option.
    """

    named: dict[str, list[str]]
    loose: list[str]


def read(kind: type[T], prog: str, argv: Sequence[str]) -> T:
    """The options of a command, an instance of the dataclass `kind`; `--help` prints and exits.

    Raises:
        UserError: for an unknown option, a missing value, or one of the wrong type.
    """
    options = fields(kind)
    found = parse(options, prog, argv, about(kind))
    return kind(**{option.name: _named(option, found[option.name]) for option in options})


def _named(option: Option, value: Any) -> Any:
    """A value in which `latest` is the newest run, where a run is asked for."""
    if not (option.shown.positional and option.shown.metavar.startswith("RUN")):
        return value
    paths = value if isinstance(value, tuple) else (value,)
    if LATEST not in paths or LATEST.exists():
        return value
    from epvf.runs.listing import latest

    paths = tuple(latest() if path == LATEST else path for path in paths)
    return paths if isinstance(value, tuple) else paths[0]


def fields(kind: Any) -> list[Option]:
    """The options that a dataclass stands for."""
    hints, said = typing.get_type_hints(kind, include_extras=True), texts(kind)
    return [
        Option(
            item.name,
            hints[item.name],
            REQUIRED if item.default is dataclasses.MISSING else item.default,
            said.get(item.name, ""),
            _marked(hints[item.name]),
        )
        for item in dataclasses.fields(kind)
    ]


def about(kind: type) -> str:
    """What a class's docstring says before its attributes."""
    parsed = docstring_parser.parse(kind.__doc__ or "")
    parts = (parsed.short_description, parsed.long_description)
    return "\n\n".join(part for part in parts if part)


def texts(kind: type) -> dict[str, str]:
    """What a class's docstring says of its attributes."""
    parsed = docstring_parser.parse(kind.__doc__ or "")
    return {
        name.strip(): " ".join((param.description or "").split())
        for param in parsed.params
        for name in param.arg_name.split(",")
    }


def asks_help(argv: Sequence[str]) -> bool:
    """Whether `--help` is asked for, so that nothing else is to be complained about."""
    return any(word in HELP for word in argv)


def parse(
    options: Sequence[Option],
    prog: str,
    argv: Sequence[str],
    description: str,
    groups: Mapping[str, str] | None = None,
    explain: Callable[[str], str | None] = lambda flag: None,
) -> dict[str, Any]:
    """Values of all options by name; `--help` prints and exits.

    Args:
        options: that the command takes.
        prog: what the command is called.
        argv: the words after it.
        description: of the command, for its help.
        groups: what a group of options is, for the help.
        explain: why there is no such option here, or None where there is none at all.

    Raises:
        UserError: for an unknown option, a missing value, or one of the wrong type.
    """
    if not asks_help(argv):
        _check_loose(options, split(options, argv, prog, explain).loose, prog)
    kind = _dataclass(options, groups or {}, prog)
    boxes = io.StringIO()
    try:
        with redirect_stderr(boxes):
            found = tyro.cli(
                kind,
                prog=prog,
                # help tells all options, also those that are given
                args=["--help"] if asks_help(argv) else list(argv),
                description=description,
                config=(tyro.conf.HelptextFromCommentsOff,),
            )
    except SystemExit as end:
        if not end.code:
            raise
        raise UserError(
            f"{shortened(_condensed(boxes.getvalue()), 120)}; see {prog} --help"
        ) from None
    return {option.name: _value_of(found, option.name) for option in options}


def split(
    options: Sequence[Option],
    argv: Sequence[str],
    prog: str | None = None,
    explain: Callable[[str], str | None] = lambda flag: None,
) -> Words:
    """Tells options, their values and other words apart.

    Args:
        options: that there are.
        argv: the words.
        prog, explain: as for `parse`; without `prog` what is wrong is left out, not refused.

    Raises:
        UserError: for an unknown option or a missing value.
    """
    spelled = {option.flag: option for option in options if not option.shown.positional}
    spelled |= {option.negation: option for option in spelled.values() if option.switch}
    words, rest = Words({}, []), list(argv)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            words.loose.append(word)
            continue
        name, equals, given = word.partition("=")
        option = spelled.get(name.replace("_", "-"))
        if option is None:
            if prog is not None:
                raise _unknown(name, spelled, prog, explain)
            _take(rest, many=True)
            continue
        values = [given] if equals else [] if option.switch else _take(rest, option.many)
        if prog is not None:
            _check_given(option, name, values, prog)
        words.named[option.name] = values
    return words


def _take(rest: list[str], many: bool) -> list[str]:
    """Removes from the front what an option's value can be: one word, or all to the next option."""
    end = next((i for i, word in enumerate(rest) if word.startswith("--")), len(rest))
    end = end if many else min(end, 1)
    taken = rest[:end]
    del rest[:end]
    return taken


def _check_given(option: Option, name: str, given: list[str], prog: str) -> None:
    if option.switch and given:
        raise UserError(f"option {brief(name)[1:-1]} takes no value; see {prog} --help")
    if not option.switch and not given:
        raise UserError(f"option {brief(name)[1:-1]} needs a value; see {prog} --help")


def _check_loose(options: Sequence[Option], loose: list[str], prog: str) -> None:
    places = [option for option in options if option.shown.positional]
    if len(loose) > len(places) and not any(option.many for option in places):
        raise UserError(f"unexpected argument {brief(loose[len(places)])}; see {prog} --help")
    for option in places[len(loose) :]:
        if option.default is REQUIRED:
            missing = f"missing: {metavar(option)}; see {prog} --help"
            raise UserError(option.shown.missing or missing)


def _unknown(
    name: str, spelled: Mapping[str, Option], prog: str, explain: Callable[[str], str | None]
) -> UserError:
    asked = name.replace("_", "-")
    if (reason := explain(asked)) is not None:
        return UserError(reason)
    guesses = get_close_matches(asked, spelled, n=1, cutoff=0.75)
    guesses += [flag for flag in spelled if flag.endswith(f".{asked[2:]}")]
    hint = f" (did you mean {guesses[0]}?)" if guesses else ""
    return UserError(f"unknown option {brief(name)[1:-1]}{hint}; see {prog} --help")


def _dataclass(options: Sequence[Option], groups: Mapping[str, str], name: str) -> Any:
    """The type that tyro parses into: options of a group are a dataclass in it."""
    plain: list[Any] = []
    grouped: dict[str, list[Any]] = {}
    for option in options:
        group, _, last = option.name.rpartition(".")
        default = {} if option.default is REQUIRED else {"default": option.default}
        field = (last, _annotation(option), dataclasses.field(**default))
        (grouped.setdefault(group, []) if group else plain).append(field)
    for group, members in grouped.items():
        kind = _documented(dataclasses.make_dataclass(group, members), groups.get(group, ""))
        plain.append((group, kind, dataclasses.field(default_factory=kind)))
    return _documented(dataclasses.make_dataclass("Options", plain, kw_only=True), name)


def _documented(kind: Any, text: str) -> Any:
    kind.__doc__ = text
    return kind


def _annotation(option: Option) -> Any:
    told = tyro.conf.arg(
        help=option.text,
        help_behavior_hint="(required)" if option.default is REQUIRED else _default(option),
        metavar=None if option.switch else metavar(option),
    )
    if option.switch:
        # a field of a configuration may be turned off again, what only a command knows need not
        pairs = () if "." in option.name or option.default else (tyro.conf.FlagCreatePairsOff,)
        return Annotated[(bool, told, *pairs)]
    spec: Any = tyro.constructors.PrimitiveConstructorSpec(
        nargs="*" if option.many else 1,
        metavar=metavar(option),
        instance_from_str=lambda words: value(words, option.hint, option.name),
        is_instance=lambda anything: True,
        str_from_instance=lambda anything: [str(anything)],
    )
    place = (tyro.conf.Positional,) if option.shown.positional else ()
    return Annotated[(Any, spec, told, *place)]


def value(words: list[str], hint: Any, name: str) -> Any:
    """The value that words stand for.

    Raises:
        UserError: if it is none of this type.
    """
    kind = _bare(hint)
    item = typing.get_args(kind)[0] if typing.get_origin(kind) is tuple else kind
    if item in (str, Path):
        if kind is not item:
            return tuple(map(item, words))
        return None if item is str and words == ["none"] and kind is not hint else item(words[0])
    # only now, since it loads JAX, which help must not wait for
    from epvf.config import convert

    return convert.convert(convert.text(words, _unmarked(hint)), hint, name)


def _default(option: Option) -> str:
    default = option.default
    if option.shown.default:
        told = option.shown.default
    elif isinstance(default, tuple):
        told = " ".join(map(str, default)) or "none"
    else:
        told = "none" if default is None else str(default)
    return f"(default: {told})"


def metavar(option: Option) -> str:
    return option.shown.metavar or _type_name(option.hint)


def _type_name(hint: Any) -> str:
    hint = _unmarked(hint)
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "{" + ",".join(map(str, parts)) + "}"
    if origin in (typing.Union, types.UnionType):
        return "|".join("none" if part is type(None) else _type_name(part) for part in parts)
    if origin is tuple:
        return f"[{_type_name(parts[0])} ...]"
    return str(hint.__name__).upper()


def _marked(hint: Any) -> Shown:
    marks = typing.get_args(hint)[1:] if typing.get_origin(hint) is Annotated else ()
    return next((mark for mark in marks if isinstance(mark, Shown)), PLAIN)


def _unmarked(hint: Any) -> Any:
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def _bare(hint: Any) -> Any:
    """An annotation without its marks and without None."""
    hint = _unmarked(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return _bare(next(part for part in typing.get_args(hint) if part is not type(None)))
    return hint


def _value_of(found: Any, name: str) -> Any:
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _condensed(boxes: str) -> str:
    """The words in tyro's boxes, in a line."""
    lines = (re.sub(r"[╭╮╰╯│─├┤]", "", line).strip() for line in boxes.splitlines())
    return " ".join(line for line in lines if line and "For full helptext" not in line)
