"""What stands behind a task's name: its engines, each made when it is asked for."""

import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple, TypeAlias, cast

import jax

from epvf.errors import UserError, unknown
from epvf.tasks.base import Task, TaskSpec
from epvf.tasks.body import Body

Maker: TypeAlias = Callable[..., Task]

_log = logging.getLogger("epvf")

OPTIONS = ("episode_length", "num_threads", "num_slots")
"""Of `make`, next to the backend."""


class Engine(NamedTuple):
    """One engine of a task.

    Attributes:
        make: `episode_length` and the engine's own options to the task; imports what it needs.
        options: its own options: of `num_threads` and `num_slots`.
        extra: of `pip install epvf[extra]`, which it needs; None: nothing.
        module: of that extra, by which it is known to be there.
    """

    make: Maker
    options: tuple[str, ...] = ()
    extra: str | None = None
    module: str | None = None


@dataclass(frozen=True)
class TaskEntry:
    """A task on the engines that it knows; what a task's module exports.

    Attributes:
        engines: by the name of the backend; the first is the default.
        accelerator: the default where JAX has an accelerator; None: the first.
        quickest: the default in place of the first on a CPU, where it is installed; None: there
            is none.
        quickest_on_gpu: the same in place of the accelerator's on an NVIDIA GPU.
        interface: what a policy reads and does there, see `epvf.tasks.interface`.
    """

    engines: Mapping[str, Engine] = field(hash=False)
    accelerator: str | None = None
    quickest: str | None = None
    quickest_on_gpu: str | None = None
    interface: Mapping[str, str] = field(default_factory=dict, hash=False)

    def make(self, name: str, backend: str, given: dict[str, int]) -> Task:
        """The task.

        Raises:
            UserError: if there is no such backend, it is not installed, or it lacks an option.
        """
        if backend == "auto":
            backend = self.default()
        if backend not in self.engines:
            raise unknown(f"backend of task {name!r}", backend, ["auto", *self.engines])
        engine = self.engines[backend]
        for option in given:
            if option != "episode_length" and option not in engine.options:
                *others, last = map(repr, _OWNERS[option])
                owners = f"{', '.join(others)} and {last}"
                raise UserError(f"{option} goes with backend {owners}, not with {backend!r}")
        return engine.make(**given)

    def default(self) -> str:
        """The backend that `auto` means on this machine; it is told if that is a second choice."""
        first = next(iter(self.engines))
        on_host = self.accelerator is None or jax.default_backend() == "cpu"
        usual = first if on_host else str(self.accelerator)
        quickest = self.quickest if on_host else self.quickest_on_gpu
        if quickest is None or not (on_host or _on_nvidia()):
            return usual
        engine = self.engines[quickest]
        if engine.module is not None and find_spec(engine.module) is None:
            _log.warning(
                "backend %r, the quickest here, needs pip install 'epvf[%s]'; %r is used",
                *(quickest, engine.extra, usual),
            )
            return usual
        return quickest


_OWNERS = {"num_threads": ("native", "lanes", "gymnasium"), "num_slots": ("jax", "mjx")}
"""Backends that an option is for."""


def of_body(body: Body) -> TaskEntry:
    """A body on MuJoCo's engines."""
    engines = {
        "native": Engine(partial(_native, body), ("num_threads",)),
        "mjx": Engine(partial(_mjx, body), ("num_slots",), extra="mjx"),
        "lanes": Engine(partial(_lanes, body), ("num_threads",), "mjx", "mujoco.mjx"),
        "warp": Engine(partial(_warp, body), extra="warp"),
    }
    return TaskEntry(
        engines,
        accelerator="mjx",
        quickest=None if body.quickest == "native" else body.quickest,
        quickest_on_gpu=None if body.quickest_on_gpu == "mjx" else body.quickest_on_gpu,
    )


def of_environment(
    make: Callable[..., Any], interface: Mapping[str, str] | None = None
) -> TaskEntry:
    """An environment written in JAX: as XLA's program, and on lanes.

    Args:
        make: `episode_length` and `num_slots` to the `JaxTask`.
        interface: see `TaskEntry`.
    """
    engines = {
        "jax": Engine(make, ("num_slots",)),
        "lanes": Engine(partial(_on_lanes, make), ("num_threads",)),
    }
    return TaskEntry(engines, interface=interface or {})


def _on_lanes(make: Callable[..., Any], num_threads: int | None = None, **options: Any) -> Task:
    from epvf.tasks.engines import lanes

    task = make(**options)
    return lanes.make(task.environment, task.spec, num_threads)


