"""Robots of one's own: from a model and formulas to a task on every engine."""

import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

import epvf
from epvf.errors import UserError
from epvf.policies.mlp import Policy
from epvf.tasks import formulas, make
from epvf.tasks.base import explorer_of
from epvf.tasks.body import Actions, State, first_state, transition
from epvf.tasks.calls import in_jax
from epvf.tasks.engines import mjx, native
from epvf.tasks.engines.jitted import jitted

POLE = """
<mujoco>
  <worldbody><body name="pole">
    <joint name="hinge" axis="0 1 0"/><geom type="capsule" fromto="0 0 0 0 0 .5" size=".02"/>
    <site name="tip" pos="0 0 .5"/>
  </body></worldbody>
  <actuator><motor joint="hinge" ctrllimited="true" ctrlrange="-3 5"/></actuator>
  <sensor><jointpos joint="hinge"/><framepos objtype="site" objname="tip"/></sensor>
</mujoco>
"""


def pole(model=POLE, **changes):
    """The pole, with other formulas where asked for."""
    usual: dict[str, Any] = {
        "observe": lambda s: (s.qpos, s.qvel),
        "reward": lambda s: 1.0 - s.qpos[0] ** 2,
        "terminated": lambda s: abs(s.qpos[0]) > 0.5,
        "episode_length": 40,
    }
    return epvf.MujocoTask(model, **(usual | changes))


def thetas_of(policy: Policy, num: int) -> np.ndarray:
    size = (num, policy.num_parameters)
    return np.random.default_rng(0).normal(size=size).astype(np.float32)


def test_a_model_may_be_text_a_file_a_spec_or_a_model(tmp_path) -> None:
    path = tmp_path / "pole.xml"
    path.write_text(POLE)
    spec, model = mujoco.MjSpec.from_string(POLE), mujoco.MjModel.from_xml_string(POLE)
    for given in (POLE, path, str(path), spec, model):
        body = pole(given)
        assert (body.observation_size, body.model().nu) == (2, 1)
        assert body.step_seconds == pytest.approx(0.002)


def test_actions_spread_over_the_control_range() -> None:
    body = pole()
    np.testing.assert_allclose(
        body.actions(np.array([-1.0, 0.0, 1.0])[:, None]).ravel(), [-3, 1, 5]
    )
    other = pole(action_offset=0.5, action_scale=[0.25])
    np.testing.assert_allclose(other.actions(np.array([-1.0, 1.0])[:, None]).ravel(), [0.25, 0.75])
    free = POLE.replace(' ctrllimited="true" ctrlrange="-3 5"', "")
    assert pole(free).actions.plain
    assert Actions(np.zeros(2), np.ones(2)).plain


BOTH = ["native", pytest.param("mjx", marks=pytest.mark.slow)]


@pytest.mark.slow
@pytest.mark.parametrize("backend", BOTH)
def test_engines_pay_what_the_formulas_say(backend) -> None:
    body = pole(
        observe=lambda s: (s.qpos, s.qvel, s.sensordata, s.site_xpos[0], s.ctrl, s.time),
        reward=lambda s: s.sensordata[3] - 0.01 * s.ctrl[0] ** 2 + s.xpos[1, 2],
        terminated=None,
        frame_skip=3,
    )
    actions = np.random.default_rng(0).uniform(-0.3, 0.3, (12, 2, 1)).astype(np.float32)
    model, expected = body.model(), []
    data: Any = mujoco.MjData(model)
    for action in actions[:, 0]:
        data.ctrl[:] = 1.0 + 4.0 * action
        mujoco.mj_step(model, data, 3)
        parts = (data.qpos, data.qvel, data.sensordata, data.site_xpos[0], data.ctrl, [data.time])
        paid = data.sensordata[3] - 0.01 * data.ctrl[0] ** 2 + data.xpos[1, 2]
        expected.append((np.concatenate(parts), paid))
    replay = make(body, backend).replay(actions)
    for t, (seen, paid) in enumerate(expected):
        np.testing.assert_allclose(replay.observation[t, 0], seen, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(replay.reward[t, 0], paid, rtol=1e-4, atol=1e-4)
    assert not replay.terminated.any()


def asked(random, num):
    """Starts a little off, and an angle to be held, in the class of 0.1 to 0.3 rad."""
    offsets = random.uniform(-0.05, 0.05, (num, 2))
    return offsets[:, :1], offsets[:, 1:], random.uniform(0.1, 0.3, (num, 1))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["native", "mjx"])
