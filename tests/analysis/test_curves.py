"""Groups of runs, and curves of different lengths on one axis."""

import numpy as np
import pytest

from epvf.analysis.curves import (
    UNPERTURBED,
    Curve,
    _distinguishing,
    average,
    curves,
    differences,
    smooth,
)
from epvf.config.presets import preset
from epvf.config.schema import replace
from probes import learning_records


def test_curves_of_different_length_are_averaged_as_far_as_the_shortest_goes():
    found = [Curve(np.array([0.0, 10.0]), np.array([0.0, 10.0]))]
    found += [Curve(np.array([2.0, 4.0]), np.array([4.0, 8.0]))]
    band = average(found)
    assert (band.x[0], band.x[-1]) == (2.0, 4.0)
    np.testing.assert_allclose(band.mean, 1.5 * band.x)


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
    (curve,) = curves(learning_records(range(10), seed=0), "steps/update", UNPERTURBED)
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


@pytest.mark.parametrize("delta", [{"seed": 5}, {"num_seeds": 3}, {"checkpoint.keep": 7}])
def test_seeds_and_checkpoints_do_not_make_a_group(delta):
    base = preset("cartpole")
    assert _distinguishing(replace(base, delta)) == _distinguishing(base)
