"""Rollouts on lanes: against the engines written in JAX, and the same bits whoever runs them."""

import _thread
import threading
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epvf.errors import UserError
from epvf.policies.mlp import Policy
from epvf.tasks import cartpole, make
from epvf.tasks.ant import BODY
from epvf.tasks.base import TaskSpec
from epvf.tasks.engines import lanes, mjx
from epvf.tasks.engines.environment import Environment
from epvf.tasks.engines.lanes import LanesTask, NotLowerable, objects
from epvf.tasks.engines.rollout import JaxTask
from epvf.types import Envs, Segment

POLICY = Policy((1, 1))
KEY = jax.random.key(0)
CARTPOLE = Policy((4, 16, 2), output="argmax")
ANT = Policy((34, 16, 8))

NO_KEY: Any = None
"""Of tasks that start alike."""


class Counter(NamedTuple):
    """Observes and pays how many steps it has gone; over where the actions add up to 1."""

    step: jax.Array
    total: jax.Array
    odd: jax.Array


def _step(state: Counter, action: jax.Array) -> tuple[Counter, jax.Array, jax.Array]:
    new = Counter(state.step + 1, state.total + action[0], ~state.odd)
    reward = jnp.where(jnp.isfinite(action[0]), new.step.astype(jnp.float32), jnp.nan)
    return new, reward, new.total >= 0.999


COUNTER = Environment(
    reset=lambda key: Counter(jnp.zeros((), jnp.int32), jnp.zeros(()), jnp.zeros((), bool)),
    step=_step,
    observe=lambda state: state.step[None].astype(jnp.float32),
)


def _spec(length: int, deterministic: bool = True) -> TaskSpec:
    return TaskSpec("fake", "jax", 1, 1, False, length, deterministic, True)


def _counter(length: int, threads: int = 1) -> LanesTask:
    return lanes.make(COUNTER, _spec(length), threads)


def _constant(actions: list[float]) -> np.ndarray:
    """θ of policies that always act the same: `[N, 2]`."""
    return np.array([[0.0, action] for action in actions], np.float32)


def _population(policy: Policy, num: int, scale: float = 1.0) -> np.ndarray:
    keys = jax.random.split(jax.random.key(7), num)
    return np.asarray(jax.vmap(lambda key: policy.init(key, "lecun_uniform", scale))(keys))


def _cartpole(threads: int = 1, width: int | None = None) -> LanesTask:
    task = cartpole.make(200)
    return lanes.make(task.environment, task.spec, threads, width)


@pytest.fixture(scope="module")
def ant() -> LanesTask:
    task = mjx.make(BODY, 60)
    return lanes.make(task.environment, task.spec, 1)


# Evaluate


def test_the_task_tells_its_backend() -> None:
    spec = make("cartpole", "lanes", num_threads=1).spec
    assert (spec.backend, spec.traceable, spec.draws) == ("lanes", False, False)
    assert make("ant", "lanes", episode_length=7).spec.episode_length == 7


def test_returns_end_with_the_episode() -> None:
    evaluation = _counter(10).evaluator(POLICY)(KEY, _constant([1.0, 0.5, 0.25, 0.0]))
    np.testing.assert_array_equal(evaluation.lengths, [1, 2, 4, 10])
    np.testing.assert_array_equal(evaluation.returns, [1.0, 3.0, 10.0, 55.0])
    assert evaluation.returns.dtype == np.float32 and evaluation.lengths.dtype == np.int32
    np.testing.assert_array_equal(evaluation.starts, np.zeros((4, 1)))


