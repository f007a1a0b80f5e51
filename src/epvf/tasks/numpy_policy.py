"""Many policies at once in numpy, for engines that step on the host.

XLA on CPU needs about twice the time for one small matrix product per policy.
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

from epvf.policy import Layer, Policy

InPlace: TypeAlias = Callable[[np.ndarray], None]


class NumpyPolicies:
    """A row for each policy, applied to its own observation.

    Every row is computed on its own, so that an action has the same bits in any row and company.

    Attributes:
        observations: `[num_rows, observation]` float32, to be written before a call.
    """

    def __init__(self, policy: Policy, num_rows: int) -> None:
        self.observations = np.zeros((num_rows, policy.layer_sizes[0]), np.float32)
        self._policy = policy
        # layer by layer, not policy by policy: what a call reads, it reads in one go
        self._layers = [
            Layer(_zeros(num_rows, *shape), _zeros(num_rows, shape[1])) for shape in policy.shapes
        ]
        self._outputs = [_zeros(num_rows, size) for size in policy.layer_sizes[1:]]
        hidden = len(policy.layer_sizes) - 2
        self._activations = [_ACTIVATIONS[policy.activation]] * hidden + [_OUTPUTS[policy.output]]

    def load(self, row: int, theta: Float[np.ndarray, "P"]) -> None:
        """Puts a policy into a row."""
        for rows, layer in zip(self._layers, self._policy.unravel(theta), strict=True):
            rows.kernel[row], rows.bias[row] = layer

    def move(self, source: int, target: int) -> None:
        """Copies a row to another, with its observation."""
        self.observations[target] = self.observations[source]
        for rows in self._layers:
            rows.kernel[target] = rows.kernel[source]
            rows.bias[target] = rows.bias[source]

    def __call__(self, n: int) -> Float[np.ndarray, "n action"]:
        """Actions of the first `n` rows; overwritten by the next call."""
        x = self.observations[:n]
        for (kernel, bias), out, activate in zip(
            self._layers, self._outputs, self._activations, strict=True
        ):
            y = out[:n]
            np.vecmat(x, kernel[:n], out=y)
            y += bias[:n]
            activate(y)
            x = y
        return x


def _zeros(*shape: int) -> np.ndarray:
    """Float32 zeros `shape`, in huge pages, for what is large and read once a step.

    numpy asks for huge pages from 4 MiB on. They are 2 MiB and aligned, hence the surplus, which is
    never touched and so takes no memory.
    """
    size, surplus = int(np.prod(shape)), 2**20
    return np.zeros(size + surplus, np.float32)[:size].reshape(shape)


def _tanh(x: np.ndarray) -> None:
    np.tanh(x, out=x)


def _relu(x: np.ndarray) -> None:
    np.maximum(x, 0.0, out=x)


def _elu(x: np.ndarray) -> None:
    np.expm1(x, out=x, where=x < 0.0)


def _clip(x: np.ndarray) -> None:
    np.maximum(x, -1.0, out=x)
    np.minimum(x, 1.0, out=x)


_ACTIVATIONS: dict[str, InPlace] = {"tanh": _tanh, "relu": _relu, "elu": _elu}
_OUTPUTS: dict[str, InPlace] = {"clip": _clip, "tanh": _tanh}
