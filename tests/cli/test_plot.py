"""`epvf plot`: learning curves of runs."""

import shutil
from pathlib import Path

import pytest

from epvf.cli import plot
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


def test_a_run_is_drawn_as_it_goes_on_and_its_end_too(finished, workplace, monkeypatch, capsys):
    shutil.copytree(finished, "run")
    metrics = Path("run/metrics.jsonl")
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text(lines[0])
    plots, written = [], iter(range(2, len(lines) + 1))

    def goes_on(runs):
        file = Path("one.svg")
        plots.append(file.read_bytes())
        there = next(written, None)
        metrics.write_text("".join(lines[:there]))
        return there is not None

    monkeypatch.setattr(plot, "_any_goes_on", goes_on)
    monkeypatch.setattr(plot.time, "sleep", lambda seconds: None)
    assert main(["plot", "run", "--out", "one.svg", "--follow"]) == 0
    assert len(set(plots)) == len(plots) - 1 == len(lines) - 1
    metrics.write_text("".join(lines))
    assert main(["plot", "run", "--out", "whole.svg"]) == 0
    assert len(Path("one.svg").read_text()) == len(Path("whole.svg").read_text())


def test_a_format_that_cannot_be_written_is_refused(finished, refused):
    refused(["plot", str(finished), "--out", "one.xyz"], "cannot write one.xyz")
