"""Partitions of axes that are renumbered together, and what a policy's axes are."""

from typing import NamedTuple

import jax
import pytest

from epvf.errors import UserError
from epvf.policies.mlp import Policy
from epvf.value.permutations import PermutationSpec, partitions, policy_spec

BELL = (1, 1, 2, 5, 15, 52)


@pytest.mark.parametrize("count", range(6))
def test_partitions_of_one_group_are_counted_by_bell_numbers(count):
    found = list(partitions(("h",) * count))
    assert len(found) == len(set(found)) == BELL[count]


def test_partitions_never_mix_groups():
    found = list(partitions(("a", "b", "a", "b", "b")))
    assert len(found) == BELL[2] * BELL[3]
    assert all(set(blocks[0::2][:2]).isdisjoint({blocks[1], *blocks[3:]}) for blocks in found)


class Convolution(NamedTuple):
    kernel: jax.Array
    bias: jax.Array


class ConvolutionalPolicy(Policy):
    def unravel(self, thetas):
        return [Convolution(*layer) for layer in super().unravel(thetas)]


def test_layers_of_another_kind_are_an_error_in_words():
    with pytest.raises(UserError, match="unknown layer kind for the UNF 'Convolution'"):
        policy_spec(ConvolutionalPolicy((3, 4, 2)))


def test_permutable_is_one_of_two():
    with pytest.raises(UserError, match=r"unknown unf_permutable 'al' .*valid: hidden, all"):
        policy_spec(Policy((3, 4, 2)), "al")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "shapes, axes, message",
    [
        (((3, 4), (5,)), ((None, "h"), ("h",)), "group 'h' have sizes 4 and 5"),
        (((3, 4),), (("h",),), "do not name every axis"),
    ],
)
def test_specifications_that_do_not_fit_are_an_error_in_words(shapes, axes, message):
    with pytest.raises(UserError, match=message):
        PermutationSpec(shapes, axes)
