"""Tasks `gymnax:ID`, `brax:ID` and `playground:ID`, step by step as their own."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epvf.errors import UserError
from epvf.policies.mlp import Policy
from epvf.tasks import make
from epvf.tasks.adapters.traced import imported
from epvf.tasks.registry import engines


def _library(module) -> Any:
    pytest.importorskip(module, reason="an extra", exc_type=ImportError)
    return imported(module)


def _ours(name, actions):
    """States, rewards and ends of the task's environment, one step after the other."""
    environment = make(name).environment  # type: ignore[attr-defined]
    state, step = environment.reset(jax.random.key(3)), jax.jit(environment.step)
    steps = [(state, 0.0, False)]
    for action in actions:
        steps.append(step(steps[-1][0], action))
    return steps


@pytest.mark.parametrize("name", ["Acrobot-v1", "Pendulum-v1"])
def test_gymnax_step_by_step(name) -> None:
    gymnax = _library("gymnax")
    environment, params = gymnax.make(name)
    spec = make(f"gymnax:{name}").spec
    assert (spec.discrete, spec.backend) == (name == "Acrobot-v1", "jax")
    rng = np.random.default_rng(0)
    their_step = jax.jit(environment.step_env)
    actions: Any = rng.integers(0, 3, 5) if spec.discrete else rng.uniform(-1, 1, (5, 1))
    steps = _ours(f"gymnax:{name}", jnp.asarray(actions))
    for (before, _, _), (after, reward, over), action in zip(
        steps[:-1], steps[1:], actions, strict=True
    ):
        key = jax.random.split(before.key)[0]
        # Pendulum's torques go from -2 to 2
        told = action if spec.discrete else 2.0 * jnp.asarray(action, jnp.float32)
        with jax.numpy_rank_promotion("allow"):
            seen, _, paid, ended, _ = their_step(key, before.inner, told, params)
        np.testing.assert_allclose(after.observation, seen, rtol=1e-6)
        np.testing.assert_allclose(reward, paid, rtol=1e-6)
        assert bool(over) == bool(ended)


def test_gymnax_s_clock_truncates_and_does_not_terminate() -> None:
    _library("gymnax")
    task = make("gymnax:MountainCar-v0", episode_length=250)
    policy = Policy((2, 3), output="argmax")
    told = task.evaluator(policy)(jax.random.key(0), np.zeros((2, 9), np.float32))
    assert told.lengths.tolist() == [250, 250], "longer than gymnax's own 200"
    explore = make("gymnax:MountainCar-v0", episode_length=4).explorer(policy, 8)  # type: ignore[attr-defined]
    segment = explore(
        jax.random.key(0), np.zeros((1, 9), np.float32), explore.reset(jax.random.key(1), 1)
    )
    assert np.flatnonzero(segment.truncated[0]).tolist() == [3, 7]
    assert not segment.terminated.any()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gymnax:Acrobt", "unknown environment 'Acrobt' of gymnax.*'Acrobot-v1'"),
        ("gymnax:Breakout-MinAtar", r"observes images \(10x10x4\)"),
        ("brax:ants", "unknown environment 'ants' of brax.*'ant'"),
        ("playground:CheetaRun", "unknown environment 'CheetaRun' of playground.*'CheetahRun'"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(name, message) -> None:
    module = {"playground": "mujoco_playground"}.get(name.partition(":")[0])
    _library(module or name.partition(":")[0])
    with pytest.raises(UserError, match=message) as error:
        make(name)
    assert "\n" not in str(error.value) and len(str(error.value)) <= 200


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Brax System", "ignore::DeprecationWarning")  # Brax's own
@pytest.mark.parametrize(
    "name", ["brax:inverted_pendulum", "playground:CartpoleBalance", "playground:PendulumSwingup"]
)
def test_brax_and_playground_step_by_step(name) -> None:
    library, _, known_as = name.partition(":")
    if library == "brax":
        its = _library("brax.envs").get_environment(known_as)
    else:
        its = _library("mujoco_playground").registry.load(
            known_as, config_overrides={"impl": "jax"}
        )
    spec = make(name).spec
    assert spec.observation_size == its.observation_size and spec.action_size == its.action_size
    actions = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (3, spec.action_size)))
    environment = make(name).environment  # type: ignore[attr-defined]
    state = jax.jit(environment.reset)(jax.random.key(3))
    first, step, ours = state.inner, jax.jit(its.step), jax.jit(environment.step)
    with jax.numpy_rank_promotion("allow"):
        for action in actions.astype(jnp.float32):
            state, reward, over = ours(state, action)
            first = step(first, action)
            np.testing.assert_allclose(state.observation, first.obs, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(reward, first.reward, rtol=1e-5, atol=1e-6)
            assert bool(over) == bool(first.done)


def test_brax_s_own_engines_can_be_chosen() -> None:
    _library("brax.envs")
    assert engines("brax:ant") == ("jax", "generalized", "positional", "spring", "mjx")
    assert make("brax:ant", "spring").spec.backend == "spring"
    assert make("brax:ant").spec.episode_length == 1000
