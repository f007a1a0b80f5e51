"""Pendulum and Acrobot against Gymnasium's environments, from the same states."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.envs.classic_control.acrobot import AcrobotEnv
from gymnasium.envs.classic_control.pendulum import PendulumEnv

from epvf.analysis.evaluation import scaled
from epvf.tasks import acrobot, make, pendulum

NUM = 200


def test_pendulum_steps_like_gymnasium_s() -> None:
    rng, env = np.random.default_rng(0), PendulumEnv()
    env.reset(seed=0)
    states = rng.uniform([-9.0, -8.0], [9.0, 8.0], (NUM, 2)).astype(np.float32)
    actions = rng.uniform(-1.2, 1.2, (NUM, 1)).astype(np.float32)
    begun = pendulum.PendulumState(*states.T)
    new, rewards, terminated = jax.vmap(pendulum.step)(begun, jnp.asarray(actions))
    seen = jax.vmap(pendulum.observe)(new)
    for i in range(NUM):
        env.state = states[i].astype(np.float64)
        observation, reward, *_ = env.step(2.0 * actions[i])
        np.testing.assert_allclose(seen[i], observation, atol=2e-5)
        np.testing.assert_allclose(rewards[i], reward, rtol=1e-4, atol=1e-4)
    assert not terminated.any()


def test_pendulum_open_loop_is_gymnasium_s() -> None:
    env = PendulumEnv()
    env.reset(seed=0)
    state = pendulum.reset(jax.random.key(0))
    env.state = np.array(state, np.float64)
    step = jax.jit(pendulum.step)
    for action in np.random.default_rng(0).uniform(-1, 1, (60, 1)).astype(np.float32):
        state, reward, _ = step(state, action)
        observation, theirs, *_ = env.step(2.0 * action)
        np.testing.assert_allclose(pendulum.observe(state), observation, atol=2e-3)
        np.testing.assert_allclose(reward, theirs, atol=2e-2)


def test_acrobot_steps_like_gymnasium_s() -> None:
    env: Any = AcrobotEnv()
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    width = [np.pi, np.pi, 4 * np.pi, 9 * np.pi]
    states = rng.uniform(np.negative(width), width, (NUM, 4)).astype(np.float32)
    actions = rng.integers(0, 3, NUM)
    new, rewards, terminated = jax.vmap(acrobot.step)(
        acrobot.AcrobotState(*states.T), jnp.asarray(actions)
    )
    seen = jax.vmap(acrobot.observe)(new)
    for i in range(NUM):
        env.state = states[i].astype(np.float64)
        observation, reward, over, *_ = env.step(int(actions[i]))
        np.testing.assert_allclose(seen[i], observation, rtol=2e-3, atol=2e-3)
        assert (rewards[i], terminated[i]) == (reward, over)
    assert 0 < terminated.sum() < NUM


def test_acrobot_open_loop_is_gymnasium_s() -> None:
    env: Any = AcrobotEnv()
    env.reset(seed=0)
    state = acrobot.reset(jax.random.key(0))
    env.state = np.array(state, np.float64)
    step = jax.jit(acrobot.step)
    for action in np.random.default_rng(0).integers(0, 3, 40):
        state = step(state, action)[0]
        observation, *_ = env.step(int(action))
        np.testing.assert_allclose(acrobot.observe(state), observation, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("pendulum", (3, 1, False, 200, False)), ("acrobot", (6, 3, True, 500, True))],
)
def test_sizes(name, sizes) -> None:
    spec = make(name).spec
    told = (spec.observation_size, spec.action_size, spec.discrete, spec.episode_length)
    assert (*told, spec.terminates) == sizes


def test_actions_are_scaled_to_the_bounds_of_a_box_only() -> None:
    np.testing.assert_allclose(scaled(PendulumEnv(), np.array([0.25])), [0.5])
    assert scaled(AcrobotEnv(), 2) == 2
