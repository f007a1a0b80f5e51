"""What a figure shows."""

import numpy as np
import pytest

from epvf.analysis import styles
from epvf.analysis.curves import Group
from epvf.analysis.drawing import learning_curves as draw
from probes import learning_records as recorded


def test_over_seconds_a_seed_that_has_ended_keeps_its_last_value():
    fast, slow = (recorded(range(1, 11), seed) for seed in (0, 1))
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


def test_long_labels_leave_room_for_the_curves():
    groups = [Group(f"group {i}, " + "a.field 1.0, " * 60, [recorded(range(9), 0)]) for i in "ab"]
    figure = draw(groups)
    figure.canvas.draw()
    assert min(axes.get_position().width for axes in figure.axes) > 0.2


def test_a_figure_has_a_row_a_quantity_and_a_line_a_group():
    groups = [Group(f"g{i}", [recorded(np.arange(20.0) + i, s) for s in (0, 1)]) for i in range(3)]
    figure = draw(groups, ("env-steps", "iterations"), "title", best=19.0, notes=["a", "b"])
    assert len(figure.axes) == 4
    assert [line.get_label() for line in figure.axes[0].lines[:3]] == ["g0", "g1", "g2"]
    drawn = np.asarray(figure.axes[1].lines[2].get_ydata())
    np.testing.assert_allclose(drawn[[0, -1]], [2.0, 21.0])
    assert "mean of 2 seeds, 95 % CI" in figure.get_suptitle()


def test_env_steps_are_drawn_on_a_log_axis_where_groups_differ_much_in_length():
    groups = [Group(str(s), [recorded(range(10), 0, s)]) for s in (100, 1000)]
    scales = [axes.get_xscale() for axes in draw(groups, ("env-steps", "iterations")).axes]
    assert scales == ["linear", "linear", "log", "linear"] or scales == ["log", "linear"] * 2
    assert draw(groups[:1]).axes[0].get_xscale() == "linear"


def test_seconds_are_drawn_on_a_log_axis_where_groups_differ_much_in_them():
    fast, slow = (recorded(range(10), 0) for _ in range(2))
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
    groups = [Group(str(i), [recorded(range(10), 0)]) for i in range(25)]
    lines = draw(groups).axes[0].lines[:25]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 25


def test_a_single_group_shows_both_quantities_in_one_panel():
    figure = draw([Group("only", [recorded(range(10), 0)])])
    (axes,) = figure.axes
    assert len(axes.lines) == 2 and "one seed" in figure.get_suptitle()


def test_the_title_names_task_and_method_and_ours_lie_in_front():
    groups = [Group(m, [recorded(range(30), 0)], m, "ant") for m in ("psvf", "openes", "ppo")]
    figure = draw(groups, title="more")
    assert figure.get_suptitle().startswith("ant: psvf, openes, ppo\nmore\n")
    ours, *others = figure.axes[0].lines
    assert all(ours.get_zorder() > other.get_zorder() for other in others)
    assert [line.get_color() for line in figure.axes[0].lines] == [
        styles.of_method(m).colour for m in ("psvf", "openes", "ppo")
    ]
    many = [Group(m, [recorded(range(9), 0)], m, "ant") for m in "abcdef"]
    assert draw(many).get_suptitle().startswith("ant: 6 methods\n")


def test_markers_stand_where_something_was_measured():
    (axes,) = draw([Group("", [recorded(range(11), 0)], "psvf", "ant")]).axes
    perturbed, unperturbed = axes.lines
    for line, count in ((perturbed, 11), (unperturbed, 3)):
        marked = np.asarray(line.get_xdata())[np.asarray(line.get_markevery())]
        assert len(marked) == count
    np.testing.assert_allclose(marked, [100.0, 600.0, 1100.0], atol=3.0)
    (axes,) = draw([Group("", [recorded(range(300), 0)])]).axes
    assert axes.lines[0].get_markevery() == []


def test_returns_of_before_any_episode_had_ended_are_left_out_and_that_is_said():
    records = recorded(range(10), 0)
    for record in records:
        record["rollout/ended"] = float(record["steps/update"] > 4)
    figure = draw([Group("", [records], "psvf", "ant")])
    perturbed, unperturbed = figure.axes[0].lines
    begins = [np.asarray(line.get_xdata())[0] for line in (perturbed, unperturbed)]
    assert begins == [500.0, 100.0]
    assert "perturbed returns begin where the first episode has ended" in figure.get_suptitle()