def test_policies_that_wait_for_a_lane_do_as_well() -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 200)
    thetas = _constant([1.0 / length for length in lengths])
    expected = JaxTask(_spec(40), COUNTER).evaluator(POLICY)(jax.random.key(0), thetas)
    for threads in (1, 3):
        evaluation = _counter(40, threads).evaluator(POLICY)(KEY, thetas)
        np.testing.assert_array_equal(evaluation.lengths, expected.lengths)
        np.testing.assert_array_equal(evaluation.returns, expected.returns)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_theta_that_is_not_finite_is_not_run_and_spoils_no_other(bad: float) -> None:
    thetas = _population(CARTPOLE, 40)
    healthy = _cartpole().evaluator(CARTPOLE)(jax.random.key(1), thetas)
    harmed = thetas.copy()
    harmed[::3, 5] = bad
    evaluation = _cartpole().evaluator(CARTPOLE)(jax.random.key(1), harmed)
    assert np.isnan(evaluation.returns[::3]).all() and (evaluation.lengths[::3] == 0).all()
    rest = np.arange(40) % 3 != 0
    np.testing.assert_array_equal(evaluation.returns[rest], healthy.returns[rest])
    np.testing.assert_array_equal(evaluation.lengths[rest], healthy.lengths[rest])
    nobody = _cartpole().evaluator(CARTPOLE)(KEY, np.full_like(thetas, bad))
    assert np.isnan(nobody.returns).all() and not nobody.lengths.any()


@pytest.mark.parametrize(
    ("where", "poison"), [("reward", np.nan), ("reward", np.inf), ("state", np.nan)]
)
def test_a_step_that_fails_ends_its_episode_alone(where: str, poison: float) -> None:
    def step(state: Counter, action: jax.Array) -> tuple[Counter, jax.Array, jax.Array]:
        new, reward, over = _step(state, action)
        failed = (action[0] < 0.0) & (new.step == 3)
        if where == "reward":
            return new, jnp.where(failed, poison, reward), over
        return new._replace(total=jnp.where(failed, poison, new.total)), reward, over

    environment = Environment(COUNTER.reset, step, COUNTER.observe)
    thetas = _constant([-0.1 if i % 5 == 2 else 0.0 for i in range(40)])
    evaluation = lanes.make(environment, _spec(6), 1).evaluator(POLICY)(KEY, thetas)
    failed = np.arange(40) % 5 == 2
    assert np.isnan(evaluation.returns[failed]).all() and (evaluation.lengths[failed] == 3).all()
    assert (evaluation.returns[~failed] == 21.0).all() and (evaluation.lengths[~failed] == 6).all()


def test_cartpole_does_as_in_jax() -> None:
    thetas = _population(CARTPOLE, 100, 3.0)
    key = jax.random.key(3)
    ours = _cartpole().evaluator(CARTPOLE)(key, thetas)
    theirs = cartpole.make(200).evaluator(CARTPOLE)(key, thetas)
    np.testing.assert_array_equal(ours.starts, theirs.starts)
    # a rounding decides an action now and then, and then the episode is another
    assert (ours.lengths == np.asarray(theirs.lengths)).mean() > 0.95
    assert ours.lengths.max() > 60 and ours.lengths.min() < 20


@pytest.mark.parametrize("name", ["cartpole", "ant"])
def test_threads_and_order_change_no_bit(name: str, ant: LanesTask) -> None:
    policy = {"cartpole": CARTPOLE, "ant": ANT}[name]
    one = {"cartpole": _cartpole(), "ant": ant}[name]
    thetas = _population(policy, 50, 2.0)
    order = np.random.default_rng(0).permutation(50)
    expected = one.evaluator(policy)(jax.random.key(0), thetas)
    two = LanesTask(one.program, 2).evaluator(policy)(jax.random.key(0), thetas)
    np.testing.assert_array_equal(two.returns, expected.returns)
    if one.spec.deterministic_reset:
        moved = LanesTask(one.program, 2).evaluator(policy)(jax.random.key(0), thetas[order])
        np.testing.assert_array_equal(moved.returns, expected.returns[order])
        assert len(np.unique(expected.returns)) > 25


