"""The Ant as a Gymnasium environment: to Gymnasium's liking, and equal to the native engine."""

import warnings

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from epvf.errors import UserError
from epvf.tasks import ant, make
from epvf.tasks.adapters.to_gymnasium import AntEnv

LENGTH = 200


def _falling(num: int) -> np.ndarray:
    """Actions `[T, num, 8]`, some of which throw the Ant over."""
    rng = np.random.default_rng(1)
    held = np.repeat(rng.choice([-1.0, 1.0], (10, num, 8)), 20, axis=0)
    return held.astype(np.float32)


def test_gymnasiums_checker_has_nothing_to_say() -> None:
    with warnings.catch_warnings():
        # what is not registered has no specification to be made again from
        warnings.filterwarnings("ignore", "(?s).*Not able to test alternative render modes")
        check_env(AntEnv(), skip_render_check=True)


def test_equals_the_native_replay_to_the_bit() -> None:
    actions = _falling(8)
    replay = make("ant", "native").replay(actions)
    lengths = []
    for i in range(actions.shape[1]):
        env = AntEnv()
        env.reset()
        for t in range(LENGTH):
            observation, reward, terminated, truncated, _ = env.step(actions[t, i])
            np.testing.assert_array_equal(observation, replay.observation[t, i])
            assert reward == replay.reward[t, i]
            assert terminated == replay.terminated[t, i]
            assert not truncated
            if terminated:
                break
        lengths.append(t + 1)
    assert 0 < sum(length < LENGTH for length in lengths) < len(lengths)


def test_an_episode_is_the_same_after_a_reset() -> None:
    env, actions = AntEnv(episode_length=30), _falling(1)[:, 0]
    episodes = []
    for _ in range(2):
        first, info = env.reset(seed=3)
        assert info == {}
        episodes.append([first] + [env.step(action)[0] for action in actions[:30]])
    np.testing.assert_array_equal(episodes[0], episodes[1])
    assert episodes[0][0].dtype == np.float32
    np.testing.assert_array_equal(episodes[0][0][1:9], ant.model().qpos0[7:].astype(np.float32))


def test_is_truncated_after_its_length() -> None:
    env = AntEnv(episode_length=3)
    env.reset()
    ends = [env.step(np.zeros(8, np.float32))[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]
    with pytest.raises(UserError, match="episode_length is 0"):
        AntEnv(episode_length=0)


def test_an_unsound_simulation_terminates_without_a_reward(workplace) -> None:
    # in a folder where MuJoCo may leave its log
    env = AntEnv()
    env.reset()
    env._data.qpos[2] = np.nan
    observation, reward, terminated, truncated, _ = env.step(np.zeros(8, np.float32))
    assert np.isnan(reward) and terminated and not truncated
    assert np.isfinite(observation).all()
    env.reset()
    assert np.isfinite(env.step(np.zeros(8, np.float32))[1])
