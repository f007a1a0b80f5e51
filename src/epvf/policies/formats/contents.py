"""What a written policy consists of, the same for every format that others read."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from epvf.policies.formats.safetensors import SavedPolicy
from epvf.policies.mlp import Layer, Policy

ACTIONS = {
    "argmax": "the index of the largest output (of equal ones the first)",
    "clip": "the outputs clipped to [-1, 1]",
    "tanh": "tanh of the outputs",
}


class Contents(NamedTuple):
    """Layers and metadata of a policy.

    Attributes:
        policy: the architecture.
        layers: kernels `[in, out]` and biases `[out]`, C-contiguous float32.
        metadata: strings by name: all that the policy's file says of itself, what the task's
            observations and actions are, and how to compute an action.
    """

    policy: Policy
    layers: list[Layer]
    metadata: dict[str, str]


def contents(saved: SavedPolicy, interface: Mapping[str, str]) -> Contents:
    """A policy to be written.

    Args:
        saved: the policy.
        interface: of its task, see `epvf.tasks.interface`.
    """
    theta = np.ascontiguousarray(saved.theta, np.float32)
    layers = [
        Layer(np.ascontiguousarray(kernel), np.ascontiguousarray(bias))
        for kernel, bias in saved.policy.unravel(theta)
    ]
    policy = saved.policy
    told = {
        "task": saved.task,
        "layer_sizes": "-".join(map(str, policy.layer_sizes)),
        "activation": policy.activation,
        "action": policy.output,
        "action_is": ACTIONS[policy.output],
        # every importer folds it, and training keeps θ for raw observations
        "normalisation": "none: the first layer reads raw observations",
    }
    own = {name: value for name, value in saved.metadata.items() if name != "format"}
    return Contents(policy, layers, {**interface, **own, **told})
