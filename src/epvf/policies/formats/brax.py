"""A policy network of Brax as one of ours: normalisation folded in, the mean kept.

Of Brax's own training (`theta_of`), and of files of `brax.io.model.save_params` (`read_policy`):
a pickle of the normaliser's state and of the networks' parameters.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from epvf.errors import UserError
from epvf.files import one_line
from epvf.policies.formats.archives import MOST_BYTES
from epvf.policies.formats.arrays import JAX_NAMES, NUMPY_NAMES, array_of
from epvf.policies.formats.networks import NOTHING_TOLD, Network, Told, folded, saved_policy
from epvf.policies.formats.pickles import Made, read_pickle
from epvf.policies.formats.safetensors import SavedPolicy
from epvf.policies.mlp import Layer, Policy

_NAMES = (
    NUMPY_NAMES
    | JAX_NAMES
    | {
        "brax.training.acme.running_statistics.RunningStatisticsState",
        "brax.training.acme.running_statistics.NormalizationMode",
        "brax.training.types.UInt64",
        "flax.core.frozen_dict.FrozenDict",
        "collections.OrderedDict",
    }
)
"""All that such a file names."""


def read_policy(path: Path, told: Told = NOTHING_TOLD) -> SavedPolicy:
    """Reads the deterministic policy of parameters that `brax.io.model.save_params` wrote.

    The first half of the last layer is the action's mean, which Brax squashes by tanh. The file
    does not tell the activation: Brax's own default is swish, which is none of ours.

    Raises:
        UserError: if it is no such file, or its policy is no MLP.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"{path} is refused: it has more than {MOST_BYTES >> 20} MiB")
        with path.open("rb") as file:
            found = read_pickle(file, _NAMES.__contains__, f"{path}")
    except OSError as error:
        raise UserError(f"cannot read {path}: {one_line(error)}") from error
    if not isinstance(found, tuple | list) or len(found) < 2:
        raise UserError(f"{path} is no file of Brax's: it has no normaliser and policy")
    mean, deviation = _statistics(found[0], f"{path}")
    layers = _layers(found[1], path)
    outputs = len(layers[-1].bias)
    if told.output == "argmax":
        return saved_policy(path, Network("brax", layers, None, None, mean, deviation), told)
    if outputs % 2:
        raise UserError(f"{path} is no policy of Brax's: {outputs} outputs are no mean and scale")
    layers[-1] = Layer(*(part[..., : outputs // 2] for part in layers[-1]))
    return saved_policy(path, Network("brax", layers, None, "tanh", mean, deviation), told)


def _statistics(made: Any, source: str) -> tuple[Any, Any]:
    """Mean and deviation; None where Brax normalised nothing."""
    if not isinstance(made, Made) or not isinstance(made.state, dict):
        return None, None
    if not {"mean", "std"} <= made.state.keys():
        raise UserError(f"{source} has a normaliser without mean and std")
    mean, deviation = (array_of(made.state[name], source) for name in ("mean", "std"))
    return mean, deviation


def _layers(made: Any, path: Path) -> list[Layer]:
    tensors = made.state if isinstance(made, Made) else made
    tensors = tensors.get("params") if isinstance(tensors, dict) else None
    names = [name for name in tensors or {} if re.fullmatch(r"hidden_\d+", str(name))]
    if not isinstance(tensors, dict) or not names or len(names) != len(tensors):
        raise UserError(f"{path} has no policy network that is known: it is no MLP of Brax's")
    layers = []
    for name in sorted(names, key=lambda name: int(name[7:])):
        if not isinstance(tensors[name], dict) or not {"kernel", "bias"} <= tensors[name].keys():
            raise UserError(f"{path} is no MLP: its layer {name} has no kernel and bias")
        kernel, bias = (array_of(tensors[name][part], f"{path}") for part in ("kernel", "bias"))
        layers.append(Layer(kernel.astype(np.float64), bias.astype(np.float64)))
    return layers


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
        layers[0] = folded(layers[0], normalizer.mean, normalizer.std)
    return policy.ravel(layers).astype(np.float32)


def _layer(dense: Any, size: int) -> Layer:
    """The first `size` outputs of a layer, in double precision."""
    kernel, bias = (np.asarray(dense[name], np.float64) for name in ("kernel", "bias"))
    return Layer(kernel[:, :size], bias[:size])
