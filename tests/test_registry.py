"""Names, and where their objects come from."""

import math
import subprocess
import sys

import pytest

from epvf.errors import UserError
from epvf.registry import Entry, Registry, load

GROUP = "epvf_test_things"


@pytest.fixture
def offer(tmp_path, monkeypatch):
    """Installs a distribution whose entry points these are, in a folder on the path."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(distribution: str, points: dict[str, str], **modules: str) -> None:
        info = tmp_path / f"{distribution}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n"
        )
        lines = [f"{name} = {value}" for name, value in points.items()]
        (info / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *lines]))
        for name, text in modules.items():
            (tmp_path / f"{name}.py").write_text(text)

    return install


def test_objects_and_lazy_ones() -> None:
    things: Registry = Registry("thing", {"two": 2, "pi": "math:pi"})
    assert things.names() == ("two", "pi")
    assert (things["two"], things["pi"]) == (2, math.pi)
    assert "two" in things and "three" not in things
    assert things.entries() == (Entry("two", "epvf"), Entry("pi", "epvf"))


def test_nothing_is_imported_before_it_is_asked_for() -> None:
    code = (
        "import sys; from epvf.registry import Registry;"
        "things = Registry('thing', {'pdb': 'pdb:Pdb'}, 'epvf_test_things'); 'pdb' in things;"
        "assert 'pdb' not in sys.modules and 'importlib.metadata' not in sys.modules;"
        "things['pdb']; assert 'pdb' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_lists_the_valid_ones_and_the_nearest() -> None:
    things = Registry("thing", {"square": 1, "round": 2})
    with pytest.raises(UserError, match=r"^unknown thing 'squar' \(did you mean 'square'\?\); valid: square, round$"):  # noqa: E501  # fmt: skip
        things["squar"]


def test_what_is_registered_is_found_and_a_name_has_one_owner() -> None:
    things: Registry = Registry("thing", {"two": 2})
    things.register("pi", "math:pi")
    things.register("pi", "math:pi")  # the same again, as when a notebook's cell runs twice
    assert things["pi"] == math.pi
    assert things.entries()[-1] == Entry("pi", "registered")
    for name in ("two", "pi"):
        with pytest.raises(UserError, match=f"there already is a thing '{name}'"):
            things.register(name, 3)


def test_entry_points_of_other_packages(offer) -> None:
    offer("zeta", {"b": "zeta_module:value.real"}, zeta_module="value = 7")
    offer("alpha", {"a": "alpha_module:VALUE"}, alpha_module="VALUE = 'seven'")
    things: Registry = Registry("thing", {"own": 1}, GROUP)
    assert things.names() == ("own", "a", "b")
    assert things.entries() == (Entry("own", "epvf"), Entry("a", "alpha"), Entry("b", "zeta"))
    assert (things["a"], things["b"]) == ("seven", 7)
    assert things.broken() == {}
    with pytest.raises(UserError, match="already is a thing 'a'"):
        things.register("a", 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_module_anywhere", "ModuleNotFoundError: No module named"),
        ("raise RuntimeError('line one\\nline two')", "RuntimeError: line one$"),
        ("other = 1", "has no attribute 'VALUE'"),
    ],
)
def test_an_entry_point_that_fails_is_named_and_takes_no_other_down(offer, text, message) -> None:
    offer("sound", {"good": "sound_module:VALUE"}, sound_module="VALUE = 7")
    offer("bad", {"wrong": "bad_module:VALUE"}, bad_module=text)
    sys.modules.pop("bad_module", None)
    things: Registry = Registry("thing", {}, GROUP)
    with pytest.raises(UserError, match=rf"thing 'wrong' of package 'bad': .*{message}") as error:
        things["wrong"]
    assert "\n" not in str(error.value)
    assert things["good"] == 7
    assert things.broken() == {"wrong": str(error.value)}


def test_a_name_that_clashes_is_ignored_and_told(offer) -> None:
    offer("greedy", {"own": "math:e", "shared": "math:e"})
    offer("aaa", {"shared": "math:pi"})
    things: Registry = Registry("thing", {"own": 1}, GROUP)
    assert (things["own"], things["shared"]) == (1, math.pi)
    assert things.names() == ("own", "shared")
    wrong = things.broken()
    assert set(wrong) == {"own", "shared"}
    assert "'greedy' is ignored, since 'epvf' has one" in wrong["own"]
    assert "'greedy' is ignored, since 'aaa' has one" in wrong["shared"]


@pytest.mark.parametrize("reference", ["math:no_such", "no_such_module:x", "math:pi.no"])
def test_load_tells_what_is_missing(reference) -> None:
    with pytest.raises(UserError, match=r"has no attribute|cannot import"):
        load(reference)


def test_an_object_of_another_kind_is_refused_in_words() -> None:
    numbers = Registry("number", {"two": 2, "pi": "math:pi"}, wanted=int)
    assert numbers["two"] == 2
    with pytest.raises(UserError, match="is of type float, not int"):
        numbers["pi"]
