"""A policy on disk: safetensors, which ten lines of numpy can read and which cannot run code.

Tensors `layer{i}.kernel` `[in, out]` and `layer{i}.bias` `[out]`, float32, first layer first:
`x = activation(x @ kernel + bias)`, the last layer without activation but with `action` applied.
Metadata strings: `format`, `task`, `activation`, `action` (`argmax`, `clip` or `tanh`),
`episode_return`, and whatever else the writer knows.
"""

import json
import math
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from epvf.errors import UserError, brief
from epvf.files import one_line, write_atomically
from epvf.policies.activations import Activation
from epvf.policies.mlp import Layer, Output, Policy
from epvf.types import Array

UNREADABLE = (OSError, SafetensorError, TypeError, ValueError, AttributeError)
"""What reading a file of tensors raises; of types that numpy lacks it is any of the last three."""

FORMAT = "epvf-policy/1"

MOST_LAYERS = 1000
LONGEST_TEXT = 1000
"""Characters of a value of the metadata."""

LONGEST_NAME = 200
"""Characters of the task's name."""

_COUNTS = ("episode_length", "seed", "update", "env_steps")
"""Metadata that are whole numbers where they are there."""


class SavedPolicy(NamedTuple):
    """A policy as read from a file.

    Attributes:
        policy: the architecture.
        theta: `[P]` float32 parameters.
        task: name of the task that it was trained on.
        metadata: all that the file says of itself.
    """

    policy: Policy
    theta: np.ndarray
    task: str
    metadata: dict[str, str]


