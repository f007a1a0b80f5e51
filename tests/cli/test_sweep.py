"""`epvf sweep`: what it refuses, before anything is written."""

import sys

import pytest

pytest.importorskip("optuna", reason="the extra sweep is not installed")

QUICK = ("sweep", "cartpole", "--preset", "debug", "--env-steps", "3e3")
SEARCH = ("--search", "perturbation.scale=0.1:1")
BAD = [
    (["sweep"], "missing: TASK"),
    (["sweep", "cartpole", *SEARCH], "how many env steps?"),
    ([*QUICK], "what is to be searched?"),
    ([*QUICK, *SEARCH, "--sampler", "tpee"], "unknown sampler 'tpee' (did you mean 'tpe'?)"),
    ([*QUICK, *SEARCH, "--pruner", "median"], "unknown pruner 'median'"),
    ([*QUICK, *SEARCH, "--metric", "x"], "unknown metric 'x'"),
    ([*QUICK, *SEARCH, "--sampler", "grid"], "a grid needs a number of values"),
    ([*QUICK, *SEARCH, "--trials", "0"], "trials is 0, but must be at least 1"),
    ([*QUICK, *SEARCH, "--seeds", "0"], "seeds is 0, but must be at least 1"),
    ([*QUICK, *SEARCH, "--method", "sac"], "method 'sac' cannot learn task 'cartpole'"),
    ([*QUICK, *SEARCH, "--space", "none.yaml"], "cannot read config none.yaml"),
    ([*QUICK, *SEARCH, "--jobs", "0"], "jobs is 0"),
]


@pytest.mark.parametrize(("words", "message"), BAD)
def test_bad_input_is_one_line_and_nothing_is_written(words, message, refused):
    refused(words, message)


def test_a_storage_that_cannot_be_used_leaves_no_folder(refused, workplace):
    (workplace / "notes.db").write_text("This is no database.\n" * 100)
    refused([*QUICK, *SEARCH, "--storage", "notes.db"], "cannot use storage notes.db")


def test_a_missing_extra_is_named(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    refused([*QUICK, *SEARCH], "a sweep needs optuna: pip install 'epvf[sweep]'")
