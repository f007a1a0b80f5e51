"""What a task returns, looked at where it enters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epvf.errors import UserError
from epvf.policies.mlp import Policy
from epvf.tasks import make
from epvf.tasks.base import checked, checked_explore
from epvf.types import Envs, Evaluation, Segment
from probes import FormulaTask

SPEC = FormulaTask(lambda thetas: thetas[:, 0]).spec
THETAS = np.zeros((4, 2), np.float32)
GOOD = Evaluation(np.zeros(4, np.float32), np.ones(4, np.int32), np.zeros((4, 3), np.float32))


def _run(answer):
    return checked(SPEC, lambda key, thetas: answer)(jax.random.key(0), THETAS)


def test_a_sound_answer_goes_through_as_it_is() -> None:
    assert _run(GOOD) is GOOD
    assert _run(GOOD._replace(starts=None)).starts is None
    bad_physics = GOOD._replace(returns=np.full(4, np.nan, np.float32))
    assert _run(bad_physics) is bad_physics


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            GOOD._replace(returns=np.zeros((4, 1))),
            r"returns of shape \[4, 1\] for 4 policies.*\[4\]",
        ),
        (GOOD._replace(returns=np.zeros(3)), r"returns of shape \[3\]"),
        (GOOD._replace(returns=np.zeros(4, np.int64)), "returns of int64, but must return floats"),
        (GOOD._replace(returns=[0.0] * 4), "returns as list"),
        (GOOD._replace(lengths=np.ones((4, 1), np.int32)), r"lengths of shape \[4, 1\]"),
        (GOOD._replace(lengths=np.ones(4)), "lengths of float64, but must return integers"),
        (GOOD._replace(lengths=np.full(4, 2, np.int32)), "lengths of 2 to 2 steps.*0 to 1"),
        (GOOD._replace(lengths=np.array([1, -1, 1, 1])), "lengths of -1 to 1 steps"),
        (GOOD._replace(starts=np.zeros((4, 2))), r"starts of shape \[4, 2\].*\[4, 3\]"),
        (np.zeros(4), "returned ndarray, but must return an Evaluation"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(answer, message) -> None:
    with pytest.raises(UserError, match=f"task 'formula' .*{message}") as error:
        _run(answer)
    assert "\n" not in str(error.value)


ZERO = np.zeros(4, np.float32)
ENVS = Envs(ZERO, np.zeros(4, np.int32), ZERO, ZERO, np.zeros(4, np.int32))
SEGMENT = Segment(
    np.zeros((4, 6, 3), np.float32),
    np.zeros((4, 5, 1), np.float32),
    np.zeros((4, 5), np.float32),
    np.zeros((4, 5), bool),
    np.zeros((4, 5), bool),
    ENVS,
)


class Answering:
    """An `Explore` that always gives the same."""

    def __init__(self, answer):
        self.answer = answer

    def reset(self, key, num):
        return ENVS

    def __call__(self, key, thetas, envs):
        return self.answer


def _explored(answer):
    explore = checked_explore(SPEC, Answering(answer), Policy((3, 1)), 5)
    return explore(jax.random.key(0), THETAS, explore.reset(jax.random.key(0), 4))


def test_a_sound_segment_goes_through_as_it_is() -> None:
    assert _explored(SEGMENT) is SEGMENT


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (SEGMENT._replace(rewards=np.zeros((4, 5, 1))), r"rewards of shape \[4, 5, 1\].*\[4, 5\]"),
        (SEGMENT._replace(observations=np.zeros((4, 5, 3))), r"observations.*\[4, 6, 3\]"),
        (SEGMENT._replace(terminated=np.zeros((4, 5))), "terminated of float64.*truth values"),
        (SEGMENT._replace(outputs=np.zeros((4, 5, 2))), r"outputs of shape.*\[4, 5, 1\]"),
        (np.zeros(4), "returned ndarray, but must return a Segment"),
    ],
)
def test_a_segment_that_does_not_fit_is_refused_in_words(answer, message, loose) -> None:
    with pytest.raises(UserError, match=f"task 'formula' .*{message}") as error:
        _explored(answer)
    assert "\n" not in str(error.value)


def test_programs_are_looked_at_while_they_are_traced() -> None:
    def evaluate(key, thetas):
        return Evaluation(thetas[:, :1], jnp.ones(thetas.shape[0], jnp.int32))

    with pytest.raises(UserError, match=r"returns of shape \[4, 1\]"):
        jax.jit(checked(SPEC, evaluate))(jax.random.key(0), THETAS)


@pytest.mark.parametrize(
    ("name", "backend", "policy"),
    [
        ("cartpole", "jax", Policy((4, 2), output="argmax")),
        ("hopper", "native", Policy((11, 3))),
    ],
)
def test_built_in_tasks_pass(name: str, backend: str, policy: Policy) -> None:
    task = make(name, backend, episode_length=3)
    evaluate = checked(task.spec, task.evaluator(policy))
    thetas = np.zeros((2, policy.num_parameters), np.float32)
    assert evaluate(jax.random.key(0), thetas).starts.shape == (2, policy.layer_sizes[0])
