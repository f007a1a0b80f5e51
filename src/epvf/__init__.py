"""Policy search by explicit policy-conditioned value functions V(θ).

The names below are loaded when first used, so that `import epvf` and `epvf --help` are quick. The
training loop is `epvf.train.train`, the run folder `epvf.runs`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from epvf._version import __version__
from epvf.errors import UserError

if TYPE_CHECKING:
    from epvf.config import Config
    from epvf.policy import Policy
    from epvf.policy_file import load_policy, save_policy
    from epvf.presets import preset
    from epvf.tasks import make

_HOMES = {
    "Config": "epvf.config",
    "Policy": "epvf.policy",
    "load_policy": "epvf.policy_file",
    "make": "epvf.tasks",
    "preset": "epvf.presets",
    "save_policy": "epvf.policy_file",
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
