"""Masking, stopping and vectorising of JAX rollouts, on an environment with known returns."""

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epvf.errors import UserError
from epvf.policies.mlp import Policy
from epvf.tasks.base import TaskSpec
from epvf.tasks.engines.rollout import Environment, JaxTask

POLICY = Policy((1, 1))


class Countdown(NamedTuple):
    """Reward `t` at step `t`, until the actions add up to 1; afterwards poison."""

    step: jax.Array
    total: jax.Array


def step(state: Countdown, action: jax.Array) -> tuple[Countdown, jax.Array, jax.Array]:
    new = Countdown(state.step + 1.0, state.total + action[0])
    over = state.total >= 1.0
    return new, jnp.where(over, 1e9, new.step), new.total >= 1.0


ENVIRONMENT = Environment(
    reset=lambda key: Countdown(jnp.zeros(()), jnp.zeros(())),
    step=step,
    observe=lambda state: jnp.ones(1),
)


def task(episode_length: int, environment: Environment = ENVIRONMENT) -> JaxTask:
    return JaxTask(TaskSpec("fake", "jax", 1, 1, False, episode_length, True, True), environment)


def constant_actions(actions: list[float]) -> jax.Array:
    """θ of policies that always act the same: `[N, 2]`."""
    return jnp.array([[0.0, action] for action in actions])


def test_return_ends_with_the_episode() -> None:
    evaluate = task(10).evaluator(POLICY)
    evaluation = evaluate(jax.random.key(0), constant_actions([1.0, 0.5, 0.25, 0.0]))
    np.testing.assert_array_equal(evaluation.lengths, [1, 2, 4, 10])
    np.testing.assert_array_equal(evaluation.returns, [1.0, 3.0, 10.0, 55.0])
    assert evaluation.returns.dtype == jnp.float32
    assert evaluation.lengths.dtype == jnp.int32
    np.testing.assert_array_equal(evaluation.starts, np.ones((4, 1)))


def test_returns_are_counted_beyond_what_float32_can_add_one_by_one() -> None:
    long = Environment(
        reset=lambda key: jnp.zeros(()),
        step=lambda state, action: (
            state + 1.0,
            jnp.where(state == 0.0, 2.0**24, 1.0),
            jnp.zeros((), bool),
        ),
        observe=lambda state: jnp.ones(1),
    )
    evaluate = task(1001, long).evaluator(POLICY)
    returns = evaluate(jax.random.key(0), constant_actions([1.0])).returns
    np.testing.assert_array_equal(returns, [2.0**24 + 1000])


