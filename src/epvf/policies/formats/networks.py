"""From another library's tensors to a policy of ours: layers, normalisation, scale of actions."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np

from epvf.errors import UserError, unknown
from epvf.policies.activations import Activation
from epvf.policies.formats.safetensors import SavedPolicy
from epvf.policies.mlp import Layer, Output, Policy

EPISODE_RETURN = "episode_return"


@dataclass(frozen=True)
class Told:
    """What a user says of a foreign file, where the file does not.

    Attributes:
        task: that the policy is for.
        activation: of its hidden layers.
        output: what becomes of the last layer.
        normaliser: file of statistics of observations, where these lie apart.
    """

    task: str = ""
    activation: str | None = None
    output: str | None = None
    normaliser: Path | None = None


NOTHING_TOLD = Told()


@dataclass(frozen=True)
class Network:
    """A foreign policy network.

    Attributes:
        origin: library and algorithm, for people.
        layers: in double precision.
        activation, output: None where the file does not tell.
        mean, deviation: of observations, `[observation]`: they are read as (o - mean) / deviation.
        low, high: of actions, `[action]`.
        notes: what is not the same here as there.
    """

    origin: str
    layers: Sequence[Layer]
    activation: str | None
    output: str | None
    mean: Any = None
    deviation: Any = None
    low: Any = None
    high: Any = None
    notes: tuple[str, ...] = ()


def saved_policy(path: Path, network: Network, told: Told) -> SavedPolicy:
    """A foreign network as a policy, with normalisation in the first layer.

    An action in [low, high] is one in [-1, 1] here, as environments with bounds other than that
    are scaled: a network whose outputs are clipped to the bounds is divided by them.

    Raises:
        UserError: if nobody tells the activation or the output, they contradict the file, or it is
            no MLP.
    """
    layers = list(network.layers)
    _check_chain(path, layers)
    activation = _agreed(path, "activation", network.activation, told.activation, Activation)
    output = _agreed(path, "output", network.output, told.output, Output)
    if network.mean is not None:
        layers[0] = folded(layers[0], network.mean, network.deviation)
    if output == "clip" and network.low is not None:
        layers[-1] = _unscaled(layers[-1], network.low, network.high)
    sizes = (len(layers[0].kernel), *(len(layer.bias) for layer in layers))
    policy = Policy(sizes, cast(Any, activation), cast(Any, output))
    theta = np.asarray(policy.ravel(layers), np.float32)
    if not np.isfinite(theta).all():
        raise UserError(f"{path} has weights that are not finite")
    return SavedPolicy(policy, theta, told.task, _metadata(path, network, told))


def read_layers(
    path: Path, tensors: Mapping[str, Any], names: Iterable[str], transposed: bool = True
) -> list[Layer]:
    """Layers by the names of their modules, in order.

    Args:
        path: of the file, for errors.
        tensors: named `<module>.weight` and `<module>.bias`.
        names: of the modules.
        transposed: whether weights are `[out, in]`, as torch has them.

    Raises:
        UserError: if one is missing or is no affine layer.
    """
    layers = []
    for name in names:
        try:
            weight, bias = (
                np.asarray(tensors[f"{name}.{part}"], np.float64) for part in ("weight", "bias")
            )
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{path} is no MLP: layer {name!r:.60} has no weight or bias") from None
        layers.append(Layer(weight.T if transposed else weight, bias))
    return layers


def sequence(tensors: Mapping[str, Any], prefix: str) -> list[str]:
    """Names of the affine layers of a torch `Sequential`: `prefix.0`, `prefix.2`, ..."""
    found = [
        name.removesuffix(".weight")
        for name in tensors
        if name.startswith(f"{prefix}.") and name.endswith(".weight")
    ]
    numbered = [name for name in found if name.rpartition(".")[2].isdigit()]
    return sorted(numbered, key=lambda name: int(name.rpartition(".")[2]))


def folded(layer: Layer, mean: Any, deviation: Any) -> Layer:
    """The layer on raw observations: ((x - mean) / deviation) @ K + b, multiplied out.

    Raises:
        UserError: if the statistics are of other observations, or a deviation is not positive.
    """
    mean, deviation = (np.asarray(x, np.float64).ravel() for x in (mean, deviation))
    inputs = len(layer.kernel)
    if len(mean) != inputs or len(deviation) != inputs:
        raise UserError(
            f"statistics of {len(mean)} observations do not fit a policy of {inputs} observations"
        )
    if not (np.isfinite(mean).all() and (deviation > 0.0).all()):
        raise UserError("statistics of observations need finite means and positive deviations")
    kernel = np.asarray(layer.kernel) / deviation[:, None]
    return Layer(kernel, layer.bias - mean @ kernel)


def _unscaled(layer: Layer, low: Any, high: Any) -> Layer:
    """The layer whose outputs are in units of half the bounds' width, around their middle."""
    low, high = (np.asarray(x, np.float64).ravel() for x in (low, high))
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        return layer
    middle, half = (low + high) / 2, (high - low) / 2
    return Layer(layer.kernel / half[None, :], (layer.bias - middle) / half)


def _check_chain(path: Path, layers: Sequence[Layer]) -> None:
    if not layers:
        raise UserError(f"{path} is no policy that is known: it has no layers")
    inputs = len(layers[0].kernel)
    for number, (kernel, bias) in enumerate(layers):
        if kernel.ndim != 2 or bias.shape != kernel.shape[1:] or len(kernel) != inputs:
            raise UserError(
                f"{path} is no MLP: layer {number} has weights {list(kernel.shape)} and bias "
                f"{list(bias.shape)} after {inputs} outputs"
            )
        inputs = len(bias)


def _agreed(path: Path, what: str, found: str | None, told: str | None, kind: Any) -> str:
    valid = get_args(kind)
    for name in (found, told):
        if name is not None and name not in valid:
            raise unknown(f"{what} of {path}", name, valid)
    if found is not None and told not in (None, found):
        raise UserError(f"{path} says that its {what} is {found!r}, not {told!r}")
    chosen = found or told
    if chosen is None:
        raise UserError(
            f"{path} does not tell its {what}: epvf policy import {path.name} --{what} "
            f"{'|'.join(valid)}"
        )
    return chosen


def _metadata(path: Path, network: Network, told: Told) -> dict[str, str]:
    metadata = {
        "task": told.task,
        "origin": network.origin,
        "imported_from": path.name,
        EPISODE_RETURN: "nan",
    }
    if network.mean is not None:
        metadata["observations_were"] = "normalised; folded into the first layer"
    if network.low is not None:
        for name, end in (("action_low", network.low), ("action_high", network.high)):
            metadata[name] = " ".join(f"{float(x):g}" for x in np.ravel(end))
    if network.notes:
        metadata["notes"] = "; ".join(network.notes)
    return metadata
