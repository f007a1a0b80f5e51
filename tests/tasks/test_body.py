"""Hopper and HalfCheetah on the C engine, against Gymnasium's own environments."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv

from epvf.analysis.evaluation import evaluate
from epvf.errors import UserError
from epvf.policies.formats.safetensors import SavedPolicy
from epvf.policies.mlp import Policy
from epvf.tasks import make
from epvf.tasks.body import ANT, HALF_CHEETAH, HOPPER
from epvf.tasks.engines import episode, native
from epvf.tasks.engines.episode import Episode, state_size

GYMNASIUM = {"hopper": (HOPPER, HopperEnv), "halfcheetah": (HALF_CHEETAH, HalfCheetahEnv)}
NEVER = np.zeros(1, bool)


@pytest.fixture(params=GYMNASIUM)
def pair(request):
    """A body and Gymnasium's environment of it."""
    body, environment = GYMNASIUM[request.param]
    env = environment()
    yield body, env
    env.close()


def _policy(body):
    return Policy((body.observation_size, 8, body.action_size), output="clip")


def _thetas(body, num, scale=0.3):
    size = _policy(body).num_parameters
    return (scale * np.random.default_rng(0).normal(size=(num, size))).astype(np.float32)


def _in_gymnasium(env, policy, theta, start, steps):
    """The rewards of an episode that starts so far from the model's own state."""
    env.reset()
    nq = env.model.nq
    env.set_state(env.init_qpos + start[:nq], env.init_qvel + start[nq:])
    observation, rewards = env._get_obs(), []
    for _ in range(steps):
        action = policy.apply(policy.unravel(theta), observation.astype(np.float32))
        observation, reward, terminated, *_ = env.step(np.asarray(action))
        rewards.append(reward)
        if terminated:
            break
    return rewards


def test_models_are_gymnasium_s_to_the_last_number(pair):
    body, env = pair
    for name in dir(env.model):
        theirs = getattr(env.model, name)
        if isinstance(theirs, np.ndarray):
            np.testing.assert_array_equal(getattr(body.model(), name), theirs, err_msg=name)


def test_making_a_body_says_nothing(tmp_path):
    code = "from epvf.tasks.body import *; HOPPER.model(); HALF_CHEETAH.model()"
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (said.stdout, said.stderr) == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_episodes_pay_what_gymnasium_pays(pair):
    body, env = pair
    policy, runner = _policy(body), Episode(_policy(body), body)
    starts = body.starts(np.random.default_rng(1), 3)
    lengths = set()
    longest = 60 if body is HOPPER else 8  # how soon chaos tells float32 from float64
    for theta, start in zip(_thetas(body, 3, scale=1.0), starts, strict=True):
        rewards = _in_gymnasium(env, policy, theta, start, longest)
        no_samples = np.empty((0, state_size(body)))
        total, length, _ = runner.run(theta, longest, NEVER, no_samples, start)
        assert length == len(rewards)
        np.testing.assert_allclose(total, np.sum(rewards), rtol=1e-3, atol=1e-3)
        lengths.add(length)
    assert (min(lengths) < longest) == (body is HOPPER)


