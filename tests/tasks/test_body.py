"""Bodies of Gymnasium on the C engine, against Gymnasium's own environments."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv
from gymnasium.envs.mujoco.walker2d_v5 import Walker2dEnv

from c_engine import replayed
from epvf.analysis.evaluation import evaluate
from epvf.errors import UserError
from epvf.policies.formats.safetensors import SavedPolicy
from epvf.policies.mlp import Policy
from epvf.tasks import make
from epvf.tasks.ant import BODY as ANT
from epvf.tasks.body import State
from epvf.tasks.engines import native
from epvf.tasks.engines.episode import Episode, compiled_for, state_size
from epvf.tasks.half_cheetah import BODY as HALF_CHEETAH
from epvf.tasks.hopper import BODY as HOPPER
from epvf.tasks.walker2d import BODY as WALKER

GYMNASIUM = {
    "hopper": (HOPPER, HopperEnv),
    "halfcheetah": (HALF_CHEETAH, HalfCheetahEnv),
    "walker2d": (WALKER, Walker2dEnv),
}
NEVER = np.zeros(1, bool)
SECONDS = {"ant": 0.01, "hopper": 0.008, "halfcheetah": 0.05, "walker2d": 0.008}


@pytest.fixture(params=GYMNASIUM)
def pair(request):
    """A body and Gymnasium's environment of it."""
    body, environment = GYMNASIUM[request.param]
    env = environment()
    yield body, env
    env.close()


def _policy(body):
    return Policy((body.observation_size, 8, body.model().nu), output="clip")


