"""Menagerie's Go2: that it stands, is paid for following, and only its feet touch the ground."""

import importlib.util
from dataclasses import replace

import jax
import mujoco
import numpy as np
import pytest

from epvf.errors import UserError
from epvf.tasks import go2, make
from epvf.tasks.body import State, state_of, transition
from epvf.tasks.engines import mjx

HERE = (0.0, 0.0, go2.HEIGHT, 1.0, 0.0, 0.0, 0.0)


def state(velocity=(0.0,) * 6, command=(0.0,) * 3, quat=None, height=go2.HEIGHT) -> State:
    """In the stance, moving like this."""
    qpos = np.array([*HERE, *go2.STANCE])
    qpos[2] = height
    if quat is not None:
        qpos[3:7] = quat
    qvel = np.array([*velocity, *[0.0] * 12])
    return State(qpos, qvel, np.array(go2.STANCE), qpos, 0.0, np.array(command))


def test_following_the_command_pays_most() -> None:
    moving = state((0.8, 0.1, 0.0, 0.0, 0.0, 0.3), (0.8, 0.1, 0.3))
    assert go2.following(moving) == pytest.approx(1.5) and go2.roughness(moving) == 0.0
    assert go2.reward(moving) == pytest.approx(1.5)
    slower = moving._replace(command=np.array([1.3, 0.1, 0.3]))
    assert go2.reward(slower) == pytest.approx(0.5 + np.exp(-1.0))
    rough = state((0.8, 0.1, 3.0, 2.0, 0.0, 0.3), (0.8, 0.1, 0.3))
    assert go2.roughness(rough) == pytest.approx(9.0 + 0.08) and go2.reward(rough) == 0.0


def test_velocity_is_the_trunks_own() -> None:
    turned = (np.sqrt(0.5), 0.0, 0.0, np.sqrt(0.5))  # its front points along y
    assert go2.following(state((0.0, 0.8, 0, 0, 0, 0), (0.8, 0, 0), turned)) == pytest.approx(1.5)


def test_it_is_over_when_the_trunk_is_down_or_tilted() -> None:
    assert not go2.terminated(state())
    assert go2.terminated(state(height=0.1))
    assert go2.terminated(state(quat=(np.cos(0.6), np.sin(0.6), 0.0, 0.0)))


def test_starts_are_in_the_stance_with_commands_of_their_own() -> None:
    positions, velocities, commands = go2.starts(np.random.default_rng(0), 500)
    assert positions.shape == (500, 19) and velocities.shape == (500, 18)
    assert np.abs(positions[:, 7:] - go2.STANCE).max() <= go2.JOINT_NOISE
    np.testing.assert_allclose(positions[:, 2], go2.HEIGHT - go2.TRUNK_HEIGHT)
    bounds = np.array([go2.FORWARD, go2.SIDEWAYS, go2.TURNING])
    assert (commands >= bounds[:, 0]).all() and (commands <= bounds[:, 1]).all()
    np.testing.assert_allclose(commands.mean(axis=0), bounds.mean(axis=1), atol=0.05)
    assert go2.BODY.command_size == 3


def test_without_the_package_the_extra_is_named(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mujoco_menagerie", None)
    with pytest.raises(UserError, match=r"'go2' needs.*pip install 'epvf\[robots\]'"):
        replace(go2.BODY, model=go2.model.__wrapped__).model()


def test_what_cannot_be_downloaded_is_told_in_a_line(monkeypatch, tmp_path) -> None:
    pytest.importorskip("mujoco_menagerie")
    monkeypatch.setenv("MENAGERIE_ROOT", str(tmp_path))
    with pytest.raises(
        UserError, match="downloads the robot's model once, and could not: connect"
    ) as error:
        go2.model.__wrapped__()
    assert "\n" not in str(error.value) and len(str(error.value)) <= 200


@pytest.fixture(scope="module")
def model() -> mujoco.MjModel:
    if importlib.util.find_spec("mujoco_menagerie") is None:
        pytest.skip("needs the extra robots")
    try:
        return go2.model()
    except UserError as error:
        pytest.skip(str(error))


@pytest.mark.slow
def test_the_robot_stands_on_its_feet(model) -> None:
    spec = make("go2", "native").spec
    assert (spec.observation_size, spec.action_size, spec.step_seconds) == (48, 12, 0.02)
    names = [model.actuator(i).name for i in range(model.nu)]
    joints = [model.joint(1 + i).name for i in range(model.nu)]
    assert [f"{name}_joint" for name in names] == joints
    data, body = mujoco.MjData(model), go2.BODY
    data.qpos[:] = [*HERE, *go2.STANCE]
    now = state_of(data, (), None, np.zeros(3))
    total = 0.0
    for _ in range(100):
        data.ctrl[:] = body.actions(np.zeros(12))
        mujoco.mj_step(model, data, go2.FRAME_SKIP)
        now = state_of(data, (), now, np.zeros(3))
        told = transition(body, now)
        total += float(told.reward)
        assert not told.terminated
    assert 1.4 < total / 100 <= 1.5
    feet = {model.geom(name).id for name in go2.FEET}
    touching = {int(geom) for contact in data.contact for geom in contact.geom}
    assert touching == feet | {model.geom("floor").id}


@pytest.mark.slow
def test_mjx_steps_like_the_c_engine(model) -> None:
    environment = mjx.make(go2.BODY).environment
    begun = jax.jit(environment.reset)(jax.random.key(0))
    # in the air: a single solver iteration does not solve contacts to the end
    begun = begun._replace(qpos=begun.qpos.at[2].add(1.0))
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = begun.qpos, begun.qvel
    action = np.random.default_rng(0).uniform(-0.3, 0.3, 12).astype(np.float32)
    moved, *_ = jax.jit(environment.step)(begun, action)
    data.ctrl[:] = go2.BODY.actions(action)
    mujoco.mj_step(model, data, go2.FRAME_SKIP)
    np.testing.assert_allclose(moved.qpos, data.qpos, atol=1e-4)
    np.testing.assert_allclose(moved.qvel, data.qvel, atol=1e-2)
    np.testing.assert_allclose(moved.command, begun.command)