@pytest.mark.parametrize("num_slots", [1, 2, 3, 7, 8, 100])
def test_policies_that_wait_for_a_slot_do_as_well(num_slots: int) -> None:
    lengths = np.array([1, 2, 40, 4, 100, 5, 8, 10])
    thetas = constant_actions([1.0 / length for length in lengths]).at[3].set(jnp.nan)
    queued = replace(task(50), num_slots=num_slots).evaluator(POLICY)
    evaluation = queued(jax.random.key(0), thetas)
    expected = task(50).evaluator(POLICY)(jax.random.key(0), thetas)
    for ours, theirs in zip(*map(jax.tree.leaves, (evaluation, expected)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype
    assert evaluation.lengths[4] == 50


def test_each_waiting_policy_starts_where_it_would_have() -> None:
    environment = Environment(
        reset=lambda key: Countdown(jnp.zeros(()), jax.random.uniform(key)),
        step=lambda state, action: (state, state.total, jnp.ones((), bool)),
        observe=lambda state: state.total[None],
    )
    thetas = jnp.zeros((7, 2))
    key = jax.random.key(3)
    expected = task(5, environment).evaluator(POLICY)(key, thetas)
    evaluation = replace(task(5, environment), num_slots=2).evaluator(POLICY)(key, thetas)
    np.testing.assert_array_equal(evaluation.returns, expected.returns)
    np.testing.assert_array_equal(evaluation.starts[:, 0], evaluation.returns)
    assert len(set(evaluation.returns.tolist())) == 7


def test_waiting_policies_vmap_over_seeds() -> None:
    evaluate = replace(task(10), num_slots=2).evaluator(POLICY)
    thetas = jnp.stack([constant_actions([1.0, 0.5, 0.1]), constant_actions([0.25, 0.0, 1.0])])
    evaluation = jax.jit(jax.vmap(evaluate))(jax.random.split(jax.random.key(0), 2), thetas)
    np.testing.assert_array_equal(evaluation.lengths, [[1, 2, 10], [4, 10, 1]])


def test_stops_when_all_are_done() -> None:
    # 10 to the 9 steps would not end in the lifetime of this test
    evaluate = task(10**9).evaluator(POLICY)
    evaluation = evaluate(jax.random.key(0), constant_actions([1.0, 0.25]))
    np.testing.assert_array_equal(evaluation.lengths, [1, 4])


def test_vmaps_over_seeds() -> None:
    evaluate = task(10).evaluator(POLICY)
    thetas = jnp.stack([constant_actions([1.0, 0.5]), constant_actions([0.25, 0.0])])
    evaluation = jax.jit(jax.vmap(evaluate))(jax.random.split(jax.random.key(0), 2), thetas)
    np.testing.assert_array_equal(evaluation.lengths, [[1, 2], [4, 10]])
    np.testing.assert_array_equal(evaluation.returns, [[1.0, 3.0], [10.0, 55.0]])


def test_compiles_once() -> None:
    traces = 0

    def counted(state: Countdown, action: jax.Array) -> tuple[Countdown, jax.Array, jax.Array]:
        nonlocal traces
        traces += 1
        return step(state, action)

    environment = Environment(ENVIRONMENT.reset, counted, ENVIRONMENT.observe)
    thetas = constant_actions([1.0])
    task(10, environment).evaluator(POLICY)(jax.random.key(0), thetas)
    first = traces
    task(10, environment).evaluator(POLICY)(jax.random.key(1), 2.0 * thetas)
    assert traces == first


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_reward_ends_the_episode_and_shows_in_the_return(bad: float) -> None:
    def breaks(state: Countdown, action: jax.Array) -> tuple[Countdown, jax.Array, jax.Array]:
        new, reward, terminated = step(state, action)
        return new, jnp.where(action[0] < 0.0, bad, reward), terminated

    evaluate = task(5, Environment(ENVIRONMENT.reset, breaks, ENVIRONMENT.observe))
    evaluation = evaluate.evaluator(POLICY)(jax.random.key(0), constant_actions([-1.0, 0.0]))
    assert not np.isfinite(evaluation.returns[0])
    np.testing.assert_array_equal(evaluation.lengths, [1, 5])
    assert evaluation.returns[1] == 15.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_theta_shows_in_the_return(bad: float) -> None:
    thetas = constant_actions([0.5, 0.5]).at[0, 0].set(bad)
    evaluation = task(5).evaluator(POLICY)(jax.random.key(0), thetas)
    np.testing.assert_array_equal(evaluation.returns, [np.nan, 3.0])
    np.testing.assert_array_equal(evaluation.lengths, [0, 2])


def test_replay_freezes_after_termination() -> None:
    environment = Environment(ENVIRONMENT.reset, step, lambda state: state.total[None])
    actions = np.full((4, 2, 1), 0.5, np.float32)
    actions[:, 1] = 0.125
    replay = task(10, environment).replay(actions)
    np.testing.assert_array_equal(replay.observation[:, 0, 0], [0.5, 1.0, 1.0, 1.0])
    np.testing.assert_array_equal(replay.observation[:, 1, 0], [0.125, 0.25, 0.375, 0.5])
    np.testing.assert_array_equal(replay.reward, [[1, 1], [2, 2], [0, 3], [0, 4]])
    np.testing.assert_array_equal(replay.terminated[:, 0], [False, True, True, True])
    assert not replay.terminated[:, 1].any()


@pytest.mark.parametrize(
    ("thetas", "message"),
    [
        (np.zeros(2), r"\[2\].*\[N, P\]"),
        (np.zeros((0, 2)), r"\[0, 2\].*N >= 1"),
        (np.zeros((3, 5)), r"\[3, 5\].*P = 2"),
        (np.zeros((1, 3, 2)), r"\[1, 3, 2\]"),
    ],
)
@pytest.mark.usefixtures("loose")
def test_refuses_populations_of_wrong_shape(thetas: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        task(5).evaluator(POLICY)(jax.random.key(0), thetas)


@pytest.mark.parametrize("shape", [(3, 2), (0, 2, 1), (3, 0, 1), (3, 2, 2)])
@pytest.mark.usefixtures("loose")
def test_refuses_actions_of_wrong_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="T, N, 1"):
        task(5).replay(np.zeros(shape, np.float32))
