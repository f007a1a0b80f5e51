"""A policy network of Brax as one of ours: normalisation folded in, the mean kept."""

from typing import Any

import numpy as np

from epvf.policies.mlp import Layer, Policy


def theta_of(policy: Policy, normalizer: Any, parameters: Any) -> np.ndarray:
    """θ `[P]` float32 of the deterministic policy that Brax's parameters stand for.

    Args:
        policy: the architecture, with output `tanh` or, for discrete actions, `argmax`.
        normalizer: Brax's running mean and std of observations `[observation]`; None: none used.
        parameters: of Brax's policy network, whose last layer has the action's mean (or its
            logits) first and, where it is continuous, the standard deviation's parameters after.
    """
    layers = [
        _layer(parameters["params"][f"hidden_{i}"], size)
        for i, size in enumerate(policy.layer_sizes[1:])
    ]
    if normalizer is not None:
        layers[0] = _fold(
            layers[0], *(np.asarray(x, float) for x in (normalizer.mean, normalizer.std))
        )
    return policy.ravel(layers).astype(np.float32)


def _layer(dense: Any, size: int) -> Layer:
    """The first `size` outputs of a layer, in double precision."""
    kernel, bias = (np.asarray(dense[name], np.float64) for name in ("kernel", "bias"))
    return Layer(kernel[:, :size], bias[:size])


def _fold(layer: Layer, mean: np.ndarray, std: np.ndarray) -> Layer:
    """The layer on raw observations: ((x - mean) / std) @ K + b, multiplied out."""
    kernel = np.asarray(layer.kernel) / std[:, None]
    return Layer(kernel, layer.bias - mean @ kernel)
