"""Policies that play while one watches, against the engine that trains them."""

import jax
import numpy as np
import pytest

import epvf
from epvf.policies.mlp import Policy
from epvf.tasks.engines import native
from epvf.view.rollouts import BodyRollout, start_of

LIFT = """
<mujoco>
  <worldbody><body>
    <joint name="slide" type="slide" axis="0 0 1"/><geom size=".1" mass="1"/>
  </body></worldbody>
  <actuator><motor joint="slide" ctrllimited="true" ctrlrange="0 20"/></actuator>
</mujoco>
"""


def asked(random, num):
    """Heights to be held."""
    return np.zeros((num, 1)), np.zeros((num, 1)), random.uniform(0.5, 1.0, (num, 1))


@pytest.mark.slow  # numba compiles the loops
def test_a_robot_with_commands_earns_what_it_earns_in_training() -> None:
    body = epvf.MujocoTask(
        LIFT,
        observe=lambda s: (s.xpos[1], s.qvel, s.command, s.ctrl),
        reward=lambda s: s.xpos[1, 2] - s.previous_xpos[1, 2] - (s.qpos[0] - s.command[0]) ** 2,
        terminated=lambda s: s.qpos[0] > 0.3,
        starts=asked,
        frame_skip=5,
        episode_length=60,
    )
    policy = Policy((6, 4, 1), output="clip")
    theta = np.asarray(policy.init(jax.random.key(0)), np.float32)
    start = start_of(body, seed=3)
    rollout = BodyRollout(body, policy, theta, start, most=60)
    while not rollout.over:
        rollout.advance()
    runner = native.Episode(policy, body)
    samples = np.empty((0, native.state_size(body)))
    total, length, _ = runner.run(theta, 60, np.zeros(1, bool), samples, start)
    assert rollout.steps == length
    np.testing.assert_allclose(rollout.total, total, rtol=1e-4)