def save_policy(
    path: str | Path,
    policy: Policy,
    theta: Array,
    task: str,
    episode_return: float,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Writes a policy atomically; equal policies with equal metadata are files of equal bytes.

    Example:
        >>> import tempfile
        >>> file = f"{tempfile.mkdtemp()}/policy.safetensors"
        >>> save_policy(file, Policy((2, 1)), np.zeros(3), task="mine", episode_return=1.5)
        >>> read_policy(Path(file)).metadata["episode_return"]
        '1.5'

    Args:
        path: of the file, `.safetensors` by custom.
        policy: the architecture.
        theta: `[P]` parameters.
        task: name of the task.
        episode_return: how well it did, NaN where nobody knows.
        extra: more metadata.
    """
    tensors = {}
    for i, layer in enumerate(policy.unravel(np.asarray(theta, np.float32))):
        tensors[f"layer{i}.kernel"] = np.ascontiguousarray(layer.kernel)
        tensors[f"layer{i}.bias"] = np.ascontiguousarray(layer.bias)
    metadata = {name: str(value) for name, value in (extra or {}).items()} | {
        "format": FORMAT,
        "task": task,
        "activation": policy.activation,
        "action": policy.output,
        "episode_return": repr(float(episode_return)),
    }
    write_atomically(Path(path), _serialized(tensors, metadata))


def _serialized(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file; unlike its library's, always with the same header for the same content.

    Eight bytes of the header's length, the header in JSON, the tensors little-endian.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    parts, start = [], 0
    for name in sorted(tensors):
        part = tensors[name].astype("<f4").tobytes()
        offsets = [start, start + len(part)]
        header[name] = {"dtype": "F32", "shape": tensors[name].shape, "data_offsets": offsets}
        parts.append(part)
        start += len(part)
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors are aligned
    return len(text).to_bytes(8, "little") + text + b"".join(parts)


def read_policy(path: Path) -> SavedPolicy:
    """Reads a policy; `formats.registry.load_policy` takes files of every format.

    Raises:
        UserError: if it is not an epvf policy.
    """
    tensors, metadata = _read(path)
    return assembled(path, tensors, metadata, FORMAT)


def assembled(
    path: Path, tensors: dict[str, np.ndarray], metadata: Any, expected: str
) -> SavedPolicy:
    """The policy that named tensors and metadata stand for, whatever file they are of.

    Raises:
        UserError: if they are not of the expected format, or no whole policy.
    """
    if not isinstance(metadata, dict) or metadata.get("format") != expected:
        found = metadata.get("format") if isinstance(metadata, dict) else None
        raise UserError(f"{path} has format {found!r:.40}, but a policy has {expected!r}")
    metadata = {str(name): str(value) for name, value in metadata.items()}
    try:
        _check_metadata(metadata)
        layers = _layers(tensors)
        sizes = (layers[0].kernel.shape[0], *(len(layer.bias) for layer in layers))
        activation = _one_of(metadata, "activation", typing.get_args(Activation))
        output = _one_of(metadata, "action", typing.get_args(Output))
        policy = Policy(sizes, typing.cast(Any, activation), typing.cast(Any, output))
        theta = policy.ravel(layers)
    except (KeyError, ValueError, UserError) as error:
        raise UserError(f"{path} is not a whole {expected} file: {error.args[0]}") from error
    return SavedPolicy(policy, theta, metadata.get("task", ""), metadata)


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:  # before tensors of whatever size are read
                raise UserError(
                    f"{path} has format {brief(metadata.get('format'))}, but a policy has "
                    f"{FORMAT!r}"
                )
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except UNREADABLE as error:
        raise UserError(f"cannot read policy {path}: {one_line(error)}") from error


def _layers(tensors: dict[str, np.ndarray]) -> list[Layer]:
    """The tensors in order. Raises KeyError or ValueError where they are no MLP."""
    num = len(tensors) // 2
    if not 1 <= num <= MOST_LAYERS or len(tensors) % 2:
        raise ValueError(f"it has {len(tensors)} tensors, not a kernel and a bias a layer")
    layers: list[Layer] = []
    for i in range(num):
        for name in (f"layer{i}.kernel", f"layer{i}.bias"):
            if name not in tensors:
                raise KeyError(f"tensor {name} is missing")
        layer = Layer(tensors[f"layer{i}.kernel"], tensors[f"layer{i}.bias"])
        _check_layer(i, layer, layers[-1] if layers else None)
        layers.append(layer)
    return layers


def _check_metadata(metadata: Mapping[str, str]) -> None:
    """Raises ValueError where a value is not what its name says."""
    for name, value in metadata.items():
        if len(name) > LONGEST_NAME or len(value) > LONGEST_TEXT:
            raise ValueError(f"{brief(name)} is {len(value)} characters long")
    task = metadata.get("task", "")
    if len(task) > LONGEST_NAME or not task.isprintable():
        raise ValueError(f"task {brief(task)} is no name of a task")
    _finite(metadata, "episode_return", float, nan=True)
    for name in _COUNTS:
        _finite(metadata, name, int)


def _finite(
    metadata: Mapping[str, str], name: str, kind: type[int] | type[float], nan: bool = False
) -> None:
    """Raises ValueError where a value is there but is no number of this kind."""
    text = metadata.get(name)
    if text is None:
        return
    try:
        number = kind(text) if text.isascii() else None
    except ValueError:
        number = None
    whole = kind is float or (number is not None and 0 <= number < 2**63)
    if number is None or not whole or not (math.isfinite(number) or (nan and number != number)):
        raise ValueError(f"{name} is {brief(text)}, but must be a number")


def _check_layer(index: int, layer: Layer, before: Layer | None) -> None:
    kernel, bias = layer
    if kernel.dtype != np.float32 or bias.dtype != np.float32:
        raise ValueError(f"layer{index} is not float32")
    if kernel.ndim != 2 or bias.shape != kernel.shape[1:]:
        raise ValueError(f"layer{index} has kernel {kernel.shape} and bias {bias.shape}")
    if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
        raise ValueError(f"layer{index} holds a number that is not finite")
    if before is not None and len(before.bias) != len(kernel):
        raise ValueError(f"layer{index} takes {len(kernel)} inputs, not {len(before.bias)}")


def _one_of(metadata: dict[str, str], name: str, valid: tuple[str, ...]) -> str:
    value = metadata.get(name)
    if value not in valid:
        raise ValueError(f"{name} is {brief(value)}, but must be one of {', '.join(valid)}")
    return value
