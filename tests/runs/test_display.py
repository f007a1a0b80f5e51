"""What a person sees of a run."""

import io
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from epvf.config.presets import preset
from epvf.runs.display import BARS, CURVE_WIDTH, LiveDisplay, PlainDisplay, _Trace
from epvf.training.state import Report, TrainState

CONFIG = preset("cartpole", "debug", "psvf")


def _report(update, perturbed, unperturbed, ended=1.0):
    record = {
        "steps/update": update, "steps/env": 1000 * update, "time/sps": 1e6,
        "rollout/episode_return": perturbed, "rollout/ended": ended,
        "eval/episode_return": unperturbed, "loss/value": 0.5, "value/spearman": 0.25,
    }  # fmt: skip
    learner: Any = None
    return Report(TrainState(learner, update, np.array([1000 * update]), 1.0), [record])


def _plain(*reports):
    stream = io.StringIO()
    display = PlainDisplay(stream, every=0.0)
    display.introduce({"task": "cartpole", "until": "9 iterations"})
    with display.showing(CONFIG, None):
        for report in reports:
            display.update(report)
    return stream.getvalue().splitlines()


def test_a_pipe_gets_a_line_an_iteration_with_the_best_so_far():
    nan = float("nan")
    header, *lines = _plain(_report(1, 5.0, 7.0), _report(2, 6.0, nan), _report(3, 6.5, 4.0))
    assert header == "task cartpole  until 9 iterations"
    begins = [f"iteration {i}/{CONFIG.iterations}" for i in (1, 2, 3)]
    assert [line.split("  ")[0] for line in lines] == begins
    assert all("best 7.00" in line for line in lines) and "unperturbed return 4.00" in lines[2]


def test_a_return_of_before_any_episode_has_ended_is_told_as_such():
    first, second = _plain(_report(1, 5.0, 7.0, ended=0.0), _report(2, 6.0, 7.0, ended=0.5))[1:]
    assert "perturbed return 5.00 (no episode has ended yet)" in first
    assert "perturbed return 6.00  " in second


@pytest.mark.parametrize("count", [2, 23, 24, 100, 1000])
def test_a_small_curve_rises_with_what_it_shows(count):
    trace = _Trace()
    for value in range(count):
        trace.add(float(value))
    drawn = trace.drawn(BARS)
    assert 2 <= len(drawn) < CURVE_WIDTH and list(drawn) == sorted(drawn, key=BARS.index)
    assert drawn[0] == BARS[0] and drawn[-1] == BARS[-1]


def test_a_small_curve_of_nothing_and_of_what_stays():
    trace = _Trace()
    assert trace.drawn(BARS) == ""
    trace.add(1.0)
    assert trace.drawn(BARS) == ""
    trace.add(1.0)
    assert trace.drawn(BARS) == 2 * BARS[0]


def test_a_terminal_shows_numbers_in_a_column_beside_a_small_curve():
    stream = io.StringIO()
    display = LiveDisplay(stream)
    display._console = Console(file=stream, force_terminal=True, width=100, color_system=None)
    display.introduce({"task": "cartpole", "folder": "runs/somewhere"})
    with display.showing(CONFIG, None):
        for update in range(1, 6):
            display.update(_report(update, float(update), 2.0 * update))
    shown = stream.getvalue()
    assert "folder  runs/somewhere" in shown
    last = shown[shown.rindex("iteration") :].splitlines()
    returns = next(line for line in last if line.startswith("unperturbed return"))
    assert "10.00" in returns and returns.rstrip().endswith("▁▃▅▆█")
    both = zip(last[3:5], ("5.00", "10.00"), strict=True)
    assert len({line.index(number) + len(number) for line, number in both}) == 1
