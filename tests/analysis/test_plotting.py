"""Intervals, groups of runs, and what a figure shows."""

import numpy as np
import pytest

from epvf.analysis.plotting import (
    PERTURBED,
    UNPERTURBED,
    Curve,
    Group,
    average,
    curves,
    differences,
    draw,
    interval,
    smooth,
)
from epvf.config.presets import preset
from epvf.config.schema import replace
from epvf.runs.metrics import Record


def _records(values, seed, steps=100) -> list[Record]:
    return [
        {
            "steps/update": t + 1,
            "steps/env": (t + 1) * steps,
            "seed": seed,
            PERTURBED: value,
            UNPERTURBED: value if t % 5 == 0 else None,
        }
        for t, value in enumerate(values)
    ]


def test_the_interval_of_equal_seeds_has_no_width():
    values = np.repeat(np.arange(4.0)[None, :], 5, axis=0)
    low, high = interval(values)
    np.testing.assert_allclose(low, np.arange(4.0))
    np.testing.assert_allclose(high, np.arange(4.0))


def test_the_interval_is_about_as_wide_as_the_normal_one():
    values = np.random.default_rng(1).normal(3.0, 2.0, (200, 1))
    low, high = interval(values)
    half = 1.96 * values.std() / np.sqrt(200)
    np.testing.assert_allclose([low[0], high[0]], values.mean() + np.array([-half, half]), atol=0.1)


def test_curves_of_different_length_are_averaged_as_far_as_the_shortest_goes():
    found = [Curve(np.array([0.0, 10.0]), np.array([0.0, 10.0]))]
    found += [Curve(np.array([2.0, 4.0]), np.array([4.0, 8.0]))]
    band = average(found)
    assert (band.x[0], band.x[-1]) == (2.0, 4.0)
    np.testing.assert_allclose(band.mean, 1.5 * band.x)


def test_over_seconds_a_seed_that_has_ended_keeps_its_last_value():
    fast, slow = (_records(range(1, 11), seed) for seed in (0, 1))
    for records, factor in ((fast, 1.0), (slow, 2.0)):
        for record in records:
            record["time/wall"] = factor * record["steps/update"]
    groups = [Group(name, [fast, slow]) for name in ("one", "other")]
    for ended, end, value in ((True, 20.0, 10.0), (False, 10.0, 7.5)):
        over_steps, over_seconds, *_ = draw(groups, ("env-steps", "seconds"), ended=ended).axes
        line = over_seconds.lines[0]
        assert np.max(line.get_xdata()) == pytest.approx(end)
        assert np.asarray(line.get_ydata())[-1] == pytest.approx(value)
        assert np.max(over_steps.lines[0].get_xdata()) == 1000.0


def test_points_on_a_log_axis_are_spaced_by_a_factor():
    band = average([Curve(np.array([1.0, 100.0]), np.array([1.0, 100.0]))], log=True)
    np.testing.assert_allclose(np.diff(np.log(band.x)), np.log(100.0) / 399)
    np.testing.assert_allclose(band.mean, band.x)


def test_a_running_mean_keeps_straight_lines_and_single_points():
    line = Curve(np.arange(10.0), 3.0 * np.arange(10.0))
    smoothed = smooth(line, 4)
    np.testing.assert_allclose(smoothed.y, 3.0 * smoothed.x)
    assert len(smoothed.x) == 7
    np.testing.assert_allclose(smooth(Curve(line.x[:1], line.y[:1]), 4).y, line.y[:1])


def test_what_was_not_measured_is_left_out_of_a_curve():
    (curve,) = curves(_records(range(10), seed=0), "steps/update", UNPERTURBED)
    np.testing.assert_array_equal(curve.x, [1, 6])


def test_groups_are_named_by_the_fields_that_differ():
    base = {"num_envs": 4, "policy.hidden_sizes": (), "perturbation.clip": None}
    other = base | {"num_envs": 8, "policy.hidden_sizes": (64, 64)}
    labels = differences([base, other])
    assert labels == [
        "num_envs 4, policy.hidden_sizes none",
        "num_envs 8, policy.hidden_sizes 64-64",
    ]
    assert differences([base]) == [""]


