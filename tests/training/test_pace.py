"""How long a run takes, reckoned from iterations whose costs are known."""

import pytest

from epvf.config.presets import preset
from epvf.config.schema import replace
from epvf.training import pace
from epvf.training.pace import Pace
from epvf.training.prepare import prepare


def _setup(**changes):
    config = replace(preset("cartpole", "debug", "epvf"), {"num_envs": 8} | changes)
    return prepare(config)


def test_a_run_of_iterations_costs_rollouts_as_long_as_episodes_become():
    setup = _setup(iterations=10)
    longest = 8 * setup.task.spec.episode_length
    known = Pace(startup=2.0, rollout=0.5, rest=0.25, env_steps=longest / 4)
    assert pace.expect(setup, known) == (2.0 + 10 * 0.75, 2.0 + 10 * (4 * 0.5 + 0.25))


def test_a_budget_of_env_steps_takes_fewer_of_the_longer_iterations():
    longest = 8 * _setup().task.spec.episode_length
    setup = _setup(iterations=1000, env_steps=10 * longest)
    known = Pace(startup=0.0, rollout=0.5, rest=1.0, env_steps=longest / 4)
    assert pace.expect(setup, known) == (10 * (2.0 + 1.0), 40 * (0.5 + 1.0))


@pytest.mark.parametrize("seeds", [1, 2])
def test_measuring_runs_the_first_iterations(seeds):
    setup = _setup(num_seeds=seeds)
    measured = pace.measure(setup)
    assert measured.startup > 0.0
    assert measured.rollout > 0.0
    assert measured.rest >= 0.0
    assert 8 * seeds <= measured.env_steps <= 2 * 8 * seeds * setup.task.spec.episode_length
