"""A policy in numpy: what every faster way of running it is checked against."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from epvf.policies.layers import ON_HOST, Layer, forward
from epvf.policies.mlp import Policy


def act(
    policy: Policy, layers: Sequence[Layer], observation: Float[np.ndarray, " observation"]
) -> Any:
    """The action of one policy: an index for `argmax`, otherwise `[action]`.

    Args:
        policy: its architecture.
        layers: its parameters as numpy arrays, see `Policy.unravel`.
        observation: of one state.
    """
    x = forward(layers, np.asarray(observation, np.float32), ON_HOST[policy.activation])
    if policy.output == "argmax":
        return int(np.argmax(x))
    return np.tanh(x) if policy.output == "tanh" else np.clip(x, -1.0, 1.0)
