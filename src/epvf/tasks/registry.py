"""From the name of a task and of an engine to the task. A task is one module and one line here."""

import hashlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, cast

from epvf.errors import UserError
from epvf.registry import Registry, in_a_line, load
from epvf.tasks.base import ReplayableTask, Task
from epvf.tasks.body import Body
from epvf.tasks.entry import TaskEntry, from_factory, named, of_body, product

TASKS: Registry[Any] = Registry(
    "task",
    {
        "cartpole": "epvf.tasks.cartpole:TASK",
        "ant": "epvf.tasks.ant:BODY",
        "hopper": "epvf.tasks.hopper:BODY",
        "halfcheetah": "epvf.tasks.half_cheetah:BODY",
        "walker2d": "epvf.tasks.walker2d:BODY",
    },
    group="epvf.tasks",
)
"""Names to a `TaskEntry`, a `Body`, a task, or a function that makes one."""


class TaskInfo(NamedTuple):
    """What there is to say of a task.

    Attributes:
        name: as on the command line.
        engines: backends; empty where only making it tells.
        origin: `epvf`, `registered`, or the package that it comes from.
        needs: backend to the extra of `pip install epvf[extra]` that it needs.
        problem: why it cannot be used, in a line; None if it can.
    """

    name: str
    engines: tuple[str, ...]
    origin: str
    needs: dict[str, str]
    problem: str | None = None


def make(
    name: str,
    backend: str = "auto",
    *,
    episode_length: int | None = None,
    num_threads: int | None = None,
    num_slots: int | None = None,
) -> ReplayableTask:
    """Makes a task.

    Example:
        >>> task = make("cartpole", episode_length=100)
        >>> task.spec.backend, task.spec.episode_length
        ('jax', 100)

    Args:
        name: of a task; `package.module:factory`; or `path/to/file.py:factory`. A factory is
            called with those of this function's other options that it takes.
        backend: the engine; `auto` is, for bodies on MuJoCo, MJX on an accelerator and MuJoCo's C
            engine (`native`) otherwise.
        episode_length: longest episode in steps; the task's own if not given.
        num_threads: threads of the backends `native` and `lanes`; one a processor if not given.
        num_slots: policies that the backends `jax` and `mjx` run side by side, while others wait;
            what suits the device if not given.

    Raises:
        UserError: if there is no such task or backend, an engine is not installed, or an option
            does not fit.
    """
    options = {
        "episode_length": episode_length,
        "num_threads": num_threads,
        "num_slots": num_slots,
    }
    given = {option: value for option, value in options.items() if value is not None}
    for option, value in given.items():
        if value < 1:
            raise UserError(f"{option} is {value}, but must be at least 1")
    stands = _behind(name)
    if isinstance(stands, TaskEntry):
        task = named(stands.make(name, backend, given), name)
    else:
        task = from_factory(stands, name, backend, given)
    # what a foreign task lacks of it, whoever needs it says
    return cast(ReplayableTask, task)


def engines(name: str) -> tuple[str, ...]:
    """The backends of a task.

    Raises:
        UserError: if there is no such task.
    """
    stands = _behind(name)
    made = stands if isinstance(stands, TaskEntry) else product(stands, name, {})[0]
    return tuple(made.engines) if isinstance(made, TaskEntry) else (made.spec.backend,)


def register(name: str, factory: Callable[..., Task] | Task | Body | TaskEntry | str) -> None:
    """Adds a task under a name: a function that makes it, itself, or a lazy `module:attribute`.

    Example:
        >>> import epvf
        >>> epvf.register_task("short-cartpole", lambda: epvf.make("cartpole", episode_length=100))
        >>> epvf.make("short-cartpole").spec.name
        'short-cartpole'

    Raises:
        UserError: if another task has this name, or a name has a colon.
    """
    if ":" in name:
        raise UserError(f"the name of a task has no colon, but {name!r} has")
    TASKS.register(name, factory)


def describe() -> list[TaskInfo]:
    """All tasks, also those that cannot be loaded. Loads them, but no engine."""
    broken = TASKS.broken()
    return [_described(name, origin, broken.get(name)) for name, origin in TASKS.entries()]


def _described(name: str, origin: str, problem: str | None) -> TaskInfo:
    if problem is None or origin == "epvf":
        stands = _behind(name)
        if isinstance(stands, TaskEntry):
            needs = {name: e.extra for name, e in stands.engines.items() if e.extra is not None}
            return TaskInfo(name, tuple(stands.engines), origin, needs)
    return TaskInfo(name, (), origin, {}, problem)


def _behind(name: str) -> Any:
    """What stands behind a name; a body on its engines."""
    value = _loaded(name) if ":" in name else TASKS[name]
    return of_body(replace(value, name=name)) if isinstance(value, Body) else value


def _loaded(name: str) -> Any:
    """What `package.module:attribute` or `file.py:attribute` names.

    Raises:
        UserError: if there is no such module, file or attribute, or importing it fails.
    """
    place, _, attribute = name.rpartition(":")
    if not place or not attribute:
        raise UserError(f"task {name!r} must be `package.module:factory` or `file.py:factory`")
    if place.endswith(".py"):
        return _attribute(_file(Path(place)), attribute, place)
    if place.partition(".")[0] in sys.stdlib_module_names:
        # the name may come from a file of anybody's: of os:abort nobody wants a task
        raise UserError(f"module {place!r} is Python's own and has no task {attribute!r}")
    here = str(Path.cwd())
    if here not in sys.path:  # a module that lies where one works, as with `python -m`
        sys.path.append(here)
    return load(name)


def _file(path: Path) -> ModuleType:
    """The module in a file, imported once, under a name of its own."""
    if not path.is_file():
        raise UserError(f"there is no file {path} to take a task from")
    path = path.resolve()
    digest = hashlib.sha256(str(path).encode()).hexdigest()
    name = f"epvf_file_{path.stem}_{digest[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs, as dataclasses look themselves up there
    try:
        spec.loader.exec_module(module)
    except UserError:
        raise
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception):
            raise
        raise UserError(f"cannot import {path}: {in_a_line(error)}") from error
    return module


def _attribute(module: ModuleType, name: str, place: str) -> Any:
    if not hasattr(module, name):
        raise UserError(f"{place} has no {name!r}")
    return getattr(module, name)