def _starts(body, num, seed=1):
    """Offsets `[num, nq + nv]` of where episodes start."""
    return np.concatenate(body.starts(np.random.default_rng(seed), num), axis=1)


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
    code = "from epvf.tasks import hopper, half_cheetah; hopper.model(); half_cheetah.model()"
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (said.stdout, said.stderr) == ("", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_episodes_pay_what_gymnasium_pays(pair):
    body, env = pair
    policy, runner = _policy(body), Episode(_policy(body), body)
    starts = _starts(body, 3)
    lengths = set()
    # how soon chaos tells float32 from float64
    longest = {"hopper": 60, "halfcheetah": 8, "walker2d": 40}[body.name]
    for theta, start in zip(_thetas(body, 3, scale=1.0), starts, strict=True):
        rewards = _in_gymnasium(env, policy, theta, start, longest)
        no_samples = np.empty((0, state_size(body)))
        total, length, _ = runner.run(theta, longest, NEVER, no_samples, start)
        assert length == len(rewards)
        np.testing.assert_allclose(total, np.sum(rewards), rtol=1e-3, atol=1e-3)
        lengths.add(length)
    assert (min(lengths) < longest) == (body is not HALF_CHEETAH)


def test_observes_pays_and_ends_like_gymnasium(pair):
    body, env = pair
    rng = np.random.default_rng(0)
    nq, nv, nu, num = env.model.nq, env.model.nv, env.model.nu, 100
    width = np.array([0.1, 0.4, 0.5, *[0.5] * (nq - 3)])
    rows, seen, paid, over = [], [], [], []
    for _ in range(num):
        qpos, qvel = env.init_qpos + width * rng.normal(size=nq), 5.0 * rng.normal(size=nv)
        action = rng.uniform(-1.0, 1.0, nu)
        env.reset()
        env.set_state(qpos, qvel)
        observation, reward, terminated, *_ = env.step(action)
        rows.append((env.data.qpos.copy(), env.data.qvel.copy(), action, qpos, env.data.time))
        seen.append(observation)
        paid.append(reward)
        over.append(terminated)
    states = State(*(np.array(column) for column in zip(*rows, strict=True)))
    result = np.zeros((num, body.observation_size)), np.zeros(num), np.zeros(num, bool)
    compiled_for(body).transitions(states, *result)
    np.testing.assert_array_equal(result[0], seen)
    np.testing.assert_allclose(result[1], paid, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(result[2], over)
    assert (0 < sum(over) < num) == (body is not HALF_CHEETAH)


def test_open_loop_steps_are_gymnasium_s_to_the_last_number(pair):
    body, env = pair
    steps, nq = 60, env.model.nq
    actions = np.random.default_rng(3).uniform(-0.4, 0.4, (steps, env.model.nu))
    start = _starts(body, 1)[0]
    env.reset()
    env.set_state(env.init_qpos + start[:nq], env.init_qvel + start[nq:])
    ours = replayed(body, actions, start)
    for t in range(steps):
        observation, reward, terminated, *_ = env.step(body.actions(actions[t]))
        np.testing.assert_array_equal(ours.observation[t], np.float32(observation))
        np.testing.assert_allclose(ours.reward[t], reward, rtol=1e-6)
        assert ours.terminated[t] == terminated
        if terminated:
            break
    assert not ours.terminated[0]


def test_starts_are_distributed_like_gymnasium_s(pair):
    body, env = pair
    ours = _starts(body, 2000)
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
        native.make(body, 40, num_threads).evaluator(_policy(body))(jax.random.key(seed), thetas)
        for seed, num_threads in ((0, 1), (0, 3), (1, 1))
    ]
    np.testing.assert_array_equal(rolled[0].returns, rolled[1].returns)
    assert (rolled[0].returns != rolled[2].returns).all()


@pytest.mark.slow
def test_an_evaluation_tells_what_policies_saw_first(pair):
    body, _ = pair
    task, thetas, key = native.make(body, 5, 1), _thetas(body, 3), jax.random.key(2)
    explore = task.explorer(_policy(body), 1)
    segment = explore(key, thetas, explore.reset(key, 3))
    starts = task.evaluator(_policy(body))(key, thetas).starts
    np.testing.assert_array_equal(starts, segment.observations[:, 0])
    assert len(np.unique(starts, axis=0)) == 3


def test_segments_one_after_the_other_are_an_episode(pair):
    body, _ = pair
    policy, thetas = _policy(body), _thetas(body, 4, scale=0.05)
    explore = native.make(body, 1000, 2).explorer(policy, 5)
    envs = explore.reset(jax.random.key(0), 4)
    total = np.zeros(4)
    for call in range(4):
        # where an environment starts only the first call's key decides
        segment = explore(jax.random.key(call), thetas, envs)
        assert not segment.terminated.any()
        envs = segment.envs
        total += segment.rewards.sum(axis=1)
    whole = native.make(body, 20, 1).evaluator(policy)(jax.random.key(0), thetas)
    np.testing.assert_allclose(total, whole.returns, rtol=1e-3, atol=1e-3)


def test_a_saved_hopper_does_in_gymnasium_what_it_does_here():
    policy = _policy(HOPPER)
    saved = SavedPolicy(policy, np.zeros(policy.num_parameters, np.float32), "hopper", {})
    here, there = (evaluate(saved, 20, backend) for backend in ("native", "gymnasium"))
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
    explore = native.make(HOPPER, 1000, 1).explorer(policy, 100)
    segment = explore(jax.random.key(0), thetas, explore.reset(jax.random.key(0), 3))
    assert segment.terminated.any(axis=1).all()
    after = segment.observations[:, 1:][segment.terminated]
    height = 1.25
    np.testing.assert_allclose(after[:, 0], height, atol=2 * 5e-3)
    assert np.isfinite(segment.envs.finished).all()


@pytest.mark.parametrize("body", [ANT, HOPPER, HALF_CHEETAH, WALKER], ids=lambda body: body.name)
def test_sizes_are_the_models_own(body):
    model = body.model()
    assert np.abs(model.actuator_ctrlrange).max() == 1.0
    task = make(body.name, "native")
    assert task.spec.name == body.name and task.spec.episode_length == 1000
    sizes = {"ant": (34, 8), "hopper": (11, 3), "halfcheetah": (17, 6), "walker2d": (17, 6)}
    assert (task.spec.observation_size, task.spec.action_size) == sizes[body.name]
    assert task.spec.deterministic_reset == (body is ANT)
    assert task.spec.terminates == (body is not HALF_CHEETAH)
    seconds = model.opt.timestep * body.frame_skip
    assert seconds == pytest.approx(SECONDS[body.name])
