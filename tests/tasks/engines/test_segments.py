"""Exploring: environments that go on from call to call, on every engine that can."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import epvf
from epvf.errors import UserError
from epvf.policies.mlp import Policy
from epvf.tasks.base import TaskSpec, explorer_of
from epvf.tasks.engines.environment import Environment
from epvf.tasks.engines.rollout import JaxTask
from epvf.types import Explore
from probes import FormulaTask

POLICY = Policy((1, 1))


class Counter(NamedTuple):
    """Observes and pays how many steps it has gone; over where the actions add up to 1."""

    step: jax.Array
    total: jax.Array


def _step(state: Counter, action: jax.Array) -> tuple[Counter, jax.Array, jax.Array]:
    new = Counter(state.step + 1.0, state.total + action[0])
    reward = jnp.where(jnp.isfinite(action[0]), new.step, jnp.nan)
    return new, reward, new.total >= 0.999


ENVIRONMENT = Environment(
    reset=lambda key: Counter(jnp.zeros(()), jnp.zeros(())),
    step=_step,
    observe=lambda state: state.step[None],
)


def _explore(thetas: jax.Array, horizon: int, calls: int, episode_length: int = 100) -> list:
    spec = TaskSpec("fake", "jax", 1, 1, False, episode_length, True, True)
    explore = JaxTask(spec, ENVIRONMENT).explorer(POLICY, horizon)
    envs, segments = explore.reset(jax.random.key(0), len(thetas)), []
    for call in range(calls):
        segments.append(explore(jax.random.key(call), thetas, envs))
        envs = segments[-1].envs
    return segments


def test_an_episode_goes_on_where_the_last_call_left_it() -> None:
    thetas = jnp.array([[0.0, 0.2]])  # terminates at the fifth step
    first, second = _explore(thetas, 3, 2)
    np.testing.assert_array_equal(first.observations[0, :, 0], [0, 1, 2, 3])
    np.testing.assert_array_equal(first.rewards[0], [1, 2, 3])
    np.testing.assert_array_equal(second.observations[0, :, 0], [3, 4, 0, 1])
    np.testing.assert_array_equal(second.rewards[0], [4, 5, 1])
    np.testing.assert_array_equal(second.terminated[0], [False, True, False])
    assert not first.terminated.any() and not second.truncated.any()
    assert np.isnan(first.envs.finished[0]) and first.envs.finished_steps[0] == 0
    assert float(first.envs.total[0]) == 6.0
    assert float(second.envs.finished[0]) == 15.0 and int(second.envs.finished_steps[0]) == 5
    assert float(second.envs.total[0]) == 1.0 and int(second.envs.steps[0]) == 1


def test_time_that_is_over_truncates_and_does_not_terminate() -> None:
    (segment,) = _explore(jnp.zeros((1, 2)), 5, 1, episode_length=2)
    np.testing.assert_array_equal(segment.truncated[0], [False, True, False, True, False])
    assert not segment.terminated.any()
    np.testing.assert_array_equal(segment.observations[0, :, 0], [0, 1, 0, 1, 0, 1])


def test_a_failure_is_marked_ends_the_episode_and_hurts_no_other() -> None:
    (segment,) = _explore(jnp.array([[0.0, jnp.nan], [0.0, 0.0]]), 3, 1)
    assert np.isnan(segment.rewards[0]).all() and segment.terminated[0].all()
    np.testing.assert_array_equal(segment.rewards[1], [1, 2, 3])
    assert np.isfinite(segment.observations).all()
    assert float(segment.envs.finished[0]) == 0.0


ANT = Policy((34, 8, 8))
HORIZON, CALLS = 10, 30


@pytest.fixture(scope="module")
def thetas() -> np.ndarray:
    draws = jax.vmap(ANT.init)(jax.random.split(jax.random.key(0), 12))
    return np.asarray(draws) * 2.0


def _ant_explorer(horizon: int, backend: str, num_threads: int | None = None) -> Explore:
    task = epvf.make("ant", backend=backend, num_threads=num_threads)
    return explorer_of(task, ANT, horizon)


def _play(explore, thetas, calls=CALLS):
    envs, segments = explore.reset(jax.random.key(0), len(thetas)), []
    for _ in range(calls):
        segments.append(explore(jax.random.key(0), thetas, envs))
        envs = segments[-1].envs
    names = ("rewards", "terminated", "truncated")
    rows = [np.concatenate([getattr(s, name) for s in segments], axis=1) for name in names]
    return segments, *rows


@pytest.mark.parametrize("backend", ["native", pytest.param("mjx", marks=pytest.mark.slow)])
def test_outputs_are_what_the_policy_makes_of_its_observations(
    thetas: np.ndarray, backend: str
) -> None:
    if backend == "mjx":
        pytest.importorskip("mujoco.mjx")
    explore = _ant_explorer(HORIZON, backend)
    (segment,), *_ = _play(explore, thetas, 1)
    outputs = jax.vmap(jax.vmap(ANT.logits, in_axes=(None, 0)))(
        ANT.unravel(jnp.asarray(thetas)), jnp.asarray(segment.observations[:, :-1])
    )
    assert (np.abs(outputs) > 1.0).any()  # before they are clipped
    np.testing.assert_allclose(segment.outputs, outputs, rtol=1e-4, atol=1e-5)


def test_native_segments_are_whole_episodes_cut(thetas: np.ndarray) -> None:
    task = epvf.make("ant", backend="native", episode_length=120)
    segments, rewards, terminated, truncated = _play(explorer_of(task, ANT, HORIZON), thetas)
    whole = task.evaluator(ANT)(jax.random.key(0), thetas)
    ends = (terminated | truncated).argmax(axis=1) + 1
    # states wait in float32, so long episodes part where they become chaotic
    early = (whole.lengths < 60) & (ends < 60)
    assert early.sum() >= 3
    np.testing.assert_array_equal(ends[early], whole.lengths[early])
    firsts = [row[:end].sum() for row, end in zip(rewards, ends, strict=True)]
    np.testing.assert_allclose(np.array(firsts)[early], whole.returns[early], rtol=1e-2, atol=1e-3)
    assert truncated.any() and not (terminated & truncated).any()
    for segment, after in zip(segments[:-1], segments[1:], strict=True):
        np.testing.assert_allclose(
            segment.observations[:, -1], after.observations[:, 0], rtol=1e-4, atol=1e-4
        )


def test_native_segments_do_not_depend_on_threads_or_company(thetas: np.ndarray) -> None:
    one = _ant_explorer(HORIZON, backend="native", num_threads=1)
    two = _ant_explorer(HORIZON, backend="native", num_threads=2)
    alone = _play(one, thetas[:5], 5)[0][-1]
    together = _play(two, thetas, 5)[0][-1]
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
        np.testing.assert_array_equal(a, b[:5])


def test_native_failures_are_marked(thetas: np.ndarray) -> None:
    broken = thetas.copy()
    broken[3, 0] = np.nan
    explore = _ant_explorer(HORIZON, backend="native")
    sound, segment = _play(explore, thetas, 1)[0][0], _play(explore, broken, 1)[0][0]
    assert np.isnan(segment.rewards[3]).all() and segment.terminated[3].all()
    others = np.arange(len(thetas)) != 3
    np.testing.assert_array_equal(segment.rewards[others], sound.rewards[others])


@pytest.mark.slow
def test_mjx_and_native_agree_before_contact(thetas: np.ndarray) -> None:
    pytest.importorskip("mujoco.mjx")
    native = _ant_explorer(8, backend="native")
    mjx = _ant_explorer(8, backend="mjx")
    ours, theirs = _play(native, thetas, 2)[0], _play(mjx, thetas, 2)[0]
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.observations, b.observations, rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(a.rewards, b.rewards, rtol=2e-3, atol=1e-4)


def test_a_task_that_cannot_wait_is_refused_in_words() -> None:
    with pytest.raises(UserError, match="cannot wait"):
        explorer_of(FormulaTask(lambda thetas: thetas), POLICY, 3)
