"""Environments of other libraries in JAX as ours, on one made up here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epvf.errors import UserError
from epvf.policies.mlp import Policy
from epvf.tasks.adapters import traced
from epvf.tasks.adapters.ids import LIBRARIES, check_named, library_of, unknown_id

POLICY = Policy((3, 1), "tanh", "clip")


def _reset(key):
    place = jax.random.uniform(key, (2,))
    return place, {"b": place[:1], "a": place}


def _step(key, place, action):
    place = place + action[0] + 0.01 * jax.random.normal(key, (2,))
    broken = jnp.where(place[0] > 3.0, jnp.nan, place)
    # a column and a row: what these libraries write down, ranks and all
    reward = jnp.sum(place[:, None] * jnp.ones(2) + jnp.ones(2)) / 2.0
    return place, {"b": place[:1], "a": broken}, reward, place[1] < -1.0


KNOWN = traced.Known(_reset, _step, 1, False, 6)


def test_observations_in_parts_are_concatenated_by_name() -> None:
    environment, size = traced.environment("made:up", KNOWN)
    state = environment.reset(jax.random.key(0))
    assert size == 3
    np.testing.assert_array_equal(
        environment.observe(state), jnp.concatenate([state.inner, state.inner[:1]])
    )


def test_a_task_of_it() -> None:
    made = traced.environment("made:up", KNOWN)
    task = traced.task("made:up", KNOWN, made, None, None)
    assert (task.spec.episode_length, task.spec.traceable, task.spec.draws) == (6, True, True)
    # pushed by nobody, upwards until it breaks, and downwards until it is over
    thetas = np.array([[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, -1]], np.float32)
    told = task.evaluator(POLICY)(jax.random.key(0), thetas)
    assert told.lengths[0] == 6 and 0.0 < float(told.returns[0]) < 6 * 4.5
    assert np.isnan(told.returns[1]) and 2 <= told.lengths[1] <= 4
    assert np.isfinite(told.returns[2]) and told.lengths[2] <= 3
    assert told.starts.shape == (3, 3)
    explore = task.explorer(POLICY, 4)
    segment = explore(jax.random.key(1), thetas, explore.reset(jax.random.key(2), 3))
    assert np.isfinite(segment.observations).all() and segment.terminated[2].any()
    assert not segment.truncated.any()


def test_what_is_random_differs_from_step_to_step() -> None:
    environment, _ = traced.environment("made:up", KNOWN)
    state = environment.reset(jax.random.key(0))
    steps = []
    for _ in range(2):
        after, _, _ = environment.step(state, jnp.zeros(1))
        steps.append(after.inner - state.inner)
        state = after
    assert not np.allclose(*steps)


@pytest.mark.parametrize(
    ("reset", "message"),
    [
        (lambda key: (0, jnp.zeros((8, 8, 3))), r"'made:up' observes images \(8x8x3\)"),
        (lambda key: (0, jnp.zeros(3) + jnp.zeros(2)), "'made:up' cannot be reset: TypeError"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(reset, message) -> None:
    with pytest.raises(UserError, match=message) as error:
        traced.environment("made:up", KNOWN._replace(reset=reset))
    assert "\n" not in str(error.value) and len(str(error.value)) <= 200


def test_prefixes() -> None:
    assert library_of("gymnax:Acrobot-v1") is LIBRARIES["gymnax"]
    assert library_of("my_robot.py:make") is None and library_of("brax") is None
    assert all(library_of(library.example) is library for library in LIBRARIES.values())


@pytest.mark.parametrize("prefix", ["gymnax", "brax", "playground"])
def test_a_library_that_is_not_installed(prefix, monkeypatch) -> None:
    monkeypatch.setattr("epvf.tasks.adapters.ids.find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"needs \w+: pip install 'epvf\[{prefix}\]'"):
        check_named(LIBRARIES[prefix].example)


def test_the_nearest_ids_are_named() -> None:
    told = str(unknown_id("gymnax", "acrobot", ["Acrobot-v1", "Pong-misc"]))
    assert told == "unknown environment 'acrobot' of gymnax (did you mean 'Acrobot-v1'?); it has 2"
    assert "did you mean" not in str(unknown_id("gymnax", "x", ["Acrobot-v1"]))