def test_a_command_stays_for_an_episode_and_is_another_in_the_next(backend) -> None:
    body = pole(
        observe=lambda s: (s.qpos, s.command),
        reward=lambda s: -((s.qpos[0] - s.command[0]) ** 2),
        terminated=None,
        starts=asked,
        episode_length=6,
    )
    assert body.command_size == 1
    policy = Policy((2, 1), output="clip")
    explore = explorer_of(make(body, backend), policy, 4)
    thetas = thetas_of(policy, 3)
    first = explore(jax.random.key(1), thetas, explore.reset(jax.random.key(0), 3))
    second = explore(jax.random.key(2), thetas, first.envs)
    told = np.concatenate([first.observations[:, :-1, 1], second.observations[:, :, 1]], axis=1)
    assert ((told >= 0.1) & (told <= 0.3)).all()
    assert (told[:, :6] == told[:, :1]).all() and (told[:, 6:] == told[:, 6:7]).all()
    assert (told[:, 6] != told[:, 0]).all() and len(np.unique(told[:, 0])) == 3
    assert np.asarray(second.truncated)[:, 1].all()


def test_functions_of_numpy_math_and_jax_run_on_every_engine() -> None:
    helper = lambda x: math.pi * np.cos(x)  # noqa: E731
    body = pole(
        observe=lambda s: np.concatenate((s.qpos, np.sin(s.qvel))),
        reward=lambda s: jnp.exp(-(s.qpos[0] ** 2)) + helper(s.qpos[0]) + math.sqrt(s.ctrl[0] ** 2),
        terminated=lambda s: np.where(s.qpos[0] > 0.0, False, s.qpos[0] < -1.0),
    )
    x, y = np.array([0.3]), jnp.array([0.3], jnp.float32)
    state = State(x, x, x, x, 0.0)
    told = transition(body, state)
    traced = jax.jit(lambda s: transition(body, s))(State(y, y, y, y, jnp.zeros(())))
    expected = math.exp(-0.09) + math.pi * math.cos(0.3) + 0.3
    np.testing.assert_allclose([told.reward, traced.reward], expected, rtol=1e-6)
    np.testing.assert_allclose(traced.observation, told.observation, rtol=1e-6)
    compiled = [jitted(formula, "here")(state) for formula in (body.reward, body.terminated)]
    np.testing.assert_allclose(compiled[0], expected, rtol=1e-12)
    assert not compiled[1]


def test_formulas_without_numpy_are_left_alone() -> None:
    plain = lambda s: s.qpos[0] + formulas.exp(s.time)  # noqa: E731
    assert in_jax(plain) is plain
    other = lambda s: np.exp(s.time)  # noqa: E731
    assert in_jax(other) is not other and in_jax(other) is in_jax(other)


@pytest.mark.slow
def test_v_of_states_and_theta_evolution_and_evaluation_take_it(workplace) -> None:
    body = pole(starts=0.05, name="own")
    config = epvf.Config().replace(
        {"task.name": "own", "policy.output": "clip", "num_envs": 8, "iterations": 2}
    )
    small = {"policy.hidden_sizes": [4], "value.hidden_sizes": [4], "eval.episodes": 2}
    result = epvf.train(config.replace(small), body)
    assert len(result.records) == 2 and result.records[-1]["rollout/episode_return"] > 0.0


SPOILED = "<mujoco><worldbody><body><geom/></body></worldbody></mujoco>"


def failing(s):
    """Fails on its second line."""
    far = s.qpos[0]
    return far + s.qpos[7]


