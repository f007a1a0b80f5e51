"""How long a run lasts."""

import pytest

from epvf.config.budget import lasting
from epvf.config.presets import preset
from epvf.methods.registry import METHODS


@pytest.mark.parametrize("method", ["epvf", "psvf", "ppo"])
def test_env_steps_alone_end_a_run_and_schedules_keep_their_length(method):
    config = preset("ant", "tuned", method)
    longer = lasting(config, 10**9)
    assert longer.env_steps == 10**9
    # an episode may end at its first step; segments have their length
    segment = METHODS[method].segment(config.method) or 1
    assert 0 <= longer.iterations * config.num_envs * segment - 10**9 < config.num_envs * segment
    if method != "ppo":  # which has no schedules
        before = config.schedule_iterations or config.iterations
        assert longer.schedule_iterations == before
    assert lasting(longer, 2 * 10**9).schedule_iterations == longer.schedule_iterations


def test_a_shorter_run_is_the_beginning_of_a_longer_one():
    config = preset("ant", "tuned", "psvf")
    assert lasting(config, 1000).iterations == config.iterations
