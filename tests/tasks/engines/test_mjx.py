"""Bodies on MJX: against MuJoCo's C engine, and as tasks."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from c_engine import c_transitions
from epvf.policies.mlp import Policy
from epvf.tasks import ant, half_cheetah, hopper, make, walker2d
from epvf.tasks.body import State, transition
from epvf.tasks.engines import mjx, native
from epvf.tasks.engines.episode import compiled_for
from epvf.tasks.engines.mjx import MjxState

POLICY = Policy((34, 8, 8))
LENGTH = 30
NUM_ENVS = 900

Step = Callable[..., tuple[MjxState, Any, Any]]


@pytest.fixture(scope="module")
def step() -> Step:
    """A step of `NUM_ENVS` environments; always as many, so that it compiles once."""
    return jax.jit(jax.vmap(mjx.make(ant.BODY).environment.step))


@pytest.mark.slow
def test_single_steps_agree_with_the_c_engine(step: Step) -> None:
    before, after, flatness = c_transitions(NUM_ENVS)
    *moving, ctrl = map(jnp.asarray, before)
    unread = jnp.zeros((NUM_ENVS, 34))
    state, reward, terminated = step(MjxState(moving[0], moving[1], moving[2], unread), ctrl)
    error = np.abs(state.qvel - after).max(axis=1)
    # Feet steeper than 60° to the floor get another contact frame in MJX than in C. Of the others,
    # a few are not solved to the end by the single solver iteration.
    comparable = flatness > 0.5
    assert np.mean(flatness[comparable] < 1.0) > 0.05
    assert np.mean(error[comparable] < 1e-4) > 0.97
    assert error[comparable].max() < 0.5
    for i in range(NUM_ENVS):
        qpos, qvel = np.asarray(state.qpos[i]), np.asarray(state.qvel[i])
        ours = transition(ant.BODY, State(qpos, qvel, np.asarray(ctrl[i]), qpos, 0.0))
        np.testing.assert_allclose(state.observation[i], ours.observation, atol=1e-5)
        np.testing.assert_allclose(reward[i], ours.reward, atol=1e-5)
        assert terminated[i] == ours.terminated


@pytest.mark.slow
def test_open_loop_agrees_with_native_before_the_first_contact(step: Step) -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (12, NUM_ENVS, 8)).astype(np.float32)
    actions[11, 3] = np.nan
    reference = make("ant", "native").replay(actions)
    environment = mjx.make(ant.BODY).environment
    state = jax.vmap(environment.reset)(jax.random.split(jax.random.key(0), NUM_ENVS))
    for t in range(11):
        state, reward, terminated = step(state, actions[t])
        observation = jax.vmap(environment.observe)(state)
        error = np.abs(observation - reference.observation[t])
        assert np.mean(error < 1e-4) > 0.999
        assert error.max() < 0.01
        np.testing.assert_allclose(reward, reference.reward[t], atol=1e-4)
        np.testing.assert_array_equal(terminated, reference.terminated[t])
    state, reward, terminated = step(state, actions[11])
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(reward)), [3])
    np.testing.assert_array_equal(np.flatnonzero(terminated), [3])
    np.testing.assert_array_equal(terminated, reference.terminated[11])


def test_replay_has_the_shapes_of_the_contract() -> None:
    replay = jax.eval_shape(make("ant", "mjx").replay, np.zeros((5, 3, 8), np.float32))
    shapes = [(x.shape, x.dtype) for x in replay]
    assert shapes == [((5, 3, 34), np.float32), ((5, 3), np.float32), ((5, 3), bool)]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["native", "mjx"])
def test_evaluate_keeps_its_contract(backend: str) -> None:
    task = make("ant", backend, episode_length=LENGTH)
    rng = np.random.default_rng(0)
    thetas = (0.3 * rng.normal(size=(8, POLICY.num_parameters))).astype(np.float32)
    thetas[2, 5], thetas[3, 5] = np.nan, np.inf
    thetas[4:6] = thetas[0]
    evaluate = task.evaluator(POLICY)
    evaluation = evaluate(jax.random.key(0), thetas)
    assert evaluation.returns.shape == evaluation.lengths.shape == (8,)
    assert evaluation.returns.dtype == np.float32
    assert evaluation.lengths.dtype == np.int32
    finite = np.isfinite(thetas).all(axis=1)
    np.testing.assert_array_equal(np.isfinite(evaluation.returns), finite)
    np.testing.assert_array_equal(evaluation.lengths > 0, finite)
    assert evaluation.lengths.max() <= LENGTH
    np.testing.assert_array_equal(evaluation.returns[4:6], evaluation.returns[0])
    again = evaluate(jax.random.key(1), thetas)
    np.testing.assert_array_equal(again.returns, evaluation.returns)


def test_sizes() -> None:
    spec = make("ant", "mjx").spec
    assert (spec.backend, spec.traceable, spec.deterministic_reset) == ("mjx", True, True)
    assert (spec.observation_size, spec.action_size, spec.episode_length) == (34, 8, 1000)


def walker_steps(body, num: int = 96):
    """Env steps of the C engine under random controls: what moved before, controls, and after."""
    model, rng = body.model(), np.random.default_rng(0)
    before, controls, after = [], [], []
    for episode in range(num // 16):
        data = mujoco.MjData(model)
        data.qpos[:] += rng.uniform(-5e-3, 5e-3, model.nq)
        data.qpos[1] -= 0.05 * episode  # some into the floor
        for _ in range(16):
            state = (data.qpos, data.qvel, data.qacc_warmstart)
            before.append([np.array(x, np.float32) for x in state])
            data.ctrl[:] = rng.uniform(-1.0, 1.0, model.nu).astype(np.float32)
            controls.append(data.ctrl.copy())
            for _ in range(body.frame_skip):
                mujoco.mj_step(model, data)
            after.append((data.qpos.copy(), data.qvel.copy(), data.ncon > 0))
    columns = [jnp.asarray(np.stack(column)) for column in zip(*before, strict=True)]
    told = [np.stack(column) for column in zip(*after, strict=True)]
    return columns, jnp.asarray(np.stack(controls), jnp.float32), told


@pytest.mark.slow  # compiling the physics takes a minute
@pytest.mark.parametrize("module", [hopper, half_cheetah, walker2d])
def test_walkers_step_like_the_c_engine_and_observe_and_pay_like_native(module) -> None:
    body = module.BODY
    (qpos, qvel, warmstart), ctrl, (c_qpos, c_qvel, contact) = walker_steps(body)
    assert 0.2 < contact.mean() < 1.0
    unread = jnp.zeros((len(qpos), body.observation_size))
    step = jax.jit(jax.vmap(mjx.make(body).environment.step))
    state, reward, terminated = step(mjx.MjxState(qpos, qvel, warmstart, unread), ctrl)
    error = np.abs(np.concatenate([state.qpos - c_qpos, state.qvel - c_qvel], axis=1)).max(axis=1)
    assert np.mean(error < 1e-4) > 0.9 and np.mean(error < 1e-2) > 0.97
    # the same states through the formulas that numba has compiled
    num = len(qpos)
    moved = (np.asarray(x, np.float64) for x in (state.qpos, state.qvel, ctrl, qpos))
    rows = State(*(*moved, np.zeros(num)))
    ours = np.zeros((num, body.observation_size)), np.zeros(num), np.zeros(num, bool)
    compiled_for(body).transitions(rows, *ours)
    np.testing.assert_allclose(state.observation, ours[0], atol=1e-5)
    np.testing.assert_allclose(reward, ours[1], rtol=1e-5, atol=2e-4)
    np.testing.assert_array_equal(terminated, ours[2])


@pytest.mark.parametrize("module", [hopper, half_cheetah, walker2d])
def test_walkers_start_as_on_native(module) -> None:
    body = module.BODY
    environment = mjx.make(body).environment
    reset = jax.jit(jax.vmap(environment.reset))
    state = reset(jax.random.split(jax.random.key(0), 2000))
    start = np.concatenate(body.starts(np.random.default_rng(0), 2000), axis=1)
    offsets = np.asarray(state.qpos) - body.model().qpos0
    ours = np.concatenate([offsets, np.asarray(state.qvel)], axis=1)
    np.testing.assert_allclose(ours.std(axis=0), start.std(axis=0), rtol=0.1)
    np.testing.assert_allclose(ours.mean(axis=0), 0.0, atol=0.01)
    assert np.abs(ours[:, 0]).max() == pytest.approx(np.abs(start[:, 0]).max(), rel=0.01)
    again = reset(jax.random.split(jax.random.key(1), 2000))
    assert (again.qpos != state.qpos).any(axis=1).all()
    seen = jax.vmap(environment.observe)(state)
    np.testing.assert_array_equal(seen[:, : body.model().nq - 1], state.qpos[:, 1:])


@pytest.mark.parametrize("name", ["hopper", "halfcheetah", "walker2d"])
def test_walkers_are_tasks_that_can_be_traced(name) -> None:
    task = make(name, "mjx")
    assert task.spec.traceable and task.spec.draws and not task.spec.deterministic_reset
    assert task.spec == dataclasses.replace(
        make(name, "native").spec, backend="mjx", traceable=True, draws=True
    )


@pytest.mark.slow
def test_formulas_that_read_the_time_get_it() -> None:
    timed = dataclasses.replace(
        ant.BODY,
        name="timed",
        observe=lambda s: (s.qpos[2:3], s.time),
        reward=lambda s: s.time,
        terminated=lambda s: s.time > 0.045,
        observation_limit=np.inf,
    )
    assert timed.reads == {"qpos", "time"}
    policy = Policy((2, 8))
    thetas = np.zeros((2, policy.num_parameters), np.float32)
    for engine in (native, mjx):
        evaluation = engine.make(timed, 20).evaluator(policy)(jax.random.key(0), thetas)
        np.testing.assert_array_equal(evaluation.lengths, 5)
        np.testing.assert_allclose(evaluation.returns, 0.15, rtol=1e-5)


def test_a_solver_that_iterates_stops_where_float32_resolves_no_more() -> None:
    once, often = (mjx._built(body)[0].opt for body in (ant.BODY, hopper.BODY))
    assert float(once.tolerance) == pytest.approx(1e-8)  # of the line search alone
    assert float(often.tolerance) == pytest.approx(mjx.TOLERANCE)


def test_mjx_is_not_imported_where_code_is_on_disk() -> None:
    code = """
import sys
from epvf.tasks import make
from epvf.tasks.engines.lanes import program
program.kept = lambda about, where: True
task = make("ant", "lanes", num_threads=1)
print(task.program.layout.size, "mujoco.mjx" in sys.modules)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["77", "False"]
