"""Words of a command line to typed values."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest

from epvf.cli.arguments import Option, Shown, fields, parse, read, split
from epvf.errors import UserError


@dataclass(frozen=True)
class Options:
    """Do something.

    At length.

    Attributes:
        where, whither: folders.
        count: how many.
        rate: how fast.
        sizes: of all.
        kind: of which.
        name: what for.
        quick: whether to hurry.
    """

    where: Annotated[Path, Shown("WHERE", positional=True)]
    count: int | None = None
    rate: float = 0.5
    sizes: tuple[float, ...] = (1.0, 2.0)
    kind: Literal["one", "two"] = "one"
    name: Annotated[str | None, Shown("NAME", default="whose it is")] = None
    quick: bool = False


def _read(*words):
    return read(Options, "epvf do", words)


def test_values_are_of_their_types():
    words = "--count 25e2 here --rate=3 --sizes 1 2.5 --kind two --name 5 --quick"
    assert _read(*words.split()) == Options(
        Path("here"), 2500, 3.0, (1.0, 2.5), "two", "5", quick=True
    )


def test_what_is_not_given_stays_as_it_is():
    assert _read("here") == Options(Path("here"))


@pytest.mark.parametrize(
    ("words", "value"),
    [("--sizes none", ()), ("--sizes -1 -2e-3", (-1.0, -0.002)), ("--sizes=4", (4.0,))],
)
def test_lists(words, value):
    assert _read("here", *words.split()).sizes == value


def test_none_and_a_repeated_option():
    assert _read("x", "--count", "none").count is None
    assert _read("x", "--count", "3", "--count", "4").count == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "missing: WHERE; see epvf do --help"),
        ("a b", "unexpected argument 'b'; see epvf do --help"),
        ("a --cuont 3", r"unknown option --cuont \(did you mean --count\?\); see epvf do --help"),
        ("a --xyz", "unknown option --xyz; see epvf do --help"),
        ("a --count", "option --count needs a value"),
        ("a --count --quick", "option --count needs a value"),
        ("a --sizes", "option --sizes needs a value"),
        ("a --quick=yes", "option --quick takes no value"),
        ("a --quick yes", "unexpected argument 'yes'"),
        ("a --count x", "count must be of type int, not 'x'"),
        ("a --count 2.5", "count must be of type int, not 2.5"),
        ("a --rate none", "rate must be of type float, not None"),
        ("a --rate x", "rate must be a number, not 'x'"),
        ("a --sizes 1 x", "sizes must be a number, not 'x'"),
        ("a --kind three", "unknown value for kind: 'three'; valid: one, two"),
        ("a -x", "unexpected argument '-x'"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(words, message):
    with pytest.raises(UserError, match=f"^{message}") as caught:
        _read(*words.split())
    assert "\n" not in str(caught.value)


def test_help_tells_types_defaults_and_the_docstring(capsys):
    with pytest.raises(SystemExit) as end:
        _read("--help", "--nonsense")
    assert not end.value.code
    out = " ".join(capsys.readouterr().out.split())
    for text in (
        "usage: epvf do [-h] [OPTIONS] WHERE",
        "Do something. At length.",
        "folders. (required)",
        "--count INT|none",
        "how many. (default: none)",
        "--sizes [FLOAT ...]",
        "of all. (default: 1.0 2.0)",
        "--kind {one,two}",
        "what for. (default: whose it is)",
    ):
        assert text in out
    assert "--no-quick" not in out


GROUPED = [
    Option("task", str, shown=Shown("TASK", positional=True)),
    Option("value.hidden_sizes", tuple[int, ...], (8,)),
    Option("value.layer_norm", bool, True),
    Option("num_envs", int, 4),
]


def test_options_of_a_group_with_hyphens_or_underscores():
    words = ["--value.hidden_sizes", "4", "3", "--value.no-layer_norm", "--num-envs", "2", "ant"]
    # a list takes all to the next option
    assert split(GROUPED, words).named["value.hidden_sizes"] == ["4", "3"]
    assert parse(GROUPED, "epvf do", words, "Do.") == {
        "task": "ant",
        "value.hidden_sizes": (4, 3),
        "value.layer_norm": False,
        "num_envs": 2,
    }


def test_a_reason_for_an_option_that_is_not_there():
    def explain(flag):
        return "not today" if flag == "--value.rate" else None

    for flag in ("--value.rate", "--value.rate=3"):
        with pytest.raises(UserError, match=r"^not today$"):
            parse(GROUPED, "epvf do", ["ant", flag], "Do.", explain=explain)
    with pytest.raises(UserError, match=r"did you mean --value.hidden-sizes\?"):
        parse(GROUPED, "epvf do", ["ant", "--hidden-sizes", "3"], "Do.", explain=explain)


def test_words_are_told_apart_even_where_some_are_wrong():
    words = split(GROUPED, ["--foo", "3", "--num-envs", "2", "ant", "--value.layer-norm"])
    assert words.loose == ["ant"]
    assert words.named == {"num_envs": ["2"], "value.layer_norm": []}


def test_several_attributes_may_share_a_text():
    assert {option.name: option.text for option in fields(Options)}["where"] == "folders."