def test_observes_pays_and_ends_like_gymnasium(pair):
    body, env = pair
    runner = Episode(_policy(body), body)
    simulation, observation = runner._simulation, runner._network.observation
    rng = np.random.default_rng(0)
    ends = 0
    for _ in range(100):
        qpos = env.init_qpos + rng.normal(size=env.model.nq) * [0.1, 0.2, 0.1, *[0.5] * 3, 1, 1, 1][: env.model.nq]  # noqa: E501  # fmt: skip
        qvel = 5.0 * rng.normal(size=env.model.nv)
        action = rng.uniform(-1.0, 1.0, body.action_size)
        env.reset()
        env.set_state(qpos, qvel)
        seen, paid, terminated, *_ = env.step(action)
        simulation.before[0] = qpos[0]
        simulation.qpos[:], simulation.qvel[:] = env.data.qpos, env.data.qvel
        simulation.ctrl[:] = action
        reward, down = episode._observe(simulation, observation)
        np.testing.assert_allclose(observation, seen, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(reward, paid, rtol=1e-9, atol=1e-9)
        assert down == terminated
        ends += down
    assert (0 < ends < 100) == (body is HOPPER)


def test_starts_are_distributed_like_gymnasium_s(pair):
    body, env = pair
    ours = body.starts(np.random.default_rng(0), 2000)
    theirs = []
    for seed in range(300):
        env.reset(seed=seed)
        theirs.append(np.concatenate([env.data.qpos - env.init_qpos, env.data.qvel]))
    assert ours.shape == (2000, env.model.nq + env.model.nv)
    np.testing.assert_allclose(ours.std(axis=0), np.std(theirs, axis=0), rtol=0.15)
    np.testing.assert_allclose(ours.mean(axis=0), 0.0, atol=0.02)


def test_the_key_decides_where_episodes_start_and_threads_nothing(pair):
    body, _ = pair
    thetas = _thetas(body, 6)
    rolled = [
        native.make(40, num_threads, body).evaluator(_policy(body))(jax.random.key(seed), thetas)
        for seed, num_threads in ((0, 1), (0, 3), (1, 1))
    ]
    np.testing.assert_array_equal(rolled[0].returns, rolled[1].returns)
    assert (rolled[0].returns != rolled[2].returns).all()


def test_an_evaluation_tells_what_policies_saw_first(pair):
    body, _ = pair
    task, thetas, key = native.make(5, 1, body), _thetas(body, 3), jax.random.key(2)
    explore = task.explorer(_policy(body), 1)
    segment = explore(key, thetas, explore.reset(key, 3))
    starts = task.evaluator(_policy(body))(key, thetas).starts
    np.testing.assert_array_equal(starts, segment.observations[:, 0])
    assert len(np.unique(starts, axis=0)) == 3


def test_segments_one_after_the_other_are_an_episode(pair):
    body, _ = pair
    policy, thetas = _policy(body), _thetas(body, 4, scale=0.05)
    explore = native.make(1000, 2, body).explorer(policy, 5)
    envs = explore.reset(jax.random.key(0), 4)
    total = np.zeros(4)
    for call in range(4):
        # where an environment starts only the first call's key decides
        segment = explore(jax.random.key(call), thetas, envs)
        assert not segment.terminated.any()
        envs = segment.envs
        total += segment.rewards.sum(axis=1)
    whole = native.make(20, 1, body).evaluator(policy)(jax.random.key(0), thetas)
    np.testing.assert_allclose(total, whole.returns, rtol=1e-3, atol=1e-3)


def test_a_saved_hopper_does_in_gymnasium_what_it_does_here():
    policy = _policy(HOPPER)
    saved = SavedPolicy(policy, np.zeros(policy.num_parameters, np.float32), "hopper", {})
    here, there = (evaluate(saved, 20, backend) for backend in ("auto", "gymnasium"))
    assert (here.engine, there.engine) == ("native", "Gymnasium Hopper-v5")
    assert here.returns.std() > 0.0
    np.testing.assert_allclose(here.returns.mean(), there.returns.mean(), rtol=0.05)
    np.testing.assert_allclose(here.lengths.mean(), there.lengths.mean(), rtol=0.05)


def test_what_gymnasium_lacks_is_told_in_a_line(monkeypatch):
    policy = _policy(HOPPER)
    saved = SavedPolicy(policy, np.zeros(policy.num_parameters, np.float32), "hopper", {})
    monkeypatch.setitem(sys.modules, "gymnasium.envs.mujoco.hopper_v5", None)
    with pytest.raises(UserError, match=r"Hopper-v5 needs more.*pip install imageio") as error:
        evaluate(saved, 1, "gymnasium")
    assert "\n" not in str(error.value)


def test_a_hopper_that_falls_starts_anew():
    policy, thetas = _policy(HOPPER), _thetas(HOPPER, 3, scale=1.0)
    explore = native.make(1000, 1, HOPPER).explorer(policy, 100)
    segment = explore(jax.random.key(0), thetas, explore.reset(jax.random.key(0), 3))
    assert segment.terminated.any(axis=1).all()
    after = segment.observations[:, 1:][segment.terminated]
    height = 1.25
    np.testing.assert_allclose(after[:, 0], height, atol=2 * 5e-3)
    assert np.isfinite(segment.envs.finished).all()


@pytest.mark.parametrize("body", [ANT, HOPPER, HALF_CHEETAH], ids=lambda body: body.name)
def test_sizes_are_the_models_own(body):
    model = body.model()
    assert model.nu == body.action_size
    assert np.abs(model.actuator_ctrlrange).max() == 1.0
    task = make(body.name, "native")
    assert task.spec.name == body.name and task.spec.episode_length == 1000
    assert task.spec.deterministic_reset == (body is ANT)
    assert task.spec.terminates == (body is not HALF_CHEETAH)
    seconds = model.opt.timestep * body.frame_skip
    assert seconds == pytest.approx({"ant": 0.01, "hopper": 0.008, "halfcheetah": 0.05}[body.name])
