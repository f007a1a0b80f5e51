"""The Ant's model, observation, reward and termination."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from epvf.tasks import ant
from epvf.tasks.body import State, Transition, transition


def random_states(num: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Any orientation, any velocity, heights around both limits; float64."""
    rng = np.random.default_rng(seed)
    qpos = rng.normal(size=(num, 15))
    qpos[:, 2] = rng.uniform(-0.2, 1.4, num)
    qpos[:, 3:7] /= np.linalg.norm(qpos[:, 3:7], axis=1, keepdims=True)
    return qpos, 2.0 * rng.normal(size=(num, 14)), rng.uniform(-1.0, 1.0, (num, 8))


def look(qpos, qvel, ctrl) -> Transition:
    """What the Ant's formulas make of one state."""
    return transition(ant.BODY, State(qpos, qvel, ctrl, qpos, 0.0))


def looks(qpos, qvel, ctrl) -> Transition:
    """The same of rows of states."""
    rows = [look(*state) for state in zip(qpos, qvel, ctrl, strict=True)]
    return Transition(*map(np.stack, zip(*rows, strict=True)))


def test_options() -> None:
    option = ant.model().opt
    assert option.timestep == 0.01
    assert option.integrator == mujoco.mjtIntegrator.mjINT_EULER
    assert option.solver == mujoco.mjtSolver.mjSOL_NEWTON
    assert (option.iterations, option.ls_iterations) == (1, 4)
    assert option.disableflags == int(mujoco.mjtDisableBit.mjDSBL_EULERDAMP)


def test_sizes_and_geoms() -> None:
    model = ant.model()
    assert (model.nq, model.nv, model.nu, model.njnt, model.ngeom) == (15, 14, 8, 9, 14)
    np.testing.assert_array_equal(model.geom_contype, 0)
    np.testing.assert_array_equal(model.geom_conaffinity, 0)
    np.testing.assert_array_equal(model.geom_condim, 3)
    np.testing.assert_array_equal(model.geom_friction, np.tile([1.0, 0.5, 0.5], (14, 1)))
    np.testing.assert_array_equal(model.geom_margin, 0.01)
    assert model.geom("torso_geom").size[0] == 0.25
    capsules = model.geom_type == mujoco.mjtGeom.mjGEOM_CAPSULE
    assert capsules.sum() == 12
    np.testing.assert_array_equal(model.geom_size[capsules, 0], 0.08)
    # density 5: the torso's mass is that of a ball of radius 0.25, plus four capsules
    capsule = np.pi * 0.08**2 * np.hypot(0.2, 0.2) + 4 / 3 * np.pi * 0.08**3
    assert model.body("aux_1").mass[0] == pytest.approx(5.0 * capsule)
    assert model.body("torso").mass[0] == pytest.approx(5.0 * 4 / 3 * np.pi * 0.25**3)


def test_contact_pairs_have_mujocos_defaults() -> None:
    model = ant.model()
    assert model.npair == 4
    floor = model.geom("floor").id
    pairs = {frozenset(pair) for pair in zip(model.pair_geom1, model.pair_geom2, strict=True)}
    assert pairs == {
        frozenset((model.geom(f"{leg}_ankle_geom").id, floor))
        for leg in ("left", "right", "third", "fourth")
    }
    np.testing.assert_array_equal(model.pair_friction, np.tile([1, 1, 0.005, 1e-4, 1e-4], (4, 1)))
    np.testing.assert_array_equal(model.pair_margin, 0.0)
    np.testing.assert_array_equal(model.pair_gap, 0.0)
    np.testing.assert_array_equal(model.pair_dim, 3)


def test_joints_and_actuators() -> None:
    model = ant.model()
    np.testing.assert_array_equal(model.dof_armature, [0.0] * 6 + [1.0] * 8)
    np.testing.assert_array_equal(model.dof_damping, [0.0] * 6 + [1.0] * 8)
    np.testing.assert_array_equal(model.jnt_limited, [0] + [1] * 8)
    degrees = {name: np.degrees(model.joint(name).range) for name in ant_joints()}
    for leg in "1234":
        np.testing.assert_allclose(degrees[f"hip_{leg}"], [-30, 30])
        low = 30 if leg in "14" else -70
        np.testing.assert_allclose(degrees[f"ankle_{leg}"], [low, low + 40])
    driven = [model.joint(joint).name for joint in model.actuator_trnid[:, 0]]
    assert driven == [f"{part}_{leg}" for leg in "4123" for part in ("hip", "ankle")]
    np.testing.assert_array_equal(model.actuator_gear[:, 0], 150.0)
    np.testing.assert_array_equal(model.actuator_ctrlrange, np.tile([-1.0, 1.0], (8, 1)))
    np.testing.assert_array_equal(model.actuator_ctrllimited, 1)


def ant_joints() -> list[str]:
    return [f"{part}_{leg}" for leg in "1234" for part in ("hip", "ankle")]


