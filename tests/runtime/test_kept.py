"""Loops are kept on disk where they can be, and compiled all the same where not."""

from pathlib import Path

import numba

from epvf.runtime import kept as module


def double(x):
    return 2 * x


def test_where_nothing_can_be_kept_it_is_compiled_afresh(monkeypatch):
    asked = []

    def njit(**options):
        asked.append(options)
        if options.get("cache"):
            # of numba, where neither the source's folder nor a home can be written
            raise RuntimeError("cannot cache function 'double': no locator available")
        return numba.njit(**options)

    monkeypatch.setattr(module, "njit", njit)
    assert module.kept(double, fastmath={"contract"})(4) == 8
    assert [one.pop("cache", False) for one in asked] == [True, False]
    assert asked[0] == asked[1] == {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}


def test_what_numba_keeps_is_asked_for_in_one_place_only():
    source = Path(module.__file__).parents[1]
    asking = [path.name for path in source.rglob("*.py") if "cache=True" in path.read_text()]
    assert asking == ["kept.py"]
