"""A policy as numpy's own archive: tensors as in safetensors, `metadata` as a string of JSON."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np

from epvf.errors import UserError
from epvf.files import from_json, one_line, write_atomically
from epvf.policies.formats.archives import check_archive
from epvf.policies.formats.contents import Contents
from epvf.policies.formats.safetensors import SavedPolicy, assembled

FORMAT = "epvf-policy-npz/1"


def write(path: Path, contents: Contents) -> list[Path]:
    """Writes the archive; gives its path."""
    metadata = json.dumps(contents.metadata | {"format": FORMAT})
    arrays = {"metadata": np.array(metadata)}
    for i, layer in enumerate(contents.layers):
        arrays[f"layer{i}.kernel"], arrays[f"layer{i}.bias"] = layer
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    write_atomically(path, file.getvalue())
    return [path]


def read_policy(path: Path) -> SavedPolicy:
    """Reads what `write` wrote.

    Raises:
        UserError: if it is no such archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            check_archive(archive, path)
        with np.load(path, allow_pickle=False) as found:
            tensors = {name: found[name] for name in found.files}
        metadata = from_json(str(tensors.pop("metadata")))
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        zipfile.BadZipFile,
        SyntaxError,
        RuntimeError,
    ) as error:
        raise UserError(f"cannot read policy {path}: {one_line(error)}") from error
    return assembled(path, tensors, metadata, FORMAT)