def test_any_width_makes_the_same_bits(ant: LanesTask) -> None:
    if not objects.target().lanes.fused:
        pytest.skip("this processor cannot fuse products and sums")
    thetas = _population(CARTPOLE, 50, 2.0)
    found = [
        _cartpole(1, width).evaluator(CARTPOLE)(jax.random.key(0), thetas).returns
        for width in objects.WIDTHS
    ]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[1], found[2])
    thetas = _population(ANT, 20, 2.0)
    other = 8 if ant.program.target.lanes.width == 16 else 16
    narrow = lanes.make(ant.program.environment, ant.spec, 1, other)
    np.testing.assert_array_equal(
        narrow.evaluator(ANT)(KEY, thetas).returns, ant.evaluator(ANT)(KEY, thetas).returns
    )


def test_an_interrupt_ends_a_rollout() -> None:
    evaluate = _counter(2_000_000_000, 2).evaluator(POLICY)
    evaluate(KEY, _constant([1.0]))
    timer = threading.Timer(0.3, _thread.interrupt_main)
    timer.start()
    begin = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        evaluate(KEY, _constant([0.0] * 40))
    assert time.perf_counter() - begin < 5.0


# Explore


def _explore(task: LanesTask | JaxTask, policy: Policy, thetas: np.ndarray, horizons: list[int]):
    envs = task.explorer(policy, 1).reset(jax.random.key(5), len(thetas))
    segments: list[Segment] = []
    for call, horizon in enumerate(horizons):
        explore = task.explorer(policy, horizon)
        segments.append(explore(jax.random.key(call), thetas, envs))
        envs = segments[-1].envs
    return segments


def _same(ours: Segment | Envs, theirs: Segment | Envs, atol: float) -> None:
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        assert x.dtype == y.dtype and x.shape == y.shape
        np.testing.assert_allclose(x, y, rtol=0, atol=atol)


def test_an_episode_goes_on_where_the_last_call_left_it() -> None:
    first, second = _explore(_counter(100), POLICY, _constant([0.2]), [3, 3])
    np.testing.assert_array_equal(first.observations[0, :, 0], [0, 1, 2, 3])
    np.testing.assert_array_equal(second.observations[0, :, 0], [3, 4, 0, 1])
    np.testing.assert_array_equal(second.rewards[0], [4, 5, 1])
    np.testing.assert_array_equal(second.terminated[0], [False, True, False])
    assert np.isnan(first.envs.finished[0]) and first.envs.total[0] == 6.0
    assert second.envs.finished[0] == 15.0 and second.envs.finished_steps[0] == 5


@pytest.mark.parametrize("threads", [1, 3])
def test_segments_are_those_of_jax_to_the_bit_where_nothing_is_rounded(threads: int) -> None:
    lengths = np.random.default_rng(0).integers(1, 30, 70)
    thetas = _constant([np.nan, *(1.0 / length for length in lengths)])
    ours = _explore(_counter(12, threads), POLICY, thetas, [7, 20])
    theirs = _explore(JaxTask(_spec(12), COUNTER), POLICY, thetas, [7, 20])
    for x, y in zip(ours, theirs, strict=True):
        _same(x, y, 0.0)
    assert ours[1].truncated.any() and ours[1].terminated.any()
    assert ours[1].envs.state.odd.any() and not ours[1].envs.state.odd.all()


@pytest.mark.slow
def test_segments_of_cartpole_are_those_of_jax() -> None:
    thetas = _population(CARTPOLE, 37, 3.0)
    task = cartpole.make(25)
    ours = _explore(lanes.make(task.environment, task.spec, 2), CARTPOLE, thetas, [30, 10])
    theirs = _explore(task, CARTPOLE, thetas, [30, 10])
    for x, y in zip(ours, theirs, strict=True):
        _same(x, y, 2e-5)
    assert ours[0].terminated.any() and ours[0].truncated.any()


def test_a_reset_can_be_traced() -> None:
    explore = _cartpole().explorer(CARTPOLE, 3)
    traced = jax.jit(lambda key: explore.reset(key, 5))(jax.random.key(1))
    _same(traced, explore.reset(jax.random.key(1), 5), 0.0)