def test_initial_state() -> None:
    np.testing.assert_array_equal(ant.model().qpos0, [0, 0, 0.75, 1] + [0] * 11)


def test_observation_against_rotation_matrices() -> None:
    qpos, qvel, ctrl = random_states(500)
    back = Rotation.from_quat(qpos[:, [4, 5, 6, 3]]).inv()
    expected = np.concatenate(
        [
            qpos[:, 2:3],
            qpos[:, 7:],
            qvel[:, 6:],
            back.apply(qvel[:, :3]),
            qvel[:, 3:6],
            back.apply([0.0, 0.0, -1.0]),
            ctrl,
        ],
        axis=1,
    )
    result = looks(qpos, qvel, ctrl)
    np.testing.assert_allclose(result.observation, expected, atol=1e-13)
    velocity = expected[:, 17:20]
    reward = np.exp(-((velocity[:, 0] - 2.0) ** 2 + velocity[:, 1] ** 2) / 0.25)
    np.testing.assert_allclose(result.reward, reward, atol=1e-13)
    np.testing.assert_array_equal(result.terminated, (qpos[:, 2] < 0.2) | (qpos[:, 2] > 1.0))


def test_numpy_equals_jax() -> None:
    state = [x.astype(np.float32) for x in random_states(1000)]
    ours, theirs = looks(*state), jax.vmap(look)(*map(jnp.asarray, state))
    assert isinstance(ours.observation, np.ndarray)
    assert ours.observation.dtype == theirs.observation.dtype == np.float32
    np.testing.assert_allclose(ours.observation, theirs.observation, atol=3e-6)
    np.testing.assert_allclose(ours.reward, theirs.reward, atol=1e-5)
    np.testing.assert_array_equal(ours.terminated, theirs.terminated)


@pytest.mark.parametrize(
    ("velocity", "reward"),
    [
        ((2.0, 0.0), 1.0),
        ((0.0, 0.0), np.exp(-16.0)),
        ((1.0, 0.0), np.exp(-4.0)),
        ((1.5, 0.0), np.exp(-1.0)),
        ((2.0, 0.5), np.exp(-1.0)),
        ((2.0, -0.5), np.exp(-1.0)),
    ],
)
def test_reward_closed_form(velocity: tuple[float, float], reward: float) -> None:
    qpos, qvel = np.array(ant.model().qpos0), np.zeros(14)
    qvel[:2] = velocity
    assert look(qpos, qvel, np.zeros(8)).reward == pytest.approx(reward, rel=1e-12)


@given(yaw=st.floats(-np.pi, np.pi), vx=st.floats(-3, 3), vy=st.floats(-3, 3))
@settings(max_examples=50, deadline=None)
def test_reward_does_not_depend_on_heading(yaw: float, vx: float, vy: float) -> None:
    qpos, qvel = np.array(ant.model().qpos0), np.zeros(14)
    qpos[3], qpos[6] = np.cos(yaw / 2), np.sin(yaw / 2)
    qvel[0], qvel[1] = vx * np.cos(yaw) - vy * np.sin(yaw), vx * np.sin(yaw) + vy * np.cos(yaw)
    expected = np.exp(-((vx - 2.0) ** 2 + vy**2) / 0.25)
    assert look(qpos, qvel, np.zeros(8)).reward == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("height", "terminated"),
    [(0.19, True), (0.2, False), (0.75, False), (1.0, False), (1.01, True)],
)
def test_terminates_outside_the_height_range(height: float, terminated: bool) -> None:
    qpos = np.array(ant.model().qpos0)
    qpos[2] = height
    assert look(qpos, np.zeros(14), np.zeros(8)).terminated == terminated


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["height", "quaternion", "velocity", "joint", "spin", "ctrl"])
@pytest.mark.parametrize("xp", [np, jnp])
def test_what_is_not_finite_terminates_without_a_finite_reward(bad, where, xp) -> None:
    qpos, qvel, ctrl = np.array(ant.model().qpos0), np.zeros(14), np.zeros(8)
    array, index = {
        "height": (qpos, 2),
        "quaternion": (qpos, 4),
        "velocity": (qvel, 0),
        "joint": (qvel, 9),
        "spin": (qvel, 3),
        "ctrl": (ctrl, 5),
    }[where]
    array[index] = bad
    with np.errstate(invalid="ignore"):
        result = look(*(xp.asarray(x, xp.float32) for x in (qpos, qvel, ctrl)))
    assert result.terminated
    assert np.isnan(result.reward)
    assert np.isfinite(result.observation).all()


def test_observation_is_clipped() -> None:
    qvel = np.zeros(14)
    qvel[6:8] = 1e3, -1e3
    observation = look(np.array(ant.model().qpos0), qvel, np.zeros(8)).observation
    np.testing.assert_array_equal(observation[9:12], [100.0, -100.0, 0.0])
