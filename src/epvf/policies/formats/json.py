"""A policy as a JSON object: `layers` of `kernel` `[in][out]` and `bias` `[out]`, and metadata.

Numbers are written so that reading them as float32 gives the same bits.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from epvf.errors import UserError
from epvf.files import read_json, write_atomically
from epvf.policies.formats.contents import Contents
from epvf.policies.formats.safetensors import SavedPolicy, assembled

FORMAT = "epvf-policy-json/1"
MOST_BYTES = 1 << 28


def write(path: Path, contents: Contents) -> list[Path]:
    """Writes the file; gives its path."""
    layers = [
        {"kernel": _numbers(layer.kernel), "bias": _numbers(layer.bias)}
        for layer in contents.layers
    ]
    text = json.dumps({"metadata": contents.metadata | {"format": FORMAT}, "layers": layers})
    write_atomically(path, (text + "\n").encode())
    return [path]


def read_policy(path: Path) -> SavedPolicy:
    """Reads what `write` wrote.

    Raises:
        UserError: if it is no such file.
    """
    if path.stat().st_size > MOST_BYTES:
        raise UserError(f"{path} is no policy: it has more than {MOST_BYTES >> 20} MiB")
    try:
        found = read_json(path)
    except RecursionError:
        raise UserError(f"{path} is no policy: its values lie in each other too deep") from None
    tensors: dict[str, np.ndarray] = {}
    try:
        for i, layer in enumerate(found["layers"]):
            for name in ("kernel", "bias"):
                tensors[f"layer{i}.{name}"] = np.array(layer[name], np.float32)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{path} is no policy: its layers are no kernels and biases") from error
    return assembled(path, tensors, found.get("metadata"), FORMAT)


def _numbers(array: Any) -> Any:
    # as double precision prints them, which is exact for single precision
    return np.asarray(array, np.float64).tolist()
