"""The Ant on MuJoCo's C engine: against one simulation at a time, and against itself."""

import signal
import threading
import time
import warnings

import jax
import mujoco
import numpy as np
import pytest

from c_engine import replayed
from epvf.errors import UserError
from epvf.policies.mlp import Policy
from epvf.tasks import ant
from epvf.tasks.body import State, Transition, transition
from epvf.tasks.engines import native
from epvf.tasks.engines.episode import Episode, state_size

POLICY = Policy((34, 16, 8))
LENGTH = 150


def random_thetas(num: int, policy: Policy = POLICY, scale: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(0)
    layers = [size for size, _ in policy.shapes]
    thetas = rng.normal(size=(num, policy.num_parameters)) * scale / np.sqrt(max(layers))
    return thetas.astype(np.float32)


def evaluate(thetas, num_threads=1, policy=POLICY, episode_length=LENGTH):
    task = native.make(ant.BODY, episode_length=episode_length, num_threads=num_threads)
    return task.evaluator(policy)(jax.random.key(0), thetas)


class Single:
    """One simulation, stepped by `mj_step`."""

    def __init__(self) -> None:
        self.data = mujoco.MjData(ant.model())

    def step(self, action: np.ndarray) -> Transition:
        self.data.ctrl[:] = action
        mujoco.mj_step(ant.model(), self.data)
        return self.look()

    def look(self) -> Transition:
        """What the Ant's formulas make of the present state, in float32."""
        qpos, qvel, ctrl = self.data.qpos, self.data.qvel, self.data.ctrl
        result = transition(ant.BODY, State(qpos, qvel, ctrl, qpos, self.data.time))
        observation, reward = result.observation.astype(np.float32), np.float32(result.reward)
        return Transition(observation, reward, result.terminated)


def test_replay_equals_single_simulations_to_the_bit() -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (LENGTH, 5, 8)).astype(np.float32)
    replay = native.make(ant.BODY, num_threads=2).replay(actions)
    for i in range(5):
        single = Single()
        for t in range(LENGTH):
            expected = single.step(actions[t, i])
            np.testing.assert_array_equal(replay.observation[t, i], expected.observation)
            assert replay.reward[t, i] == expected.reward
            assert replay.terminated[t, i] == expected.terminated
            if expected.terminated:
                break


def test_replay_freezes_after_termination() -> None:
    rng = np.random.default_rng(1)
    # controls held for long make the Ant jump or fall
    actions = np.repeat(rng.choice([-1.0, 1.0], (20, 32, 8)), 20, axis=0)
    replay = native.make(ant.BODY, num_threads=1).replay(actions)
    lengths = np.where(
        replay.terminated.any(axis=0), replay.terminated.argmax(axis=0) + 1, len(actions)
    )
    assert (lengths < len(actions)).sum() > 3
    for i, length in enumerate(lengths):
        assert not replay.terminated[: length - 1, i].any()
        np.testing.assert_array_equal(replay.reward[length:, i], 0.0)
        np.testing.assert_array_equal(
            replay.observation[length:, i],
            np.broadcast_to(replay.observation[length - 1, i], (len(actions) - length, 34)),
        )
        assert replay.terminated[length:, i].all()


def test_first_steps_equal_the_policy_in_jax() -> None:
    thetas = random_thetas(3)
    evaluation = evaluate(thetas, episode_length=8)
    for i, theta in enumerate(thetas):
        layers, observation = POLICY.unravel(theta), Single().look().observation
        single, rewards = Single(), []
        for _ in range(8):
            result = single.step(np.asarray(POLICY.apply(layers, observation)))
            observation = result.observation
            rewards.append(result.reward)
        np.testing.assert_allclose(evaluation.returns[i], np.sum(rewards), rtol=1e-4)


def test_evaluate_equals_one_episode_at_a_time_to_the_bit() -> None:
    thetas = random_thetas(6, scale=3.0)
    evaluation = evaluate(thetas, num_threads=2)
    for i, theta in enumerate(thetas):
        total, length, _ = Episode(POLICY, ant.BODY).run(
            theta, LENGTH, np.zeros(1, bool), np.empty((0, state_size(ant.BODY)))
        )
        assert evaluation.returns[i] == total
        assert evaluation.lengths[i] == length
    assert evaluation.returns.dtype == np.float32
    assert evaluation.lengths.dtype == np.int32


def test_episodes_end_early_or_at_the_limit() -> None:
    lengths = evaluate(random_thetas(40, scale=3.0)).lengths
    assert lengths.max() == LENGTH
    assert lengths.min() < LENGTH


def test_bits_do_not_depend_on_threads() -> None:
    thetas = random_thetas(50, scale=3.0)
    expected = evaluate(thetas)
    for num_threads in (2, 3, 64):
        evaluation = evaluate(thetas, num_threads)
        np.testing.assert_array_equal(evaluation.returns, expected.returns)
        np.testing.assert_array_equal(evaluation.lengths, expected.lengths)