def test_methods_are_named_by_their_name_and_what_varies_within_them():
    base = {"method": "epvf", "num_envs": 4, "buffer.size": 4, "psvf.noise": 0.1}
    settings = [
        base,
        base | {"buffer.size": 8},
        base | {"method": "psvf", "num_envs": 8, "buffer.size": 9, "psvf.noise": 0.4},
    ]
    assert differences(settings) == [
        "epvf, num_envs 4, buffer.size 4",
        "epvf, num_envs 4, buffer.size 8",
        "psvf, num_envs 8",
    ]
    assert differences([base, settings[2] | {"num_envs": 4}]) == ["epvf", "psvf"]
    both = [base | {"task.name": "ant"}, settings[2] | {"task.name": "hopper"}]
    assert differences(both) == ["ant epvf, num_envs 4", "hopper psvf, num_envs 8"]


def test_long_labels_leave_room_for_the_curves():
    groups = [Group(f"group {i}, " + "a.field 1.0, " * 60, [_records(range(9), 0)]) for i in "ab"]
    figure = draw(groups)
    figure.canvas.draw()
    assert min(axes.get_position().width for axes in figure.axes) > 0.2


def test_a_figure_has_a_row_a_quantity_and_a_line_a_group():
    groups = [Group(f"g{i}", [_records(np.arange(20.0) + i, s) for s in (0, 1)]) for i in range(3)]
    figure = draw(groups, ("env-steps", "iterations"), "title", best=19.0, notes=["a", "b"])
    assert len(figure.axes) == 4
    assert [line.get_label() for line in figure.axes[0].lines[:3]] == ["g0", "g1", "g2"]
    drawn = np.asarray(figure.axes[1].lines[2].get_ydata())
    np.testing.assert_allclose(drawn[[0, -1]], [2.0, 21.0])
    assert "mean of 2 seeds, 95 % CI" in figure.get_suptitle()


def test_env_steps_are_drawn_on_a_log_axis_where_groups_differ_much_in_length():
    groups = [Group(str(s), [_records(range(10), 0, s)]) for s in (100, 1000)]
    scales = [axes.get_xscale() for axes in draw(groups, ("env-steps", "iterations")).axes]
    assert scales == ["linear", "linear", "log", "linear"] or scales == ["log", "linear"] * 2
    assert draw(groups[:1]).axes[0].get_xscale() == "linear"


def test_seconds_are_drawn_on_a_log_axis_where_groups_differ_much_in_them():
    fast, slow = (_records(range(10), 0) for _ in range(2))
    for records, factor in ((fast, 1.0), (slow, 100.0)):
        for record in records:
            record["time/wall"] = factor * record["steps/update"]
    groups = [Group("fast", [fast]), Group("slow", [slow])]
    panels = draw(groups, ("seconds",)).axes
    assert [axes.get_xscale() for axes in panels] == ["log", "log"]
    shown = [panels[1].xaxis.get_major_formatter()(value) for value in (0.02, 10.0, 1000.0)]
    assert shown == ["0.02", "10", "1000"]
    assert [axes.get_xscale() for axes in draw(groups).axes] == ["linear", "linear"]


def test_more_groups_than_colours_are_told_apart():
    groups = [Group(str(i), [_records(range(10), 0)]) for i in range(25)]
    lines = draw(groups).axes[0].lines[:25]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 25


def test_a_single_group_shows_both_quantities_in_one_panel():
    figure = draw([Group("only", [_records(range(10), 0)])])
    (axes,) = figure.axes
    assert len(axes.lines) == 2 and "one seed" in figure.get_suptitle()


@pytest.mark.parametrize("delta", [{"seed": 5}, {"num_seeds": 3}, {"checkpoint.keep": 7}])
def test_seeds_and_checkpoints_do_not_make_a_group(delta):
    from epvf.analysis.plotting import _distinguishing

    base = preset("cartpole")
    assert _distinguishing(replace(base, delta)) == _distinguishing(base)