def _on_nvidia() -> bool:
    """Whether JAX's accelerators are NVIDIA's."""
    devices = jax.local_devices()
    return devices[0].platform == "gpu" and "cuda" in devices[0].client.platform_version.lower()


# engines are imported only by those who use them
def _native(body: Body, **options: Any) -> Task:
    from epvf.tasks.engines import native

    return native.make(body, **options)


def _mjx(body: Body, **options: Any) -> Task:
    _require("mujoco.mjx", "mjx")
    from epvf.tasks.engines import mjx

    return mjx.make(body, **options)


def _lanes(body: Body, num_threads: int | None = None, **options: Any) -> Task:
    _require("mujoco.mjx", "lanes", "mjx")
    from epvf.tasks import identity
    from epvf.tasks.engines import lanes, mjx

    spec = body.spec("mjx", options.get("episode_length"), traceable=True)
    about = identity.of_body(body)
    task = lanes.make(mjx.environment_of(body), spec, num_threads, about=about)
    if not task.program.kept:  # then MJX has stepped it before, and need not be imported now
        mjx.check(body)
    return task


def _warp(body: Body, **options: Any) -> Task:
    _require("mujoco.mjx", "warp")
    _require("warp", "warp")
    if jax.default_backend() != "gpu":
        raise UserError("backend 'warp' needs a CUDA GPU that JAX can use; use backend 'native'")
    from epvf.tasks.engines import warp

    return warp.make(body, **options)


def _require(module: str, backend: str, extra: str | None = None) -> None:
    if find_spec(module) is None:
        raise UserError(
            f"backend {backend!r} is not installed: pip install 'epvf[{extra or backend}]', "
            "or use backend 'native'"
        )


def from_factory(factory: Any, name: str, backend: str, given: dict[str, int]) -> Task:
    """The task that somebody's function makes, or the task itself where it is one.

    The function is called with those of `backend`, `episode_length`, `num_threads` and `num_slots`
    that it takes. Where it makes a body, that runs on MuJoCo's engines and takes the others.

    Raises:
        UserError: if it does not take a given option, fails for a reason told in a `UserError`, or
            returns no task.
    """
    options: dict[str, Any] = dict(given) if backend == "auto" else {"backend": backend, **given}
    made, taken = product(factory, name, options)
    left = {option: value for option, value in options.items() if option not in taken}
    if isinstance(made, TaskEntry):
        return named(made.make(name, left.pop("backend", "auto"), left), name)
    own = made.spec.backend
    for option, value in left.items():
        if option != "backend" or value != own:
            raise UserError(f"task {name!r} has no option {option}; it runs on backend {own!r}")
    return named(made, name)


def product(factory: Any, name: str, options: dict[str, Any]) -> tuple[Any, set[str]]:
    """What a function makes, a task or an entry, and which of the options it took."""
    taken: set[str] = set()
    made = factory
    if callable(factory) and not is_task(factory):
        taken = _taken(factory) & options.keys()
        made = factory(**{option: options[option] for option in taken})
    if isinstance(made, Body):
        made = of_body(replace(made, name=name))
    if not (is_task(made) or isinstance(made, TaskEntry)):
        what = type(made).__name__
        if made is factory:
            raise UserError(f"{name!r} is {what}, no task and no function that makes one")
        raise UserError(f"{name!r} returns {what}, but a task has `spec` and `evaluator`")
    return made, taken


def is_task(value: Any) -> bool:
    """Whether it has what a task needs; a class makes one, even if its `spec` is its own."""
    spec, evaluator = getattr(value, "spec", None), getattr(value, "evaluator", None)
    return isinstance(spec, TaskSpec) and callable(evaluator) and not isinstance(value, type)


def _taken(factory: Callable[..., Any]) -> set[str]:
    """Options that a function takes."""
    parameters = inspect.signature(factory).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return {"backend", *OPTIONS}
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return {parameter.name for parameter in parameters if parameter.kind in kinds}


def named(task: Task, name: str) -> Task:
    """The task under this name, so that a run that records it finds it again."""
    if task.spec.name == name:
        return task
    spec = replace(task.spec, name=name)
    instance: Any = task
    fields = getattr(task, "__dataclass_fields__", {})
    if "spec" in fields and fields["spec"].init:
        return cast(Task, replace(instance, spec=spec))
    return cast(Task, _Named(task, spec))


class _Named:
    """A task that is another one under its own name."""

    def __init__(self, task: Task, spec: TaskSpec) -> None:
        self._task = task
        self.spec = spec

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_task":  # not while it is being copied
            raise AttributeError(name)
        return getattr(self._task, name)
