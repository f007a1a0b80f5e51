"""Files of policies by their suffix: ours, and what other packages add."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from epvf.errors import UserError
from epvf.policies.formats.safetensors import SavedPolicy
from epvf.registry import Registry

Reader: TypeAlias = Callable[[Path], SavedPolicy]
"""Reads a file without running anything of it; raises a `UserError` where it is no such policy."""

OWN = "safetensors"

FORMATS: Registry[Reader] = Registry(
    "policy format",
    {OWN: "epvf.policies.formats.safetensors:read_policy"},
    group="epvf.policy_formats",
)


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
    if not path.is_file():
        raise UserError(f"there is no policy file {path}")
    suffix = path.suffix.removeprefix(".")
    return FORMATS[suffix if suffix in FORMATS else OWN](path)
