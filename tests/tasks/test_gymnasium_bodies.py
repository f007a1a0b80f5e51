"""Bodies that read what MuJoCo computes on the way, against Gymnasium's own environments."""

import subprocess
import sys

import gymnasium
import jax
import mujoco
import numpy as np
import pytest
from gymnasium.envs.mujoco.ant_v5 import AntEnv
from gymnasium.envs.mujoco.humanoid_v5 import HumanoidEnv
from gymnasium.envs.mujoco.inverted_double_pendulum_v5 import InvertedDoublePendulumEnv
from gymnasium.envs.mujoco.reacher_v5 import ReacherEnv
from gymnasium.envs.mujoco.swimmer_v5 import SwimmerEnv

from c_engine import replayed
from epvf.analysis.evaluation import GYMNASIUM, scaled
from epvf.errors import UserError
from epvf.policies.mlp import Policy
from epvf.tasks import ant_v5, humanoid, inverted_double_pendulum, make, reacher, swimmer
from epvf.tasks.body import Body, state_of, transition
from epvf.tasks.engines import mjx, native

BODIES = {
    "swimmer": (swimmer.BODY, SwimmerEnv, (8, 2), 0.04, 1000),
    "reacher": (reacher.BODY, ReacherEnv, (10, 2), 0.02, 50),
    "inverted-double-pendulum": (
        inverted_double_pendulum.BODY,
        InvertedDoublePendulumEnv,
        (9, 1),
        0.05,
        1000,
    ),
    "humanoid": (humanoid.BODY, HumanoidEnv, (348, 17), 0.015, 1000),
    "ant-v5": (ant_v5.BODY, AntEnv, (105, 8), 0.05, 1000),
}
TERMINATES = {"inverted-double-pendulum", "humanoid", "ant-v5"}
STEPS = 40


COMPILED = ("inverted-double-pendulum", "humanoid")
"""Bodies whose loops are compiled here; `ant-v5` is below, the others share their kinds."""


@pytest.fixture(params=BODIES)
def pair(request):
    """A body and Gymnasium's environment of it."""
    body, environment = BODIES[request.param][:2]
    env = environment()
    yield body, env
    env.close()


def start_of(body: Body, seed: int = 0) -> np.ndarray:
    assert body.starts is not None
    return np.concatenate(body.starts(np.random.default_rng(seed), 1), axis=1)[0]


def in_gymnasium(env, start, actions):
    """Observations, rewards and ends of given actions in [-1, 1], from so far off the model's."""
    env.reset()
    nq = env.model.nq
    env.set_state(env.init_qpos + start[:nq], env.init_qvel + start[nq:])
    rows = [env.step(scaled(env, action)) for action in actions]
    return [np.array([row[i] for row in rows]) for i in range(3)]


def in_numpy(body, start, actions):
    """The same, by the formulas in numpy."""
    model = body.model()
    data = mujoco.MjData(model)
    data.qpos[:] += start[: model.nq]
    data.qvel[:] += start[model.nq :]
    mujoco.mj_forward(model, data)
    state, rows = state_of(data, body.derived, None), []
    for action in actions:
        data.ctrl[:] = body.actions(action)
        mujoco.mj_step(model, data, body.frame_skip)
        mujoco.mj_rnePostConstraint(model, data)
        state = state_of(data, body.derived, state)
        rows.append(transition(body, state))
    return [np.array([row[i] for row in rows]) for i in range(3)]


def test_sizes_are_gymnasium_s(pair) -> None:
    body, env = pair
    (observation, action), seconds, length = BODIES[body.name][2:]
    spec = make(body.name, "native").spec
    assert (spec.observation_size, spec.action_size) == (observation, action)
    assert env.observation_space.shape == (observation,) and env.action_space.shape == (action,)
    assert spec.episode_length == length == gymnasium.spec(GYMNASIUM[body.name]).max_episode_steps
    assert spec.step_seconds == pytest.approx(seconds) and env.dt == pytest.approx(seconds)
    assert spec.terminates == (body.name in TERMINATES)


def test_models_are_gymnasium_s_to_the_last_number(pair) -> None:
    body, env = pair
    for name in dir(env.model):
        theirs = getattr(env.model, name)
        if isinstance(theirs, np.ndarray):
            np.testing.assert_array_equal(getattr(body.model(), name), theirs, err_msg=name)