def nowhere(random, num):
    """Starts that are not finite."""
    return np.full((num, 1), np.inf), np.zeros((num, 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "<mujoco><worldbodyy/></mujoco>"}, "does not compile: .*worldbodyy"),
        ({"model": "nowhere.xml"}, "no file nowhere.xml"),
        ({"model": 3}, "a model is a path.*not int"),
        ({"model": SPOILED}, "no actuators|does not compile"),
        ({"frame_skip": 0}, "frame_skip is 0"),
        ({"episode_length": 1.5}, "episode_length is 1.5"),
        ({"observe": None}, "observe must be a plain function"),
        ({"reward": math.exp}, "reward must be a plain function"),
        ({"observe": lambda s: s.qpoz}, r"s\.qpoz.*did you mean s\.qpos"),
        ({"observe": lambda s: s.command}, "s.command.*no commands"),
        ({"observe": lambda s: ()}, r"'observe' \(test_mujoco_task.py:\d+\).*"),
        ({"observe": lambda s: "high"}, "'observe'.*not real numbers"),
        ({"reward": lambda s: s.qpos}, r"'reward'.*shape \[1\], not one number"),
        ({"reward": failing}, r"'reward' \(test_mujoco_task.py:\d+\).*IndexError"),
        ({"terminated": lambda s: s.qpos[0]}, "'terminated'.*not true or false"),
        ({"starts": math.nan}, "starts is nan, but must be finite"),
        ({"starts": nowhere}, r"starts \(test_mujoco_task.py:\d+\) makes positions.*not finite"),
        (
            {"starts": lambda r, n: (np.zeros((n, 2)), np.zeros((n, 1)))},
            r"positions.*\[2, 2\].*\[2, 1\]",
        ),
        ({"starts": lambda r, n: (np.zeros((n, 1)),)}, "1 parts"),
        ({"starts": lambda r, n: r.normal(0, "a")}, "'starts'.*fails"),
        ({"action_scale": [1.0, 2.0]}, "action_scale must be 1 finite numbers"),
        ({"action_offset": math.inf}, "action_offset must be 1 finite"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(changes, message) -> None:
    with pytest.raises(UserError, match=message) as error:
        pole(**changes)
    assert "\n" not in str(error.value) and len(str(error.value)) <= 200


def test_the_line_of_a_formula_that_fails_is_named() -> None:
    with pytest.raises(UserError) as error:
        pole(reward=failing)
    line = failing.__code__.co_firstlineno + 3
    assert f"test_mujoco_task.py:{line})" in str(error.value)


def hesitant(s):
    """What neither JAX nor numba takes for two kinds."""
    return s.qpos[0] if s.qpos[0] > 0 else 0.0


def test_a_formula_that_jax_cannot_trace_is_named_with_its_line() -> None:
    body = pole(reward=hesitant)
    line = hesitant.__code__.co_firstlineno + 2
    with pytest.raises(
        UserError, match=rf"'reward' \(test_mujoco_task.py:{line}\).*where"
    ) as error:
        mjx.make(body)
    assert "\n" not in str(error.value) and len(str(error.value)) <= 200


def uncompilable(s):
    """In numpy it works, numba knows no such function."""
    return float(np.einsum("i->", s.qpos))


def test_a_formula_that_numba_cannot_compile_is_named_with_its_line() -> None:
    body = pole(reward=uncompilable)
    line = uncompilable.__code__.co_firstlineno + 2
    with pytest.raises(
        UserError, match=rf"'reward' \(test_mujoco_task.py:{line}\).*numba"
    ) as error:
        native.make(body)
    assert "\n" not in str(error.value) and len(str(error.value)) <= 200


def test_only_what_formulas_read_is_derived() -> None:
    assert pole().derived == () and pole().remembered == ()
    moving = pole(reward=lambda s: s.xpos[1, 0] - s.previous_xpos[1, 0])
    assert (moving.derived, moving.remembered) == (("xpos",), ("previous_xpos",))
    assert first_state(moving).previous_xpos.shape == (2, 3)
    assert replace(moving, reward=lambda s: s.cvel[1, 0]).derived == ("cvel",)
