"""What a process does with environments, against a loop over one at a time."""

import os
import subprocess
import sys
from collections import deque

import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit

import foreign
from conftest import SOURCE
from epvf.policies.crowd import Architecture
from epvf.policies.mlp import Policy
from epvf.policies.reference import act
from epvf.tasks.adapters.spaces import actions
from epvf.tasks.adapters.stepping import Batch, Leg, Stepper

LIMIT = 8
POLICY = Policy((2, 4, 1), "tanh", "tanh")
ARCHITECTURE = Architecture(POLICY.shapes, POLICY.activation, POLICY.output)


def _make():
    return TimeLimit(foreign.Walk(), LIMIT)


def _thetas(num, policy=POLICY):
    return np.random.default_rng(0).normal(size=(num, policy.num_parameters)).astype(np.float32)


def _alone(theta, seed, policy=POLICY, make=_make):
    """Return and length of one episode, one step after the other."""
    environment = make()
    convert = actions(environment.action_space).convert
    layers = policy.unravel(theta)
    observation, _ = environment.reset(seed=seed)
    total, over, steps = 0.0, False, 0
    while not over:
        action = convert(np.asarray(act(policy, layers, observation))[None])[0]
        observation, reward, terminated, truncated, _ = environment.step(action)
        total, steps, over = total + reward, steps + 1, terminated or truncated
    return total, steps


def _episodes(stepper, thetas, seats, per_batch, architecture=ARCHITECTURE):
    batches = deque(
        Batch(rows, thetas[rows.start : rows.stop], np.array(rows))
        for rows in (
            range(i, min(i + per_batch, len(thetas))) for i in range(0, len(thetas), per_batch)
        )
    )
    told = []

    def ask(lived):
        told.extend(lived)
        return batches.popleft() if batches else None

    told += stepper.episodes(architecture, seats, ask)
    assert sorted(one.row for one in told) == list(range(len(thetas)))
    return sorted(told, key=lambda one: one.row)


@pytest.mark.parametrize(("seats", "per_batch"), [(1, 3), (5, 4), (32, 7)])
def test_episodes_equal_those_of_one_policy_at_a_time(seats, per_batch) -> None:
    thetas = _thetas(17)
    lived = _episodes(Stepper(_make), thetas, seats, per_batch)
    alone = [_alone(theta, seed) for seed, theta in enumerate(thetas)]
    assert [one.length for one in lived] == [length for _, length in alone]
    np.testing.assert_allclose([one.total for one in lived], [t for t, _ in alone], rtol=1e-5)
    starts = [foreign.Walk().reset(seed=seed)[0] for seed in range(17)]
    np.testing.assert_array_equal([one.start for one in lived], starts)
    lengths = [one.length for one in lived]
    assert min(lengths) < LIMIT and max(lengths) == LIMIT


@pytest.mark.parametrize(
    ("make", "policy"),
    [
        (foreign.Choices, Policy((2, 3), "tanh", "argmax")),
        (foreign.Parts, Policy((6, 3, 2), "relu", "clip")),
    ],
)
def test_choices_switches_and_observations_in_parts(make, policy) -> None:
    architecture = Architecture(policy.shapes, policy.activation, policy.output)
    stepper = Stepper(lambda: TimeLimit(make(), LIMIT))
    assert stepper.seen.size == policy.layer_sizes[0]
    thetas = _thetas(6, policy)
    lived = _episodes(stepper, thetas, 4, 6, architecture)

    def flat():
        environment = TimeLimit(make(), LIMIT)
        if stepper.seen.flatten is None:
            return environment
        from gymnasium.wrappers import FlattenObservation

        return FlattenObservation(environment)

    alone = [_alone(theta, seed, policy, flat) for seed, theta in enumerate(thetas)]
    np.testing.assert_allclose([(o.total, o.length) for o in lived], alone, rtol=1e-5)


@pytest.mark.parametrize("what", ["nan reward", "inf observation"])
def test_what_is_not_finite_ends_the_episode(what) -> None:
    stepper = Stepper(lambda: TimeLimit(foreign.Faulty("never", what), LIMIT))
    for one in _episodes(stepper, np.zeros((3, POLICY.num_parameters), np.float32), 2, 3):
        assert np.isnan(one.total) and one.length == 3
    met = stepper.explore(0, ARCHITECTURE, _leg(np.zeros((2, POLICY.num_parameters)), 4))
    assert np.isfinite(met.observations).all()
    assert np.isnan(met.rewards[:, 2]).all() and np.isfinite(np.delete(met.rewards, 2, 1)).all()
    assert met.terminated[:, 2].all() and not met.truncated.any()
    assert met.finished_steps.tolist() == [3, 3] and np.isfinite(met.finished).all()


