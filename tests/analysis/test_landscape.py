"""The plane around θ: what is true there, what V says, and where it is fooled."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from epvf.analysis import landscape, value_drawing
from epvf.analysis.landscape import Returns, _line, _orthogonal, _rank_correlation, _reach
from epvf.analysis.restore import restore
from epvf.errors import UserError
from epvf.runs.trail import Trail

RUNS = Path(__file__).resolve().parents[1] / "fixtures" / "v0.1.0"
QUICK: dict[str, Any] = {"points": 3, "detail": 2, "episodes": 2}


@pytest.fixture
def truth(monkeypatch):
    """Returns are the first weight, and known exactly; V is told by the test."""

    def set_value(of):
        monkeypatch.setattr(landscape, "_value", lambda around, key, thetas: of(thetas[:, 0]))

    def returns(setup, key, thetas, episodes):
        first = thetas[:, 0].astype(np.float64)
        return Returns(first, np.full(len(first), 1e-3))

    monkeypatch.setattr(landscape, "_returns", returns)
    return set_value


def test_v_that_is_right_up_to_a_line_is_never_fooled(truth):
    truth(lambda first: 7.0 - 3.0 + 0.5 * first.astype(np.float64))
    found = landscape.landscape(RUNS / "epvf", along="random", **QUICK)
    assert found["fooled"] == 0.0 and found["spearman"] == pytest.approx(1.0)
    assert found["line"]["slope"] == pytest.approx(2.0, rel=1e-3)
    value = np.array(found["value"])
    assert value.shape == (5, 5) and len(found["points"]) == 9
    for point in found["points"]:
        side = np.array(found["beta"])
        row, column = (np.argmin(np.abs(side - point[name])) for name in ("beta", "alpha"))
        assert value[row, column] == pytest.approx(point["return"], abs=1e-3)
    middle = found["points"][4]
    assert (middle["alpha"], middle["beta"]) == (0.0, 0.0)
    theta = restore(RUNS / "epvf").around().theta
    assert middle["return"] == pytest.approx(float(theta[0]), abs=1e-5)


def test_v_that_ranks_backwards_is_fooled_where_returns_differ(truth):
    truth(lambda first: -first.astype(np.float64))
    found = landscape.landscape(RUNS / "epvf", along="random", **QUICK)
    assert found["spearman"] == pytest.approx(-1.0) and found["line"]["slope"] == 0.0
    off = [p["fooled"] for p in found["points"]]
    assert sum(off) >= 6
    figure = value_drawing.landscape(found)
    assert "cartpole, epvf" in figure.get_suptitle() and "-1.00" in figure.get_suptitle()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["epvf", "psvf"])
def test_a_run_of_either_value_function_is_measured(name, tmp_path):
    found = landscape.landscape(RUNS / name, along="gradient", **QUICK)
    assert found["along"][0] == "∇V" and np.isfinite(found["value"]).all()
    assert all(np.isfinite(point["return"]) for point in found["points"])
    landscape.write(tmp_path / "landscape", found)
    assert (tmp_path / "landscape" / "landscape.png").stat().st_size > 10_000
    read = landscape.read(tmp_path / "landscape")
    assert read is not None and read["value"] == found["value"]
    assert landscape.read(tmp_path) is None
    (tmp_path / "landscape.json").write_text('{"format": "other"}')
    with pytest.raises(UserError, match="has format 'other'"):
        landscape.read(tmp_path)


def test_the_plane_of_a_trail_holds_where_theta_has_been(tmp_path, truth, monkeypatch):
    truth(lambda first: first.astype(np.float64))
    theta = np.asarray(restore(RUNS / "epvf").around().theta)
    rng = np.random.default_rng(0)
    one, other = 0.1 * rng.standard_normal((2, len(theta)))
    trail = Trail(tmp_path / "trail", 0)
    for update, (a, b) in enumerate([(3.0, 0.5), (2.0, 1.0), (1.0, 1.0), (0.0, 0.0)]):
        trail.note(update, (theta + a * one + b * other)[None].astype(np.float32))
    trail.save()
    monkeypatch.setattr(landscape, "trail_path", lambda run: tmp_path / "trail")
    found = landscape.landscape(RUNS / "epvf", **QUICK)
    assert found["trail_seen"] == pytest.approx(1.0, abs=1e-3) and len(found["trail"]) == 4
    assert found["trail_updates"] == [0, 1, 2, 3]
    start, *_, end = np.array(found["trail"])
    assert start[0] < -0.1 and np.abs(end).max() < 1e-3
    assert found["alpha"][-1] >= np.abs(found["trail"]).max()


def test_a_run_without_a_trail_has_no_plane_of_it():
    with pytest.raises(UserError, match="does not know where its policy has been"):
        landscape.landscape(RUNS / "epvf", along="trail", **QUICK)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"points": 4}, "points is 4, but must be odd"),
        ({"episodes": 1}, "episodes is 1, but must be 2"),
        ({"detail": 0}, "detail is 0"),
        ({"reach": float("inf")}, "reach is inf"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(UserError, match=message):
        landscape.landscape(RUNS / "epvf", **settings)


def test_directions_are_orthogonal_and_as_long_as_a_perturbation():
    around = restore(RUNS / "epvf").around()
    size = len(np.asarray(around.theta))
    axes = _orthogonal(np.random.default_rng(0).standard_normal((2, size)), around)
    np.testing.assert_allclose(axes @ axes.T, size * np.eye(2), atol=1e-9)


def test_numbers_of_nothing():
    flat = np.zeros(5)
    assert np.isnan(_rank_correlation(flat, np.arange(5.0)))
    assert _line(flat, Returns(np.arange(5.0), flat)) == (0.0, 2.0)
    with pytest.raises(UserError, match="not finite"):
        _line(flat, Returns(np.full(5, np.nan), flat))
    assert _reach(np.zeros((0, 2))) == 2.0 and _reach(np.array([[100.0, 0.0]])) == 30.0
