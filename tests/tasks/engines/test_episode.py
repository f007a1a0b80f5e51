"""The compiled loop over an episode: its policy, its observations, and when it ends."""

import logging

import jax
import mujoco
import numba
import numpy as np
import pytest

from epvf.policies.mlp import Policy
from epvf.runtime import mujoco_log
from epvf.tasks import ant
from epvf.tasks.body import State, transition
from epvf.tasks.engines import episode
from epvf.tasks.engines.episode import Episode, state_size

NEVER = np.zeros(1, bool)
NO_SAMPLES = np.empty((0, state_size(ant.BODY)))


def idle(policy: Policy) -> np.ndarray:
    """A policy whose actions are all zero: the Ant stands."""
    return np.zeros(policy.num_parameters, np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("output", ["clip", "tanh"])
@pytest.mark.parametrize("activation", ["tanh", "relu", "elu"])
@pytest.mark.parametrize("hidden", [(), (7,), (64, 64), (5, 6, 7)])
def test_acts_like_the_policy(hidden, activation, output) -> None:
    policy = Policy((34, *hidden, 8), activation, output)
    rng = np.random.default_rng(0)
    thetas = 0.5 * rng.normal(size=(9, policy.num_parameters)).astype(np.float32)
    observations = rng.normal(size=(9, 34)).astype(np.float32)
    expected = jax.vmap(policy.apply)(policy.unravel(thetas), observations)
    network = episode._network(policy)
    for i in range(9):
        network.observation[:] = observations[i]
        np.testing.assert_allclose(episode._act(network, thetas[i]), expected[i], atol=2e-5)


def test_tanh_is_the_c_library_s_to_a_few_last_bits() -> None:
    x = np.concatenate([np.linspace(-12, 12, 10_001), np.geomspace(1e-30, 1e30, 201)])
    x = x.astype(np.float32)
    ours = np.array([episode.tanh(value) for value in x])
    np.testing.assert_allclose(ours, np.tanh(x.astype(np.float64)), rtol=5e-7, atol=3e-7)
    assert np.abs(ours).max() <= 1.0
    assert np.isnan(episode.tanh(np.float32(np.nan)))
    assert episode.tanh(np.float32(np.inf)) == -episode.tanh(np.float32(-np.inf))


def compiled(states: State) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the compiled formulas of the Ant make of rows of states."""
    num = len(states.qpos)
    result = np.zeros((num, 34), np.float32), np.zeros(num), np.zeros(num, bool)
    episode.compiled_for(ant.BODY).transitions(states, *result)
    return result


def states(num: int) -> State:
    """Any orientation and velocity, heights around both limits."""
    rng = np.random.default_rng(0)
    qpos = rng.normal(size=(num, 15)) + np.array([0, 0, 0.6] + [0] * 12)
    qpos[:, 3:7] /= np.linalg.norm(qpos[:, 3:7], axis=1, keepdims=True)
    qvel, ctrl = 3.0 * rng.normal(size=(num, 14)), rng.uniform(-1, 1, (num, 8))
    return State(qpos, qvel, ctrl, qpos, np.zeros(num))


def test_observes_like_the_task() -> None:
    rows = states(200)
    observation, reward, terminated = compiled(rows)
    for i in range(200):
        expected = transition(ant.BODY, State(*(part[i] for part in rows[:5])))
        np.testing.assert_allclose(observation[i], expected.observation, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(reward[i], expected.reward, rtol=1e-9)
        assert terminated[i] == expected.terminated
    assert 0 < terminated.sum() < 200


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e9])
def test_observes_what_is_not_finite_or_huge_like_the_task(bad: float) -> None:
    rows = states(1)
    rows.qvel[0, 7] = bad
    observation, reward, terminated = compiled(rows)
    expected = transition(ant.BODY, State(*(part[0] for part in rows[:5])))
    np.testing.assert_allclose(observation[0], expected.observation, atol=1e-7, rtol=1e-6)
    np.testing.assert_allclose(reward[0], expected.reward)
    assert terminated[0] == expected.terminated


def test_takes_integration_states_in_the_middle_of_intervals_along_the_way() -> None:
    policy = Policy((34, 8))
    samples = np.zeros((4, state_size(ant.BODY)))
    _, length, taken = Episode(policy, ant.BODY).run(idle(policy), 20, NEVER, samples)
    assert (length, taken) == (20, 4)
    data, states = mujoco.MjData(ant.model()), []
    for step in range(20):
        mujoco.mj_step(ant.model(), data)
        if step % 5 == 2:
            states.append(np.zeros(state_size(ant.BODY)))
            mujoco.mj_getState(ant.model(), data, states[-1], episode.STATE)
    np.testing.assert_array_equal(samples, states)


def test_stops_where_it_is_when_told() -> None:
    policy = Policy((34, 8))
    assert Episode(policy, ant.BODY).run(idle(policy), 1000, np.ones(1, bool), NO_SAMPLES)[1] == 1


def test_sees_the_alarms_of_its_simulation(tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.WARNING, mujoco_log.LOGGER)
    runner = Episode(Policy((34, 8)), ant.BODY)
    model, data = runner._owners
    assert not runner._simulation.alarms.any()
    data.qvel[3] = np.nan
    mujoco.mj_step(model, data)
    assert runner._simulation.alarms.any()
    # MuJoCo by itself would have written MUJOCO_LOG.TXT
    assert "unstable" in caplog.text and list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_alarm_shows_in_the_return_of_that_episode_only() -> None:
    policy = Policy((34, 8))
    runner = Episode(policy, ant.BODY)
    sound = runner.run(idle(policy), 5, NEVER, NO_SAMPLES)
    # a view that no reset clears
    runner._simulation = runner._simulation._replace(alarms=np.zeros((2, 2), np.int32)[:, 1] + 1)
    assert np.isnan(runner.run(idle(policy), 5, NEVER, NO_SAMPLES)[0])
    assert np.isfinite(sound[0])


def test_actions_that_are_not_finite_show_in_the_return() -> None:
    policy = Policy((34, 8))
    total, length, _ = Episode(policy, ant.BODY).run(
        np.full(policy.num_parameters, np.inf, np.float32), 5, NEVER, NO_SAMPLES
    )
    assert np.isnan(total)
    assert length == 1


@pytest.mark.slow
def test_what_is_compiled_and_kept_knows_the_formulas_it_was_made_from(tmp_path, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    policy = Policy((34, 8))
    runner = Episode(policy, ant.BODY)
    arguments = (runner._simulation, runner._network, idle(policy), 3)
    rest = (episode.NOWHERE, NEVER, NO_SAMPLES, episode.UNSEEN)

    def loaded(version: str) -> bool:
        run = episode._compile(ant.BODY, version).run
        run(*arguments, *rest)
        return sum(run.stats.cache_hits.values()) == 1

    assert not loaded("old")
    assert loaded("old")
    assert not loaded("new")