def test_bits_do_not_depend_on_company() -> None:
    thetas = random_thetas(20, scale=3.0)
    expected = evaluate(thetas)
    backwards = evaluate(thetas[::-1])
    np.testing.assert_array_equal(backwards.returns[::-1], expected.returns)
    np.testing.assert_array_equal(evaluate(thetas[13:14]).returns, expected.returns[13:14])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_theta_shows_in_the_return_of_that_policy_only(bad: float) -> None:
    thetas = random_thetas(6, scale=3.0)
    expected = evaluate(thetas)
    broken = thetas.copy()
    broken[2, :] = bad
    broken[4, -1] = bad
    evaluation = evaluate(broken)
    np.testing.assert_array_equal(evaluation.lengths[[2, 4]], 0)
    assert not np.isfinite(evaluation.returns[[2, 4]]).any()
    kept = [0, 1, 3, 5]
    np.testing.assert_array_equal(evaluation.returns[kept], expected.returns[kept])
    np.testing.assert_array_equal(evaluation.lengths[kept], expected.lengths[kept])


def test_population_of_bad_thetas_only() -> None:
    evaluation = evaluate(np.full((3, POLICY.num_parameters), np.nan, np.float32))
    assert np.isnan(evaluation.returns).all()
    np.testing.assert_array_equal(evaluation.lengths, 0)


def test_overflow_inside_the_policy_shows_without_a_warning(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo logs controls that are not finite
    policy = Policy((34, 16, 16, 8), activation="relu")
    thetas = np.full((2, policy.num_parameters), 1e30, np.float32)
    policy.unravel(thetas)[-1].kernel[:, ::2] *= -1.0  # infinite activations cancel to NaN
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluation = evaluate(thetas, policy=policy, episode_length=3)
    assert np.isnan(evaluation.returns).all()
    np.testing.assert_array_equal(evaluation.lengths, 1)


@pytest.mark.parametrize("field", ["qpos", "qvel"])
@pytest.mark.parametrize("bad", [np.nan, 1e12])
def test_unstable_physics_shows_in_the_reward(field, bad, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its warnings to a file
    start = np.zeros(15 + 14)
    start[{"qpos": 0, "qvel": 15}[field] + 8] = bad
    replay = replayed(ant.BODY, np.zeros((3, 8), np.float32), start)
    np.testing.assert_array_equal(np.isnan(replay.reward), [True, False, False])
    assert replay.terminated.all()
    assert not replayed(ant.BODY, np.zeros((3, 8), np.float32)).terminated.any()


def test_replay_of_actions_that_are_not_finite() -> None:
    actions = np.zeros((3, 4, 8), np.float32)
    actions[1, 1, 0], actions[1, 2, 7], actions[0, 3, 0] = np.nan, np.inf, 1e30
    replay = native.make(ant.BODY, num_threads=1).replay(actions)
    np.testing.assert_array_equal(np.isnan(replay.reward[1]), [False, True, True, False])
    np.testing.assert_array_equal(replay.terminated[2], [False, True, True, False])
    assert np.isfinite(replay.observation).all()


def test_interrupt_ends_the_workers() -> None:
    # Processes started in the background of a shell ignore Ctrl-C; this one shall not.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        _interrupt_an_evaluation()
    finally:
        signal.signal(signal.SIGINT, handler)


def _interrupt_an_evaluation() -> None:
    thetas = random_thetas(256)
    before = threading.active_count()
    timer = threading.Timer(0.3, signal.raise_signal, [signal.SIGINT])
    start = time.perf_counter()
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        evaluate(thetas, num_threads=2, episode_length=10**9)
    timer.join()
    assert time.perf_counter() - start < 10.0
    assert threading.active_count() == before


def test_error_in_a_worker_ends_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(10**9))
    run = Episode.run

    def fails_once(self, *args):
        if next(calls) == 20:
            raise RuntimeError("broken")
        return run(self, *args)

    monkeypatch.setattr(Episode, "run", fails_once)
    with pytest.raises(RuntimeError, match="broken"):
        evaluate(random_thetas(100_000), num_threads=2, episode_length=1000)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (Policy((33, 8)), "34 observations"),
        (Policy((34, 7)), "8 actions"),
        (Policy((34, 8), output="argmax"), "'argmax'.*clip, tanh"),
    ],
)
def test_refuses_policies_that_do_not_fit(policy: Policy, message: str) -> None:
    with pytest.raises(UserError, match=message):
        native.make(ant.BODY).evaluator(policy)


@pytest.mark.parametrize("shape", [(0, 688), (688,), (2, 687), (1, 2, 688)])
@pytest.mark.usefixtures("loose")
def test_refuses_populations_of_wrong_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"thetas have shape"):
        evaluate(np.zeros(shape, np.float32), policy=Policy((34, 16, 8)))


@pytest.mark.parametrize("shape", [(3, 8), (0, 2, 8), (3, 0, 8), (3, 2, 7)])
@pytest.mark.usefixtures("loose")
def test_refuses_actions_of_wrong_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="T, N, 8"):
        native.make(ant.BODY).replay(np.zeros(shape, np.float32))