def test_two_short_segments_are_one_long(ant: LanesTask) -> None:
    thetas = _population(ANT, 20, 2.0)
    first, second = _explore(ant, ANT, thetas, [9, 14])
    (whole,) = _explore(ant, ANT, thetas, [23])
    np.testing.assert_array_equal(first.observations[:, :9], whole.observations[:, :9])
    np.testing.assert_array_equal(second.observations, whole.observations[:, 9:])
    np.testing.assert_array_equal(second.rewards, whole.rewards[:, 9:])
    _same(second.envs, whole.envs, 0.0)


def test_other_engines_go_on_from_there() -> None:
    thetas = _population(CARTPOLE, 5)
    task = cartpole.make(200)
    (segment,) = _explore(_cartpole(), CARTPOLE, thetas, [5])
    theirs = task.explorer(CARTPOLE, 3)(jax.random.key(9), thetas, segment.envs)
    ours = _cartpole().explorer(CARTPOLE, 3)(jax.random.key(9), thetas, segment.envs)
    _same(ours, theirs, 1e-5)


@pytest.mark.slow
def test_a_step_of_the_ant_is_mjxs(ant: LanesTask) -> None:
    num = 900  # as many as in test_mjx, so that MJX's step is compiled once
    thetas = _population(ANT, num, 2.0)
    (segment,) = _explore(ant, ANT, thetas, [50])
    ours = ant.explorer(ANT, 1)(KEY, thetas, segment.envs)
    step = jax.jit(jax.vmap(mjx.make(BODY).environment.step))
    actions = jnp.asarray(np.clip(ours.outputs[:, 0], -1.0, 1.0))
    state, reward, over = step(jax.tree.map(jnp.asarray, segment.envs.state), actions)
    on = ~(ours.terminated | ours.truncated)[:, 0]
    assert on.sum() > 500
    np.testing.assert_array_equal(over, ours.terminated[:, 0])
    new = ours.envs.state
    speed = np.abs(new.qvel[on] - np.asarray(state.qvel)[on]).max(axis=1)
    assert np.median(speed) < 2e-6 and speed.max() < 5e-4
    np.testing.assert_allclose(new.qpos[on], np.asarray(state.qpos)[on], atol=5e-6)
    np.testing.assert_allclose(ours.rewards[:, 0], reward, atol=2e-5)


# the rest


def test_replay_is_jaxs() -> None:
    actions = np.zeros((7, 20, 1), np.float32)
    actions[3, ::2] = 1.0
    ours, theirs = _counter(100).replay(actions), JaxTask(_spec(100), COUNTER).replay(actions)
    for x, y in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(x, y)
    with pytest.raises(UserError, match="random states"):
        _cartpole().replay(actions)


@pytest.mark.parametrize("task", [_counter(100, 2), _cartpole(2)])
def test_bare_steps_are_counted(task: LanesTask) -> None:
    policy = CARTPOLE if task.spec.discrete else POLICY
    stepped = task.bare_stepper(policy, _population(policy, 33))()
    assert stepped.steps == 3300 and stepped.seconds > 0.0


def test_what_does_not_fit_is_told() -> None:
    with pytest.raises(UserError, match="num_threads is 0"):
        _cartpole(0)
    with pytest.raises(UserError, match="does not fit task"):
        _cartpole().evaluator(POLICY)
    with pytest.raises(UserError, match="thetas have shape"):
        _cartpole().evaluator(CARTPOLE)(KEY, np.zeros((3, 2)))


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda state, action: (state, jnp.sort(action * jnp.ones(2))[0], state.odd), "'sort'"),
        (lambda state, action: (state._replace(step=state.total), action[0], state.odd), "state"),
        (lambda state, action: (state, action, state.odd), "not single numbers"),
    ],
)
def test_a_step_that_cannot_be_lowered_is_one_clear_line(step, message: str) -> None:
    task = lanes.make(Environment(COUNTER.reset, step, COUNTER.observe), _spec(5), 1)
    evaluate = task.evaluator(POLICY)
    with pytest.raises(NotLowerable, match=message) as caught:
        evaluate(KEY, _constant([0.0]))
    assert "\n" not in str(caught.value)
