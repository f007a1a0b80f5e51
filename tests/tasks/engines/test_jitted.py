"""Formulas as users write them, compiled by numba, traced by JAX, and in numpy."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epvf.tasks import formulas
from epvf.tasks.body import State, transition
from epvf.tasks.engines.episode import compiled_for
from epvf.tasks.engines.fingerprint import fingerprint
from epvf.tasks.hopper import BODY as HOPPER

FACTOR = 2.0


def doubled(x):
    return FACTOR * x


def made(gain, helper=doubled):
    """Formulas that enclose a number, call helpers, and use what numba must be told of."""
    return replace(
        HOPPER,
        observe=lambda s: (helper(s.qpos[1:]), s.time, s.qvel.clip(-1.0, 1.0)),
        reward=lambda s: gain * formulas.tanh(s.qpos[1]) - (s.ctrl**2).sum(),
        terminated=lambda s: (abs(s.qvel).max() > 3.0) | (abs(s.qpos[0]) > 1.0),
    )


def states(num=50):
    rng = np.random.default_rng(0)
    qpos, qvel, ctrl = (rng.normal(size=(num, n)) for n in (6, 6, 3))
    return State(qpos, 1.5 * qvel, ctrl, qpos - 0.01, rng.uniform(size=num))


def compiled(body, rows):
    num = len(rows.qpos)
    result = np.zeros((num, body.observation_size)), np.zeros(num), np.zeros(num, bool)
    compiled_for(body).transitions(rows, *result)
    return result


@pytest.mark.slow
def test_the_same_state_gives_the_same_on_every_engine() -> None:
    body, rows = made(3.0), states()
    assert body.reads == {"qpos", "qvel", "ctrl", "time"}
    ours = compiled(body, rows)
    singles = [transition(body, State(*row)) for row in zip(*rows[:5], strict=True)]
    traced = jax.vmap(lambda *row: transition(body, State(*row)))(*map(jnp.asarray, rows[:5]))
    for mine, theirs, in_jax in zip(ours, zip(*singles, strict=True), traced, strict=True):
        np.testing.assert_allclose(mine, np.stack(theirs), rtol=1e-12)
        np.testing.assert_allclose(mine, in_jax, rtol=1e-4, atol=1e-6)
    assert 0 < ours[2].sum() < len(ours[2])


def test_bodies_of_the_same_names_keep_their_own_formulas() -> None:
    rows = states()
    rewards = [compiled(made(gain), rows)[1] for gain in (1.0, 2.0)]
    expected = np.tanh(rows.qpos[:, 1])
    np.testing.assert_allclose(rewards[1] - rewards[0], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", formulas.UNARY)
def test_functions_are_numpy_s(name) -> None:
    function = getattr(formulas, name)
    body = replace(HOPPER, reward=lambda s: function(abs(s.qpos[1]) + 0.1), terminated=None)
    rows = states(20)
    x = np.abs(rows.qpos[:, 1]) + 0.1
    np.testing.assert_allclose(compiled(body, rows)[1], getattr(np, name)(x), rtol=1e-12)
    np.testing.assert_allclose(function(jnp.asarray(x)), getattr(np, name)(x), rtol=1e-4)


@pytest.mark.parametrize("name", formulas.BINARY)
def test_functions_of_two_are_numpy_s(name) -> None:
    function, rows = getattr(formulas, name), states(20)
    body = replace(HOPPER, reward=lambda s: function(s.qpos[1], s.qpos[2]), terminated=None)
    x, y = rows.qpos[:, 1], rows.qpos[:, 2]
    expected = getattr(np, name)(x, y)
    np.testing.assert_allclose(compiled(body, rows)[1], expected, rtol=1e-12)
    np.testing.assert_allclose(function(jnp.asarray(x), jnp.asarray(y)), expected, rtol=1e-4)


def test_where_takes_a_condition() -> None:
    body = replace(HOPPER, reward=lambda s: formulas.where(s.qpos[1] > 0.0, 1.0, -1.0))
    rows = states(20)
    np.testing.assert_array_equal(compiled(body, rows)[1], np.where(rows.qpos[:, 1] > 0, 1, -1))


def test_the_fingerprint_follows_the_formulas_and_their_constants(monkeypatch) -> None:
    one = fingerprint(made(3.0))
    assert one == fingerprint(made(3.0))
    others = [made(4.0), made(3.0, helper=lambda x: 2.0 * x), replace(made(3.0), terminated=None)]
    others += [replace(made(3.0), observation_limit=5.0), HOPPER]
    assert len({one, *map(fingerprint, others)}) == len(others) + 1
    monkeypatch.setitem(globals(), "FACTOR", 2.5)
    assert fingerprint(made(3.0)) != one
