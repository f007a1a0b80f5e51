"""Which policies there are to look at, what V says of them, and where ∇V leads."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from epvf.analysis.trained_value import load_value
from epvf.errors import UserError
from epvf.policies.formats.registry import load_policy
from epvf.runs.folder import Run, trail_path
from epvf.runs.trail import Trail
from epvf.tasks import make
from epvf.view.choices import choices
from epvf.view.troupe import Troupe

RUNS = Path(__file__).resolve().parents[1] / "fixtures" / "v0.1.0"


@pytest.fixture
def run(tmp_path):
    """A run of V(θ) that knows where it has been."""
    shutil.copytree(RUNS / "epvf", tmp_path / "run")
    theta = load_policy(RUNS / "epvf" / "policies" / "last.safetensors").theta
    trail = Trail(trail_path(tmp_path / "run"), 0)
    for update in (1, 4):
        trail.note(update, update * theta[None])
    trail.save()
    return tmp_path / "run"


def test_a_run_offers_its_newest_its_best_and_where_it_has_been(run):
    found = choices(run)
    assert found.names() == ["newest", "best", "update 1", "update 4"]
    newest = load_policy(run / "policies" / "last.safetensors").theta
    np.testing.assert_array_equal(found.theta("newest"), newest)
    np.testing.assert_array_equal(found.theta("update 4"), 4 * newest)
    with pytest.raises(UserError, match="does not hold update 2 any more"):
        found.theta("update 2")
    lives = [found.live]
    opened = Run.open(run)
    lives.append(found.live)
    opened.close()
    assert lives == [False, True]
    before = found.stamp()
    trail_path(run).touch()
    assert found.stamp() != before


@pytest.mark.parametrize("name", ["epvf", pytest.param("psvf", marks=pytest.mark.slow)])
def test_v_is_the_runs_own_and_rises_along_its_gradient(name):
    found, value = choices(RUNS / name), load_value(RUNS / name)
    around = found.perturbed(value.theta, 5, 0)
    assert (
        around.shape == (5, len(value.theta)) and found.perturbed(value.theta, 0, 0).shape[0] == 0
    )
    told = found.predicted(np.stack([value.theta, *around]))
    assert told is not None
    np.testing.assert_allclose(told[1:], value(around), rtol=1e-5, atol=1e-5)
    steps = [value.theta + found.uphill(length) for length in (-0.5, 0.0, 0.5, 1.0)]
    down, here, up, top = value(np.stack(steps))
    assert down < here < up <= top
    assert not found.uphill(0.0).any()


def test_a_policy_file_alone_has_a_swarm_but_no_value(saved, hopper):
    found = choices(saved(hopper))
    assert found.names() == ["policy"] and found.value is None and found.stamp() == ()
    assert found.predicted(hopper.theta[None]) is None and not found.live
    assert not found.uphill(1.0).any()
    around = found.perturbed(found.theta("policy"), 3, 0)
    assert around.shape == (3, len(hopper.theta)) and (around != hopper.theta).any()


def test_a_troupe_plays_the_episodes_that_the_engine_plays(hopper):
    task: Any = make("hopper", backend="native", episode_length=60)
    thetas = np.stack([hopper.theta, 2.0 * hopper.theta])
    troupe = Troupe(task.body, hopper.policy, list(thetas), 0, 60)
    start = troupe.places()
    assert start.positions.shape == (2, task.body.model().nbody, 3) and not troupe.returns.any()
    while not troupe.over:
        troupe.advance(0.05)
    places = troupe.places()
    np.testing.assert_allclose(np.linalg.norm(places.quaternions, axis=-1), 1.0, atol=1e-6)
    assert np.abs(places.positions[0] - places.positions[1]).max() > 1e-3
    assert (troupe.returns > 0.0).all()
    again = Troupe(task.body, hopper.policy, list(thetas[:1]), 0, 60)
    again.advance(10.0)
    assert again.returns[0] == troupe.returns[0]
