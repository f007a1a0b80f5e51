"""One body, several objectives: each episode is asked for one of them."""

import jax
import numpy as np
import pytest

import epvf
from epvf.cli.train import understood
from epvf.errors import UserError
from epvf.policies.mlp import Policy
from epvf.tasks import ant, make
from epvf.tasks.body import State
from epvf.tasks.engines.mjx import Draws
from epvf.tasks.registry import body_behind
from epvf.tasks.starts import Around, Commanded, commanded

NAMES = ("forward", "left", "turn-left")


def moving(command, velocity=(0.0, 0.0), turning=0.0, quat=(1.0, 0.0, 0.0, 0.0)) -> State:
    qpos, qvel = np.zeros(15), np.zeros(14)
    qpos[2], qpos[3:7] = 0.75, quat
    qvel[:2], qvel[5] = velocity, turning
    return State(qpos, qvel, np.zeros(8), qpos, 0.0, np.array(command))


@pytest.mark.parametrize(
    ("name", "velocity", "turning"),
    [
        ("forward", (2.0, 0.0), 0.7),
        ("backward", (-2.0, 0.0), -0.7),
        ("left", (0.0, 2.0), 0.0),
        ("right", (0.0, -2.0), 0.0),
        ("turn-left", (0.0, 0.0), 1.0),
        ("turn-right", (0.0, 0.0), -1.0),
    ],
)
def test_what_is_asked_for_pays_one(name, velocity, turning) -> None:
    body, command = ant.towards((name,)), ant.OBJECTIVES[name]
    assert body.reward(moving(command, velocity, turning)) == pytest.approx(1.0)
    other = ant.OBJECTIVES["left" if name == "forward" else "forward"]
    assert body.reward(moving(other, velocity, turning)) < 1e-6


def test_forward_is_the_papers_ant() -> None:
    state = moving(ant.OBJECTIVES["forward"], (1.3, 0.2), 0.4)
    assert ant.towards(("forward",)).reward(state) == pytest.approx(float(ant.reward(state)))
    seen = np.hstack(ant.towards(("forward",)).observe(state))
    np.testing.assert_array_equal(seen[:34], np.hstack(ant.observe(state)))
    np.testing.assert_array_equal(seen[34:], ant.OBJECTIVES["forward"])


@pytest.mark.parametrize("draws", [np.random.default_rng(0), Draws(jax.random.key(0))])
def test_commands_are_drawn_evenly_from_what_is_asked_for(draws) -> None:
    commands = tuple(ant.OBJECTIVES[name] for name in NAMES)
    starts = Commanded(Around(ant.model, 0.01), commands)
    positions, velocities, drawn = (np.asarray(part) for part in starts(draws, 6000))
    assert positions.shape == (6000, 15) and velocities.shape == (6000, 14)
    for command in np.asarray(commands, np.float32):
        share = (drawn.astype(np.float32) == command).all(axis=1).mean()
        assert abs(share - 1 / 3) < 0.03


def test_one_command_may_be_asked_for_in_every_episode() -> None:
    body, command = ant.towards(("forward", "left")), (0.5, -0.25, 0.0, 1.0)
    asked = commanded(body, command)
    draws = np.random.default_rng(0), np.random.default_rng(0)
    assert body.starts is not None and asked.starts is not None
    before, after = body.starts(draws[0], 50), asked.starts(draws[1], 50)
    np.testing.assert_array_equal(after[2], np.tile(command, (50, 1)))
    for one, other in zip(before[:2], after[:2], strict=True):
        np.testing.assert_array_equal(one, other)  # it starts where it did
    policy = Policy((38, 8), output="clip")
    thetas = np.random.default_rng(1).normal(0.0, 0.1, (4, policy.num_parameters))
    returns = {}
    for name, one in {"asked": asked, "left": commanded(body, ant.OBJECTIVES["left"])}.items():
        task = make(one, "native", episode_length=20)
        returns[name] = task.evaluator(policy)(jax.random.key(0), thetas.astype(np.float32)).returns
    assert (returns["asked"] != returns["left"]).all()


@pytest.mark.parametrize(
    ("task", "command", "message"),
    [
        ("ant+forward", (1.0,), r"task 'ant.*' takes 4 numbers, but the command has 1"),
        ("ant", (1.0, 0.0), "task 'ant' takes no command, but the command has 2"),
        ("ant+forward", (1.0, 0.0, float("nan"), 0.0), "must be finite numbers"),
    ],
)
def test_commands_that_do_not_fit_are_refused(task, command, message) -> None:
    body = body_behind(task)
    assert body is not None
    with pytest.raises(UserError, match=message):
        commanded(body, command)
    assert body_behind("cartpole") is None


def test_objectives_stand_in_the_tasks_name(workplace) -> None:
    name = "ant+forward+left"
    spec = make(name, "native").spec
    assert (spec.name, spec.observation_size, spec.deterministic_reset) == (name, 38, False)
    for words in ("ant --objectives forward left --preset debug", f"{name} --preset debug"):
        assert understood(words.split())[1].task.name == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ant+forwards", "unknown objective of task 'ant' 'forwards'.*did you mean 'forward'"),
        ("ant+left+left", "'ant' is named twice: left, left"),
        ("ant+", "unknown objective of task 'ant' ''"),
        ("hopper+forward", "task 'hopper' has no objectives; leave out 'forward'"),
        ("cartpole+left", "task 'cartpole' has no objectives"),
        ("antt+left", "unknown task 'antt'.*did you mean 'ant'"),
    ],
)
def test_objectives_that_there_are_not(name, message) -> None:
    with pytest.raises(UserError, match=message) as error:
        make(name)
    assert "\n" not in str(error.value)


def test_no_plus_in_the_name_of_a_task() -> None:
    with pytest.raises(UserError, match=r"no colon and no \+"):
        epvf.register_task("ant+own", lambda: None)  # type: ignore[arg-type,return-value]


@pytest.mark.slow
def test_v_of_states_and_theta_learns_several_objectives_at_a_time() -> None:
    config = epvf.preset("ant+forward+left", "debug", method="epvf")
    changes = {
        "task.backend": "native",
        "value.condition": "policy+state",
        "iterations": 2,
    }
    result = epvf.train(config.replace(changes))
    assert result.policy == Policy((38, 8, 8), output="clip")
    assert np.isfinite(result.records[-1]["rollout/episode_return"])
