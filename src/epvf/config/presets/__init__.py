"""Named configurations of each task: the paper's, ours, and a quick one for trying things.

A family of tasks is a module: `PRESETS` for every method, of which each takes what it reads; `OWN`
of methods that need others; `CHANGES` of a method in all of them; and `DEFAULT_METHODS`.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any, Literal, TypeAlias

from epvf.config.presets import cartpole, untuned, walkers
from epvf.config.schema import Config, default_settings, reads, replace
from epvf.errors import UserError, unknown
from epvf.methods.registry import METHODS
from epvf.tasks import make
from epvf.tasks.base import Task, can_wait
from epvf.tasks.registry import is_discrete

Preset: TypeAlias = Literal["paper", "tuned", "debug"]
PRESETS: tuple[Preset, ...] = ("paper", "tuned", "debug")


def default_method(task: str, name: str) -> str:
    """The method that a preset of a task trains unless told otherwise."""
    method: str = family(task).DEFAULT_METHODS.get(name, "epvf")
    return method


def preset(task: str, name: str = "tuned", method: str | None = None) -> Config:
    """The configuration of a task under a preset's name, for a method; None: its default.

    A task that nobody made presets for has those of its kind: the walkers' where actions are
    continuous, CartPole's where they are discrete. `tuned` fits them to the task's numbers, and
    `chosen` says how.

    Example:
        >>> config = preset("cartpole", "debug", method="psvf")
        >>> config.method.name, config.method.psvf.horizon
        ('psvf', 8)

    Raises:
        UserError: if there is no such task, preset or method.
    """
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    kind = family(task)
    method = method or default_method(task, name)
    base = Config(method=_settings(method))
    changes = {"task.name": task, **_delta(kind, name, method)}
    if name == "tuned" and (there := _untuned(task)) is not None:
        fitted = untuned.choices(there.spec, method, can_wait(there))
        changes |= {choice.field: choice.value for choice in fitted}
    return replace(base, {field: value for field, value in changes.items() if reads(method, field)})


def chosen(task: str, name: str, method: str) -> str | None:
    """What a preset chose for a task that nobody tuned, in a line; None where somebody did."""
    there = _untuned(task) if name == "tuned" else None
    if there is None:
        return None
    kind = "CartPole" if family(task) is cartpole else "the walkers"
    return untuned.told(there.spec, method, kind, can_wait(there))


def family(task: str) -> ModuleType:
    """The module of a task's presets.

    Raises:
        UserError: if there is no such task.
    """
    if task in _FAMILIES:
        return _FAMILIES[task]
    return cartpole if is_discrete(task) else walkers


_FAMILIES = {"cartpole": cartpole} | dict.fromkeys(
    ("ant", "hopper", "halfcheetah", "walker2d"), walkers
)


def _untuned(task: str) -> Task | None:
    """A task that nobody tuned; None of others, and of one that needs options."""
    if task in _FAMILIES:
        return None
    try:
        return make(task)
    except UserError:
        return None


def _settings(method: str) -> Any:
    if method not in METHODS:
        raise unknown("method", method, METHODS.names())
    return default_settings(method)


def _delta(kind: ModuleType, name: str, method: str) -> Mapping[str, Any]:
    if method in kind.OWN:
        own: Mapping[str, Any] = kind.OWN[method][name]
        return own
    return {**kind.PRESETS[name], **kind.CHANGES.get(method, {})}