def test_a_theta_that_is_not_finite_takes_no_step() -> None:
    thetas = _thetas(5)
    thetas[2, 0] = np.nan
    lived = _episodes(Stepper(_make), thetas, 2, 5)
    assert [one.length > 0 for one in lived] == [True, True, False, True, True]
    assert np.isnan(lived[2].total) and np.isfinite(lived[1].total)
    met = Stepper(_make).explore(0, ARCHITECTURE, _leg(thetas, 3))
    assert np.isnan(met.rewards[2]).all() and met.terminated[2].all()
    assert np.isfinite(met.rewards[[0, 1, 3, 4]]).all()


def _leg(thetas, horizon, before=None, serial=1):
    num = len(thetas)
    count = np.zeros(num, np.int32)
    zero = np.zeros(num, np.float32)
    parts = (count, zero, zero.copy(), count.copy())
    serials = np.zeros(num, np.int64)
    if before is not None:
        parts = before.steps, before.total, before.finished, before.finished_steps
        serials = np.full(num, serial - 1)
    return Leg(thetas.astype(np.float32), np.arange(num), serials, serial, *parts, horizon)


def test_segments_go_on_where_the_last_ones_ended() -> None:
    thetas = _thetas(40)
    stepper, other = Stepper(_make), Stepper(_make)
    first = stepper.explore(3, ARCHITECTURE, _leg(thetas, 6))
    kept = [np.array(part) for part in first]
    second = stepper.explore(3, ARCHITECTURE, _leg(thetas, 7, first, 2))
    whole = other.explore(3, ARCHITECTURE, _leg(thetas, 13))
    for name in ("outputs", "rewards", "terminated", "truncated"):
        i = whole._fields.index(name)
        np.testing.assert_array_equal(np.concatenate([kept[i], second[i]], axis=1), whole[i])
    seen = np.concatenate([kept[0][:, :-1], second.observations], axis=1)
    np.testing.assert_array_equal(seen, whole.observations)
    for name in ("steps", "total", "finished", "finished_steps"):
        np.testing.assert_array_equal(getattr(second, name), getattr(whole, name))
    assert whole.terminated.any() and whole.truncated.any()
    assert not (whole.terminated & whole.truncated).any()


def test_a_segment_is_what_one_policy_meets() -> None:
    theta = _thetas(1)
    met = Stepper(_make).explore(0, ARCHITECTURE, _leg(theta, LIMIT))
    total, steps = _alone(theta[0], 0)
    end = int(np.flatnonzero(met.terminated[0] | met.truncated[0])[0])
    assert (end + 1, met.finished_steps[0]) == (steps, steps)
    np.testing.assert_allclose(met.finished[0], total, rtol=1e-5)
    np.testing.assert_allclose(met.rewards[0, : end + 1].sum(), total, rtol=1e-5)
    outputs = [np.tanh(x) for x in met.outputs[0]]
    layers = POLICY.unravel(theta[0])
    again = [act(POLICY, layers, seen) for seen in met.observations[0, :-1]]
    np.testing.assert_allclose(outputs, again, rtol=1e-5, atol=1e-6)


def test_environments_that_are_not_where_they_should_be_begin_an_episode() -> None:
    thetas = _thetas(4)
    stepper = Stepper(_make)
    first = stepper.explore(0, ARCHITECTURE, _leg(thetas, 3))
    gone = Stepper(_make).explore(0, ARCHITECTURE, _leg(thetas, 2, first, 2))
    starts = [foreign.Walk().reset(seed=seed)[0] for seed in range(4)]
    np.testing.assert_array_equal(gone.observations[:, 0], starts)
    assert (gone.steps <= 2).all()


def test_bare_steps_are_counted() -> None:
    assert Stepper(_make).bare(3, 20, 0) == 60
    assert Stepper(lambda: TimeLimit(foreign.Choices(), LIMIT)).bare(2, 10, 0) == 20


def test_this_process_needs_no_jax() -> None:
    code = "import sys, epvf.tasks.adapters.workers; print('jax' in sys.modules)"
    paths = os.pathsep.join([str(SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": paths}
    run = [sys.executable, "-c", code]
    told = subprocess.run(run, env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"
