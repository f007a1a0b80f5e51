"""A few damaged and foreign inputs of each kind; `tests/fuzz.py` as a script tries 1,300."""

import pytest

from fuzz import KINDS, Fuzzer


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory):
    return Fuzzer(tmp_path_factory.mktemp("fuzz").resolve() / "f", seed=1)


NUMBERS = {"config": 8, "options": 8, "policy": 6, "run": 4, "checkpoint": 1, "plan": 1}
SLOW_NUMBERS = {"config": 40, "options": 30, "policy": 25, "run": 30, "checkpoint": 16, "plan": 8}


def test_every_kind_is_tried():
    assert NUMBERS.keys() == SLOW_NUMBERS.keys() == KINDS.keys()


@pytest.mark.parametrize("kind", NUMBERS)
def test_damaged_input_is_refused_in_a_line_and_changes_nothing_else(kind, fuzzer):
    assert [found for i in range(NUMBERS[kind]) if (found := fuzzer.try_one(kind, i))] == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", SLOW_NUMBERS)
def test_much_damaged_input_is_refused_in_a_line_and_changes_nothing_else(kind, fuzzer):
    numbers = range(NUMBERS[kind], SLOW_NUMBERS[kind])
    assert [found for i in numbers if (found := fuzzer.try_one(kind, i))] == []


@pytest.mark.slow
def test_a_run_that_goes_on_for_ever_is_ended_and_is_no_hang(fuzzer, monkeypatch):
    monkeypatch.setattr("fuzz.LONG", 2.0)
    words = ["resume", "run", "--iterations", "1000000"]
    monkeypatch.setitem(KINDS, "run", lambda rng, place, outside: words)
    assert fuzzer.try_one("run", 0) is None
    assert fuzzer.codes[130] == 1
