"""The Ant on MJX-Warp: a smoke test, on Warp's CPU device where there is no GPU."""

from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epvf.errors import RunFailed

pytest.importorskip("mujoco.mjx")

from c_engine import c_steps, c_transitions
from epvf.policies.mlp import Policy
from epvf.tasks import ant, make
from epvf.tasks.base import Replay
from epvf.tasks.engines import warp
from epvf.tasks.engines.mjx import MjxState
from epvf.tasks.engines.rollout import JaxTask
from epvf.types import Evaluation

needs_warp = pytest.mark.skipif(find_spec("warp") is None, reason="warp-lang is not installed")
NEFC, BROADPHASE, NARROWPHASE, ITERATIONS, LS_ITERATIONS = 1 << 0, 1 << 2, 1 << 3, 1 << 9, 1 << 10


@needs_warp
@pytest.mark.slow
def test_agrees_with_native_before_the_first_contact() -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (8, 3, 8)).astype(np.float32)
    replay, reference = warp.make(ant.BODY).replay(actions), make("ant", "native").replay(actions)
    np.testing.assert_allclose(replay.observation, reference.observation, atol=1e-3)
    np.testing.assert_array_equal(replay.terminated, reference.terminated)


@needs_warp
@pytest.mark.slow
def test_single_steps_agree_with_the_c_engine_with_feet_on_the_floor() -> None:
    before, _, flatness = c_transitions()
    chosen = np.flatnonzero((flatness > 0.5) & (flatness < 1.0))[:64]
    states = [column[chosen] for column in before]
    step = jax.jit(jax.vmap(warp.make(ant.BODY).sized(len(chosen)).environment.step))
    *moving, ctrl = (jnp.asarray(column) for column in states)
    unread = jnp.zeros((len(chosen), 34))
    state, *_ = step(MjxState(moving[0], moving[1], moving[2], unread), ctrl)
    error = np.abs(np.asarray(state.qvel) - c_steps(warp.physics(ant.BODY), states)).max(axis=1)
    assert np.mean(error < 1e-3) > 0.9


@needs_warp
@pytest.mark.slow
def test_evaluates() -> None:
    policy = Policy((34, 8, 8))
    thetas = np.zeros((3, policy.num_parameters), np.float32)
    thetas[1, 0] = np.nan
    evaluation = warp.make(ant.BODY, episode_length=5).evaluator(policy)(jax.random.key(0), thetas)
    np.testing.assert_array_equal(np.isnan(evaluation.returns), [False, True, False])
    np.testing.assert_array_equal(evaluation.lengths, [5, 0, 5])


@needs_warp
@pytest.mark.slow
@pytest.mark.parametrize("what", ["contacts", "constraints"])
def test_a_buffer_that_overflows_on_the_way_fails_the_evaluation(what: str) -> None:
    policy = Policy((34, 8))
    thetas = np.zeros((2, policy.num_parameters), np.float32)
    # the Ant falls onto its feet, each of which takes room
    task = warp.make(ant.BODY, 60, **{f"{what}_per_env": 1})
    with pytest.raises(RunFailed, match=rf"room for 1 {what}.*raise {what}_per_env"):
        task.evaluator(policy)(jax.random.key(0), thetas)
    explore = task.explorer(policy, 60)
    with pytest.raises(RunFailed, match=rf"room for 1 {what}"):
        explore(jax.random.key(0), thetas, explore.reset(jax.random.key(0), 2))


@needs_warp
@pytest.mark.slow
def test_explores() -> None:
    policy = Policy((34, 8))
    explore = warp.make(ant.BODY, episode_length=4).explorer(policy, 6)
    thetas = np.zeros((2, policy.num_parameters), np.float32)
    segment = explore(jax.random.key(0), thetas, explore.reset(jax.random.key(0), 2))
    assert np.isfinite(segment.observations).all() and np.isfinite(segment.rewards).all()
    np.testing.assert_array_equal(segment.truncated[0], [False, False, False, True, False, False])


@needs_warp
def test_bits_are_warps() -> None:
    from mujoco.mjx.third_party.mujoco_warp._src.types import OverflowType as Bits

    named = (Bits.NEFC, Bits.BROADPHASE, Bits.NARROWPHASE, Bits.ITERATIONS, Bits.LS_ITERATIONS)
    assert named == (NEFC, BROADPHASE, NARROWPHASE, ITERATIONS, LS_ITERATIONS)
    assert Bits.NEFC | Bits.NJMAX_NNZ == warp._TOO_MANY_CONSTRAINTS
    assert Bits.ITERATIONS | Bits.LS_ITERATIONS == warp._SOLVER_LIMITS


def test_a_buffer_that_overflows_marks_the_reward_and_the_solvers_limits_do_not() -> None:
    overflow = np.array(
        [0, ITERATIONS, LS_ITERATIONS, NEFC, BROADPHASE, NARROWPHASE | NEFC, NARROWPHASE]
    )
    data: Any = SimpleNamespace(_impl=SimpleNamespace(overflow=jnp.asarray(overflow)))
    rewards = warp._marked(jnp.full(7, 0.5), warp._overflow(data))
    np.testing.assert_array_equal(rewards, [0.5, 0.5, 0.5, np.inf, -np.inf, -np.inf, -np.inf])


@pytest.fixture
def returns(monkeypatch):
    """Sets the returns, and rewards, that rollouts give."""

    def pretend(*values: float) -> None:
        told = np.array(values, np.float32)
        evaluation = Evaluation(told, np.ones(len(told), np.int32))
        replay = Replay(np.zeros((1, len(told), 34)), told[None], np.ones((1, len(told)), bool))
        monkeypatch.setattr(warp, "_environment", lambda *sizes: None)
        monkeypatch.setattr(JaxTask, "evaluator", lambda task, policy: lambda *_: evaluation)
        monkeypatch.setattr(JaxTask, "replay", lambda task, actions: replay)

    return pretend


@pytest.mark.parametrize(("value", "what"), [(np.inf, "constraints"), (-np.inf, "contacts")])
@pytest.mark.usefixtures("loose")
def test_an_overflow_is_never_silent(returns, value: float, what: str) -> None:
    returns(1.0, value, np.nan)
    task, policy = warp.make(ant.BODY), Policy((34, 8))
    room = {"constraints": 40, "contacts": 8}[what]
    expected = rf"room for {room} {what} .* raise {what}_per_env of epvf.tasks.engines.warp.make"
    with pytest.raises(RunFailed, match=expected) as failed:
        task.evaluator(policy)(jax.random.key(0), np.zeros((3, policy.num_parameters)))
    assert "\n" not in str(failed.value)
    with pytest.raises(RunFailed, match=expected):
        task.replay(np.zeros((1, 3, ant.ACTION_SIZE)))


@pytest.mark.usefixtures("loose")
def test_physics_that_fails_is_left_to_be_masked(returns) -> None:
    returns(1.0, np.nan)
    policy = Policy((34, 8))
    evaluation = warp.make(ant.BODY).evaluator(policy)(
        jax.random.key(0), np.zeros((2, policy.num_parameters))
    )
    np.testing.assert_array_equal(evaluation.returns, [1.0, np.nan])
