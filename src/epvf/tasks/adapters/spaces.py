"""Gymnasium's spaces as vectors: observations flattened, actions mapped from [-1, 1]."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from gymnasium import spaces
from gymnasium.spaces import utils
from jaxtyping import Float

from epvf.errors import UserError

Flatten: TypeAlias = Callable[[Any], Any]
"""An observation to numbers `[observation]`."""


class Observations(NamedTuple):
    """How an environment is seen.

    Attributes:
        size: length of a flat observation.
        flatten: an observation to its numbers; None: they are flat already.
    """

    size: int
    flatten: Flatten | None


class Actions(NamedTuple):
    """How an environment is acted on.

    Attributes:
        size: the policy's outputs.
        discrete: whether the largest of them is the action, rather than all of them.
        convert: the policies' actions, indices `[N]` or `[N, size]` in [-1, 1], to a sequence of
            `N` actions of the environment.
    """

    size: int
    discrete: bool
    convert: Callable[[Any], Any]


def observations(space: Any) -> Observations:
    """How a space of observations becomes vectors.

    Boxes are raveled, choices become one-hot vectors, parts of a `Dict` (by their sorted names) or
    `Tuple` follow one another: `gymnasium.spaces.utils.flatten`.

    Raises:
        UserError: if there are images, graphs, texts or sequences in it, or nothing.
    """
    _check_seen(space)
    size = int(utils.flatdim(space))
    if size < 1:
        raise UserError("its observations are empty, but a policy must see something")
    if isinstance(space, spaces.Box):
        return Observations(size, None if len(space.shape) == 1 else np.ravel)
    return Observations(size, lambda seen: utils.flatten(space, seen))


def actions(space: Any) -> Actions:
    """How policies act on a space of actions.

    `Discrete` takes the index of the largest output; a `Box` the outputs, mapped from [-1, 1] to
    its bounds where both are finite, and as they are otherwise; `MultiBinary` those above 0.

    Raises:
        UserError: if it is none of these, or empty.
    """
    if isinstance(space, spaces.Discrete):
        start = int(space.start)
        return Actions(int(space.n), True, lambda acted: (acted + start).tolist())
    if isinstance(space, spaces.MultiBinary):
        return Actions(int(np.prod(space.shape)), False, _switches(space))
    if isinstance(space, spaces.Box) and np.prod(space.shape) >= 1:
        return Actions(int(np.prod(space.shape)), False, _mapped(space))
    raise UserError(
        f"its actions are {_named(space)}, but must be Discrete, MultiBinary or a Box of fixed size"
    )


def _check_seen(space: Any) -> None:
    if isinstance(space, spaces.Dict):
        for part in space.spaces.values():
            _check_seen(part)
    elif isinstance(space, spaces.Tuple):
        for part in space.spaces:
            _check_seen(part)
    elif isinstance(space, spaces.Box):
        if len(space.shape) > 2 or (len(space.shape) == 2 and space.dtype == np.uint8):
            shape = "x".join(map(str, space.shape))
            raise UserError(f"it observes images ({shape}), but a policy here takes a vector")
    elif not isinstance(space, (spaces.Discrete, spaces.MultiBinary, spaces.MultiDiscrete)):
        raise UserError(f"it observes {_named(space)}, but a policy here takes a fixed vector")


def _named(space: Any) -> str:
    name = type(space).__name__
    return f"a {name.lower()}" if name in ("Graph", "Sequence", "Text") else name


def _switches(space: spaces.MultiBinary) -> Callable[[Any], Any]:
    shape = space.shape

    def convert(acted: Float[np.ndarray, "N action"]) -> Any:
        return (acted > 0.0).astype(space.dtype).reshape(-1, *shape)

    return convert


class Scale(NamedTuple):
    """How numbers in [-1, 1] become those within bounds: `middle + half * x`.

    Attributes:
        middle, half: `[n]` float32; 0 and 1 where a bound is not finite.
        bounded: `[n]` where both are.
    """

    middle: np.ndarray
    half: np.ndarray
    bounded: np.ndarray


def scale(low: Any, high: Any) -> Scale:
    """The scale for bounds `[n]`."""
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    bounded = np.isfinite(low) & np.isfinite(high)
    with np.errstate(invalid="ignore"):
        middle = np.where(bounded, (high + low) / 2, 0.0).astype(np.float32)
        half = np.where(bounded, (high - low) / 2, 1.0).astype(np.float32)
    return Scale(middle, half, bounded)


def _mapped(space: spaces.Box) -> Callable[[Any], Any]:
    low, high = np.ravel(space.low), np.ravel(space.high)
    middle, half, bounded = scale(low, high)
    plain = bool((middle == 0.0).all() and (half == 1.0).all())
    whole = np.issubdtype(space.dtype, np.integer)
    least, most = np.where(bounded, low, -np.inf), np.where(bounded, high, np.inf)

    def convert(acted: Float[np.ndarray, "N action"]) -> Any:
        # rounding may leave the bounds by a bit of float32
        out = acted if plain else np.minimum(np.maximum(middle + half * acted, least), most)
        out = np.rint(out) if whole else out
        return out.astype(space.dtype, copy=False).reshape(-1, *space.shape)

    return convert
