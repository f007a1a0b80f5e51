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
from epvf.registry import Registry, in_a_line, load, look_here
from epvf.tasks.adapters.ids import check_named, library_of
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
        "swimmer": "epvf.tasks.swimmer:BODY",
        "reacher": "epvf.tasks.reacher:BODY",
        "inverted-double-pendulum": "epvf.tasks.inverted_double_pendulum:BODY",
        "humanoid": "epvf.tasks.humanoid:BODY",
        "ant-v5": "epvf.tasks.ant_v5:BODY",
        "go2": "epvf.tasks.go2:BODY",
        "pendulum": "epvf.tasks.pendulum:TASK",
        "acrobot": "epvf.tasks.acrobot:TASK",
    },
    group="epvf.tasks",
)
"""Names to a `TaskEntry`, a `Body`, a task, or a function that makes one."""


OBJECTIVE = "+"
"""Between a task's name and its objectives: `ant+forward+left`."""


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
    name: str | Body,
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
        name: of a task, with objectives behind it if it has them (`ant+forward+left`); another
            library's, such as `gymnasium:Pendulum-v1`, see `adapters.ids.LIBRARIES`;
            `package.module:factory`; `path/to/file.py:factory`; or a robot (`epvf.MujocoTask`). A
            factory is called with those of this function's other options that it takes.
        backend: the engine; `auto` is, for bodies on MuJoCo, the one that they name as their
            quickest there (`lanes` of most walkers on a CPU), else MJX on an accelerator and
            MuJoCo's C engine (`native`) on a CPU.
        episode_length: longest episode in steps; the task's own if not given.
        num_threads: threads of the backends `native` and `lanes`, processes of `gymnasium`; one a
            processor if not given.
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
    stands = of_body(name) if isinstance(name, Body) else _behind(name)
    name = name.name if isinstance(name, Body) else name
    if isinstance(stands, TaskEntry):
        task = named(stands.make(name, backend, given), name)
    else:
        task = from_factory(stands, name, backend, given)
    # what a foreign task lacks of it, whoever needs it says
    return cast(ReplayableTask, task)


def engines(name: str | Body) -> tuple[str, ...]:
    """The backends of a task.

    Raises:
        UserError: if there is no such task.
    """
    if isinstance(name, Body):
        return tuple(of_body(name).engines)
    stands = _behind(name)
    made = stands if isinstance(stands, TaskEntry) else product(stands, name, {})[0]
    return tuple(made.engines) if isinstance(made, TaskEntry) else (made.spec.backend,)


def body_behind(name: str) -> Body | None:
    """The body behind a task's name; None where it is none on MuJoCo.

    Raises:
        UserError: if there is no such task.
    """
    if "native" not in engines(name):
        return None
    body: Body | None = getattr(make(name, backend="native"), "body", None)
    return body


def is_discrete(name: str) -> bool:
    """Whether actions of a task are indices.

    Raises:
        UserError: if there is no such task.
    """
    stands = _behind(name)
    # some do not say how long an episode is, which does not matter here
    made = (
        stands.make(name, "auto", {"episode_length": 1})
        if isinstance(stands, TaskEntry)
        else make(name)
    )
    return made.spec.discrete


def register(name: str, factory: Callable[..., Task] | Task | Body | TaskEntry | str) -> None:
    """Adds a task under a name: a function that makes it, itself, or a lazy `module:attribute`.

    Example:
        >>> import epvf
        >>> epvf.register_task("short-cartpole", lambda: epvf.make("cartpole", episode_length=100))
        >>> epvf.make("short-cartpole").spec.name
        'short-cartpole'

    Raises:
        UserError: if another task has this name, or a name has a colon or a plus sign.
    """
    if ":" in name or OBJECTIVE in name:
        raise UserError(f"the name of a task has no colon and no {OBJECTIVE}, but {name!r} has")
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
    library = library_of(name)
    if library is not None:
        check_named(name)
        return load(library.home)(name)
    if ":" in name:
        value = _loaded(name)
    else:
        place, plus, objectives = name.partition(OBJECTIVE)
        value = TASKS[place]
        if plus:
            value = _towards(value, place, tuple(objectives.split(OBJECTIVE)))
    return of_body(replace(value, name=name)) if isinstance(value, Body) else value


def _towards(value: Any, name: str, objectives: tuple[str, ...]) -> Body:
    """The body that pursues objectives.

    Raises:
        UserError: if the task has none, or not these.
    """
    if not isinstance(value, Body) or value.towards is None:
        raise UserError(
            f"task {name!r} has no objectives; leave out {OBJECTIVE.join(objectives)!r}"
        )
    return value.towards(objectives)


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
    look_here()
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