def test_formulas_make_of_open_loop_steps_what_gymnasium_does(pair) -> None:
    body, env = pair
    start = start_of(body)
    actions = np.random.default_rng(3).uniform(-1.0, 1.0, (STEPS, env.model.nu)).astype(np.float32)
    seen, paid, over = in_gymnasium(env, start, actions)
    ours = in_numpy(body, start, actions)
    np.testing.assert_allclose(ours[0], seen, rtol=1e-6, atol=1e-7)
    # Gymnasium squares controls in float32
    np.testing.assert_allclose(ours[1], paid, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(ours[2], over)


@pytest.mark.slow  # numba compiles the loops of each
@pytest.mark.parametrize("pair", COMPILED, indirect=True)
def test_open_loop_steps_of_the_c_engine_are_gymnasium_s(pair) -> None:
    body, env = pair
    start = start_of(body, seed=1)
    actions = np.random.default_rng(4).uniform(-1.0, 1.0, (STEPS, env.model.nu)).astype(np.float32)
    seen, paid, over = in_gymnasium(env, start, actions)
    ours = replayed(body, actions, start)
    live = np.cumsum(over) - over == 0  # up to the end of the episode
    assert live.sum() >= 5
    np.testing.assert_allclose(ours.observation[live], seen[live], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours.reward[live], paid[live], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(ours.terminated[live], over[live])


@pytest.mark.slow
def test_segments_one_after_the_other_are_an_episode() -> None:
    body = ant_v5.BODY
    policy = Policy((body.observation_size, 8, len(body.actions.offset)), output="clip")
    size = policy.num_parameters
    thetas = (0.02 * np.random.default_rng(0).normal(size=(4, size))).astype(np.float32)
    explore = native.make(body, 1000, 2).explorer(policy, 5)
    envs = explore.reset(jax.random.key(0), 4)
    total, last = np.zeros(4), None
    for call in range(4):
        segment = explore(jax.random.key(call), thetas, envs)
        assert not segment.terminated.any()
        if last is not None:  # what was kept of the observation
            np.testing.assert_array_equal(segment.observations[:, 0], last)
        envs, last = segment.envs, segment.observations[:, -1]
        total += segment.rewards.sum(axis=1)
    evaluation = native.make(body, 20, 1).evaluator(policy)(jax.random.key(0), thetas)
    np.testing.assert_allclose(total, evaluation.returns, rtol=1e-3, atol=1e-3)


def test_goals_of_the_reacher_are_anywhere_in_their_disc() -> None:
    positions, velocities = reacher.starts(np.random.default_rng(0), 20_000)
    goals = positions[:, 2:] + np.array(reacher.GOAL)
    radii = np.linalg.norm(goals, axis=1)
    assert radii.max() <= reacher.GOAL_RADIUS
    np.testing.assert_allclose(np.mean(radii < reacher.GOAL_RADIUS / 2), 0.25, atol=0.01)
    np.testing.assert_allclose(goals.mean(axis=0), 0.0, atol=3e-3)
    assert (velocities[:, 2:] == 0.0).all() and (velocities[:, :2] != 0.0).all()
    env, theirs = ReacherEnv(), []
    for seed in range(200):
        env.reset(seed=seed)
        theirs.append(np.concatenate([env.data.qpos - env.init_qpos, env.data.qvel]))
    env.close()
    ours = np.concatenate([positions, velocities], axis=1)
    np.testing.assert_allclose(ours.std(axis=0), np.std(theirs, axis=0), rtol=0.15)


def test_making_a_body_says_nothing(tmp_path) -> None:
    modules = "swimmer, reacher, inverted_double_pendulum, humanoid, ant_v5"
    calls = "; ".join(f"{name}.model()" for name in modules.split(", "))
    command = [sys.executable, "-c", f"from epvf.tasks import {modules}; {calls}"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (said.stdout, said.stderr) == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_what_mjx_cannot_step_is_told_in_a_line() -> None:
    with pytest.raises(UserError, match=r"MJX cannot step.*'humanoid'.*PGS.*'native'") as error:
        make("humanoid", "mjx")
    assert "\n" not in str(error.value) and len(str(error.value)) <= 200


@pytest.mark.slow  # compiling the physics takes a minute
@pytest.mark.parametrize("name", ["reacher", "ant-v5"])
def test_mjx_observes_and_pays_like_the_c_engine(name) -> None:
    body = BODIES[name][0]
    environment = mjx.make(body).environment
    state = jax.jit(environment.reset)(jax.random.key(0))
    if name == "ant-v5":  # in the air: contacts are where engines part
        state = state._replace(qpos=state.qpos.at[2].add(1.0))
    model = body.model()
    start = np.concatenate([state.qpos - model.qpos0, state.qvel])
    actions = np.random.default_rng(0).uniform(-0.3, 0.3, (3, model.nu)).astype(np.float32)
    seen, paid, over = in_numpy(body, start, actions)
    step = jax.jit(environment.step)
    for t, action in enumerate(actions):
        state, reward, terminated = step(state, action)
        np.testing.assert_allclose(state.observation, seen[t], rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(reward, paid[t], rtol=1e-3, atol=1e-3)
        assert terminated == over[t]
