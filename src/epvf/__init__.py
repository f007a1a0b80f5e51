"""Policy search by explicit policy-conditioned value functions V(θ).

The names below are loaded when first used, so that `import epvf` and `epvf --help` are quick. The
training loop is `epvf.training.loop.train`, the run folder `epvf.runs.folder`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from epvf._version import __version__
from epvf.errors import UserError

if TYPE_CHECKING:
    from epvf.config.presets import preset
    from epvf.config.schema import Config
    from epvf.policies.formats.safetensors import load_policy, save_policy
    from epvf.policies.mlp import Policy
    from epvf.tasks import make

_HOMES = {
    "Config": "epvf.config.schema",
    "Policy": "epvf.policies.mlp",
    "load_policy": "epvf.policies.formats.safetensors",
    "make": "epvf.tasks",
    "preset": "epvf.config.presets",
    "save_policy": "epvf.policies.formats.safetensors",
}

__all__ = [
    "Config",
    "Policy",
    "UserError",
    "__version__",
    "load_policy",
    "make",
    "preset",
    "save_policy",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
