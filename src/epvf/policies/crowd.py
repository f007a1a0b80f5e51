"""Many policies of one architecture side by side, in numpy; needs no JAX."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Num

from epvf.policies.layers import ON_HOST, Layer, forward, split


class Architecture(NamedTuple):
    """What of a `Policy` decides its actions.

    Attributes:
        shapes: of the kernels, `(in, out)`, first layer first.
        activation: after every layer but the last.
        output: what turns the last layer into an action.
    """

    shapes: tuple[tuple[int, int], ...]
    activation: str
    output: str


class Crowd:
    """Room for policies, of which the first few act, each on an observation of its own.

    Attributes:
        thetas: `[S, P]` float32, to be written to.
    """

    def __init__(self, architecture: Architecture, num_seats: int) -> None:
        shapes = architecture.shapes
        size = sum(fan_in * fan_out + fan_out for fan_in, fan_out in shapes)
        self.thetas = np.zeros((num_seats, size), np.float32)
        self._architecture = architecture
        # with an axis for the one observation of each
        self._layers = [Layer(k, b[:, None]) for k, b in split(shapes, self.thetas)]
        self._num, self._first = num_seats, self._layers

    def outputs(self, observations: Float[np.ndarray, "N observation"]) -> np.ndarray:
        """The last layers' outputs `[N, A]` of the first `N` policies, before they are actions.

        The same bits for every `N`, as every policy's products are computed apart.
        """
        num = len(observations)
        if num != self._num:
            self._num, self._first = num, [Layer(k[:num], b[:num]) for k, b in self._layers]
        activate = ON_HOST[self._architecture.activation]
        outputs: np.ndarray = forward(self._first, observations[:, None], activate)[:, 0]
        return outputs

    def actions(self, outputs: Float[np.ndarray, "N action"]) -> Num[np.ndarray, "N ..."]:
        """What outputs become: indices `[N]` for `argmax`, otherwise `[N, A]` in [-1, 1]."""
        if self._architecture.output == "argmax":
            return outputs.argmax(axis=1)
        if self._architecture.output == "tanh":
            return np.tanh(outputs)
        return np.minimum(np.maximum(outputs, -1.0), 1.0)  # np.clip takes three times as long
