"""Files of policies by their suffix: ours, and what other packages add."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from epvf.errors import UserError, unknown
from epvf.policies.formats.contents import Contents
from epvf.policies.formats.networks import Told
from epvf.policies.formats.safetensors import SavedPolicy
from epvf.registry import Registry

Reader: TypeAlias = Callable[[Path], SavedPolicy]
"""Reads a file without running anything of it; raises a `UserError` where it is no such policy."""

Writer: TypeAlias = Callable[[Path, Contents], list[Path]]
"""Writes a policy, whole files or none; gives what it wrote."""

OWN = "safetensors"

FORMATS: Registry[Reader] = Registry(
    "policy format",
    {
        OWN: "epvf.policies.formats.safetensors:read_policy",
        "npz": "epvf.policies.formats.npz:read_policy",
        "json": "epvf.policies.formats.json:read_policy",
        "zip": "epvf.policies.formats.sb3:read_policy",
        "pt": "epvf.policies.formats.torch_policies:read_policy",
        "pth": "epvf.policies.formats.torch_policies:read_policy",
        "cleanrl_model": "epvf.policies.formats.torch_policies:read_policy",
        "params": "epvf.policies.formats.brax:read_policy",
        "pkl": "epvf.policies.formats.brax:read_policy",
    },
    group="epvf.policy_formats",
)
"""Readers by the suffix of a file."""

WRITERS: Registry[Writer] = Registry(
    "policy format to write",
    {
        "onnx": "epvf.policies.formats.onnx:write",
        "npz": "epvf.policies.formats.npz:write",
        "c": "epvf.policies.formats.c_source:write",
        "json": "epvf.policies.formats.json:write",
    },
    group="epvf.policy_writers",
)
"""What writes policies for others, by the suffix of the file."""

FOREIGN = ("zip", "pt", "pth", "cleanrl_model", "params", "pkl")
"""Formats of other libraries: what their readers cannot find in a file can be `told` to them."""


def import_policy(path: Path, told: Told) -> SavedPolicy:
    """Reads a policy of another library, with what the user says of it.

    Raises:
        UserError: if it cannot be read, or is of no other library.
    """
    suffix = path.suffix.removeprefix(".")
    if suffix not in FOREIGN:
        raise unknown("format of another library's policy", suffix, FOREIGN)
    _check_file(path)
    reader: Any = FORMATS[suffix]
    saved: SavedPolicy = reader(path, told)
    return saved


def load_policy(path: str | Path) -> SavedPolicy:
    """Reads a policy; the file's suffix says its format, `safetensors` where it is none of these.

    Example:
        >>> import epvf, numpy, tempfile
        >>> file = f"{tempfile.mkdtemp()}/policy.safetensors"
        >>> epvf.save_policy(file, epvf.Policy((2, 1)), numpy.zeros(3), "mine", 1.5)
        >>> load_policy(file).policy.layer_sizes
        (2, 1)

    Raises:
        UserError: if there is no such file, or it is no policy.
    """
    path = Path(path)
    _check_file(path)
    suffix = path.suffix.removeprefix(".")
    return FORMATS[suffix if suffix in FORMATS else OWN](path)


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"there is no policy file {path}")
