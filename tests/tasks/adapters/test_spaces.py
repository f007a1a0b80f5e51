"""Gymnasium's spaces as vectors."""

import numpy as np
import pytest
from gymnasium import spaces

from epvf.errors import UserError
from epvf.tasks.adapters.spaces import actions, observations, scale


def test_parts_of_observations_follow_one_another_by_name() -> None:
    box = spaces.Box(-1.0, 1.0, (2, 2))
    space = spaces.Dict({"b": spaces.Tuple([spaces.Discrete(3), box]), "a": spaces.MultiBinary(2)})
    seen = observations(space)
    assert seen.size == 9 and seen.flatten is not None
    value = {"a": np.array([0, 1], np.int8), "b": (2, np.array([[1, 2], [3, 4]], np.float32))}
    np.testing.assert_array_equal(seen.flatten(value), [0, 1, 0, 0, 1, 1, 2, 3, 4])


def test_boxes_are_raveled_and_vectors_left_alone() -> None:
    assert observations(spaces.Box(-1.0, 1.0, (3,))) == (3, None)
    table = observations(spaces.Box(-1.0, 1.0, (2, 3)))
    assert table.size == 6 and table.flatten is not None
    np.testing.assert_array_equal(table.flatten(np.arange(6).reshape(2, 3)), np.arange(6))
    assert observations(spaces.Discrete(5)).size == 5


def test_actions_are_mapped_to_their_bounds() -> None:
    low, high = np.array([-1, 0, -np.inf, 0], np.float32), np.array([1, 4, 1, 0.3], np.float32)
    acted = actions(spaces.Box(low, high))
    assert (acted.size, acted.discrete) == (4, False)
    ends = acted.convert(np.array([[-1, -1, -1, -1], [1, 1, 1, 1], [0, 0, 0, 0]], np.float32))
    np.testing.assert_array_equal(ends[:2, [0, 1, 3]], np.stack([low, high])[:, [0, 1, 3]])
    # no such thing as the middle of an infinite range
    np.testing.assert_array_equal(ends[:, 2], [-1, 1, 0])
    np.testing.assert_allclose(ends[2], [0, 2, 0, 0.15])
    assert ends.dtype == np.float32


def test_other_kinds_of_actions() -> None:
    choices = actions(spaces.Discrete(3, start=-1))
    assert (choices.size, choices.discrete) == (3, True)
    assert choices.convert(np.array([0, 2])) == [-1, 1]
    switches = actions(spaces.MultiBinary((2, 2)))
    assert (switches.size, switches.discrete) == (4, False)
    on = switches.convert(np.array([[0.1, -0.1, 0.0, 1.0]], np.float32))
    np.testing.assert_array_equal(on, [[[1, 0], [0, 1]]])
    assert spaces.MultiBinary((2, 2)).contains(on[0])
    whole = actions(spaces.Box(0, 10, (2, 1), np.int64))
    counts = whole.convert(np.array([[-1.0, 0.5]], np.float32))
    np.testing.assert_array_equal(counts, [[[0], [8]]])
    assert counts.dtype == np.int64


def test_a_scale_without_bounds_changes_nothing() -> None:
    middle, half, bounded = scale([-np.inf, -2.0], [np.inf, 6.0])
    assert (middle.tolist(), half.tolist(), bounded.tolist()) == ([0, 2], [1, 4], [False, True])


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Box(0, 255, (8, 8, 3), np.uint8), r"images \(8x8x3\)"),
        (spaces.Box(0, 255, (8, 8), np.uint8), r"images \(8x8\)"),
        (spaces.Dict({"a": spaces.Graph(spaces.Box(-1, 1, (2,)), None)}), "a graph"),
        (spaces.Sequence(spaces.Discrete(2)), "a sequence"),
        (spaces.Tuple([spaces.Text(3)]), "a text"),
        (spaces.Box(-1.0, 1.0, (0,)), "empty"),
        (spaces.Dict({}), "empty"),
    ],
)
def test_what_no_policy_can_see_is_refused(space, message) -> None:
    with pytest.raises(UserError, match=message):
        observations(space)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Sequence(spaces.Discrete(2)),
        spaces.Dict({"a": spaces.Discrete(2)}),
        spaces.MultiDiscrete([2, 3]),
        spaces.Box(-1.0, 1.0, (0,)),
    ],
)
def test_actions_that_no_policy_has_are_refused(space) -> None:
    with pytest.raises(UserError, match="must be Discrete, MultiBinary or a Box"):
        actions(space)
