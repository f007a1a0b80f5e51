"""How long a run lasts."""

import pytest

from epvf.config.budget import lasting
from epvf.config.presets import preset


@pytest.mark.parametrize("method", ["epvf", "psvf", "ppo"])
def test_env_steps_alone_end_a_run_and_schedules_keep_their_length(method):
    config = preset("ant", "tuned", method)
    longer = lasting(config, 10**9)
    assert longer.env_steps == 10**9
    # an episode may end at its first step
    assert longer.iterations * config.num_envs >= 10**9
    if method != "ppo":  # which has no schedules
        before = config.schedule_iterations or config.iterations
        assert longer.schedule_iterations == before
    assert lasting(longer, 2 * 10**9).schedule_iterations == longer.schedule_iterations


def test_a_shorter_run_is_the_beginning_of_a_longer_one():
    config = preset("ant", "tuned", "psvf")
    assert lasting(config, 1000).iterations == config.iterations
