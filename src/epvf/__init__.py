"""Policy search by explicit policy-conditioned value functions V(θ).

The names below are the public interface. They are loaded when first used, so that `import epvf` and
`epvf --help` are quick.
"""

from __future__ import annotations

TYPE_CHECKING = False
"""As in `typing`, which takes most of the time that importing this package would."""

if TYPE_CHECKING:
    from typing import Any

    from epvf.analysis.evaluation import evaluate
    from epvf.analysis.trained_value import load_value
    from epvf.config.presets import preset
    from epvf.config.schema import Config
    from epvf.errors import UserError
    from epvf.methods.registry import register_method
    from epvf.policies.formats.registry import load_policy
    from epvf.policies.formats.safetensors import save_policy
    from epvf.policies.mlp import Policy
    from epvf.runs.folder import Run
    from epvf.runs.train import Result, train
    from epvf.tasks import make
    from epvf.tasks import register as register_task
    from epvf.tasks.base import TaskSpec
    from epvf.tasks.mujoco_task import MujocoTask
    from epvf.types import Evaluation
    from epvf.view.film import render

__version__ = "0.2.0"

_HOMES = {
    "Config": "epvf.config.schema",
    "Evaluation": "epvf.types",
    "MujocoTask": "epvf.tasks.mujoco_task",
    "Policy": "epvf.policies.mlp",
    "Result": "epvf.runs.train",
    "Run": "epvf.runs.folder",
    "TaskSpec": "epvf.tasks.base",
    "UserError": "epvf.errors",
    "evaluate": "epvf.analysis.evaluation",
    "load_value": "epvf.analysis.trained_value",
    "load_policy": "epvf.policies.formats.registry",
    "make": "epvf.tasks",
    "preset": "epvf.config.presets",
    "register_method": "epvf.methods.registry",
    "register_task": "epvf.tasks.registry:register",
    "render": "epvf.view.film",
    "save_policy": "epvf.policies.formats.safetensors",
    "train": "epvf.runs.train",
}

__all__ = [
    "Config",
    "Evaluation",
    "MujocoTask",
    "Policy",
    "Result",
    "Run",
    "TaskSpec",
    "UserError",
    "__version__",
    "evaluate",
    "load_policy",
    "load_value",
    "make",
    "preset",
    "register_method",
    "register_task",
    "render",
    "save_policy",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module, _, attribute = _HOMES[name].partition(":")
    return getattr(import_module(module), attribute or name)


def __dir__() -> list[str]:
    return __all__
