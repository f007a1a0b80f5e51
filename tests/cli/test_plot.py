"""`epvf plot`: learning curves of runs."""

from pathlib import Path

import pytest

from epvf.cli.main import main


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "which runs? epvf plot RUN"),
        (["nowhere"], "nowhere is no run"),
        (["nowhere", "--smooth", "0"], "smooth is 0, but must be at least 1"),
        (["nowhere", "--x", "hours"], "unknown value for x: 'hours'; valid: env-steps, iterations"),
    ],
)
def test_bad_input(words, message, refused):
    refused(["plot", *words], message)


def test_one_run_or_several_are_drawn(finished, workplace, capsys):
    assert main(["plot", str(finished), "--out", "one.svg", "--x", "iterations"]) == 0
    assert main(["plot", str(finished), str(finished)]) == 0
    assert capsys.readouterr().out == "plot: one.svg\nplot: return.png\n"
    assert Path("one.svg").stat().st_size > 1000 and Path("return.png").stat().st_size > 1000


def test_a_run_that_has_ended_is_followed_no_longer(finished, workplace, refused, capsys):
    assert main(["plot", str(finished), "--out", "one.png", "--follow"]) == 0
    assert capsys.readouterr().out == "plot: one.png\n"
    refused(["plot", str(finished), "--follow", "--every", "0"], "every is 0 s, but must be")


def test_a_format_that_cannot_be_written_is_refused(finished, refused):
    refused(["plot", str(finished), "--out", "one.xyz"], "cannot write one.xyz")
