"""Files of `torch.save`, read without torch: dicts of numpy arrays, numbers and strings.

Since torch 1.6 such a file is a zip archive of a pickle and of the tensors' storages; before, it
was pickles one after the other, and then the storages.
"""

import io
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from epvf.errors import UserError
from epvf.files import one_line
from epvf.policies.formats.archives import MOST_BYTES, check_archive
from epvf.policies.formats.pickles import Made, Name, Persistent, check_tree, read_pickle

_STORAGES = {
    "FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "BFloat16Storage": "<u2",
    "LongStorage": "<i8", "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "<i1",
    "ByteStorage": "<u1", "BoolStorage": "|b1",
}  # fmt: skip
_REBUILT = {"torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"}
_PARAMETER = "torch._utils._rebuild_parameter"
NAMES = (
    {f"torch.{name}" for name in _STORAGES}
    | _REBUILT
    | {_PARAMETER, "torch.Size", "torch.device", "collections.OrderedDict"}
)
"""All that a file of tensors names."""

_LEGACY = 0x1950A86A20F9469CFC6C


def read_torch(data: bytes, source: str) -> Any:
    """What a file of `torch.save` holds.

    Args:
        data: of the file.
        source: what to call it in errors.

    Raises:
        UserError: if it is no such file, is not whole, or names anything but tensors.
    """
    if len(data) > MOST_BYTES:
        raise UserError(f"{source} is refused: it has more than {MOST_BYTES >> 20} MiB")
    file = io.BytesIO(data)
    if not zipfile.is_zipfile(file):
        file.seek(0)
        return _read_legacy(file, source)
    try:
        with zipfile.ZipFile(file) as archive:
            check_archive(archive, Path(source))
            return _read_archive(archive, source)
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"cannot read {source}: {one_line(error)}") from error


def _read_archive(archive: zipfile.ZipFile, source: str) -> Any:
    names = archive.namelist()
    pickle = next((name for name in names if name.split("/")[1:] == ["data.pkl"]), None)
    if pickle is None:
        raise UserError(f"{source} is no file of torch's: it has no data.pkl")
    folder = pickle.split("/")[0]
    if f"{folder}/byteorder" in names and archive.read(f"{folder}/byteorder") != b"little":
        raise UserError(f"{source} was written by a big-endian machine, which cannot be read")

    def storage(key: str) -> bytes:
        name = f"{folder}/data/{key}"
        if name not in names:
            raise UserError(f"{source} is not whole: {name[:60]} is missing")
        return archive.read(name)

    with archive.open(pickle) as inner:
        found = read_pickle(inner, NAMES.__contains__, source)
    check_tree(found, source)
    return _built(found, storage, source)


def _read_legacy(file: IO[bytes], source: str) -> Any:
    magic = read_pickle(file, NAMES.__contains__, source)
    if magic != _LEGACY:
        raise UserError(f"{source} is no file of torch's")
    for _ in range(2):  # protocol, and what the machine was like
        read_pickle(file, NAMES.__contains__, source)
    found = read_pickle(file, NAMES.__contains__, source)
    keys = read_pickle(file, NAMES.__contains__, source)
    check_tree((found, keys), source)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise UserError(f"{source} is not whole: it has no list of storages")
    sizes: dict[str, int] = {}
    _collect_sizes(found, sizes)
    storages = {}
    for key in keys:
        count = int.from_bytes(file.read(8), "little")
        storages[key] = file.read(min(count * sizes.get(key, 0), MOST_BYTES))

    def storage(key: str) -> bytes:
        if key not in storages:
            raise UserError(f"{source} is not whole: storage {key!r:.40} is missing")
        return storages[key]

    return _built(found, storage, source)


def _collect_sizes(value: Any, sizes: dict[str, int]) -> None:
    """Bytes a number of every storage that is named in `value`, by key."""
    if isinstance(value, Persistent):
        try:
            _, kind, key, *_ = value.told
            sizes[key] = np.dtype(_STORAGES[kind.dotted.rpartition(".")[2]]).itemsize
        except (ValueError, TypeError, KeyError, AttributeError):
            return  # whoever reads its tensor says that it is not whole
    elif isinstance(value, dict):
        for item in value.values():
            _collect_sizes(item, sizes)
    elif isinstance(value, list | tuple):
        for item in value:
            _collect_sizes(item, sizes)
    elif isinstance(value, Made):
        _collect_sizes(value.args, sizes)


def _built(value: Any, storage: Callable[[str], bytes], source: str) -> Any:
    """The same with arrays for tensors; what else was made is left out."""
    if isinstance(value, dict):
        return {key: _built(item, storage, source) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_built(item, storage, source) for item in value]
    if isinstance(value, Made):
        try:
            return _tensor(value, storage)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise UserError(f"{source} has a tensor that is not whole") from error
    return None if isinstance(value, Name | Persistent) else value


def _tensor(made: Made, storage: Callable[[str], bytes]) -> Any:
    if made.name == _PARAMETER:
        return _tensor(made.args[0], storage)
    if made.name not in _REBUILT:
        return None  # a size or a device
    told, (offset, shape, strides) = made.args[0].told, made.args[1:4]
    kind, key = told[1:3]
    name = kind.dotted.rpartition(".")[2]
    numbers = np.frombuffer(storage(key), _STORAGES[name])
    count = math.prod(shape)
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    # one that repeats its numbers could be larger than any memory
    if count > len(numbers) or min((offset, *shape, *strides)) < 0 or last >= len(numbers) > 0:
        raise ValueError("reaches beyond its storage")
    if count == 0:
        return np.zeros(shape, numbers.dtype)
    steps = [step * numbers.itemsize for step in strides]
    view = np.lib.stride_tricks.as_strided(numbers[offset:], shape, steps, writeable=False)
    if name == "BFloat16Storage":
        return (view.astype(np.uint32) << 16).view(np.float32)
    return np.array(view)
