"""From the name of a task and of an engine to the task."""

from collections.abc import Callable
from importlib.util import find_spec

import jax

from epvf.errors import UserError, unknown
from epvf.tasks.base import ReplayableTask


def make(
    name: str,
    backend: str = "auto",
    *,
    episode_length: int | None = None,
    num_threads: int | None = None,
    num_slots: int | None = None,
) -> ReplayableTask:
    """Makes a task.

    Args:
        name: `cartpole`, `ant`, `hopper` or `halfcheetah`.
        backend: the engine; `auto` is MJX for the Ant on an accelerator and MuJoCo's C engine
            (`native`) otherwise.
        episode_length: longest episode in steps; the task's own if not given.
        num_threads: threads of the backends `native` and `lanes`; one a processor if not given.
        num_slots: policies that the backends `jax` and `mjx` run side by side, while others wait;
            what suits the device if not given.

    Raises:
        UserError: if there is no such task or backend, an engine is not installed, or an option
            does not fit.
    """
    if name not in _FACTORIES:
        raise unknown("task", name, _FACTORIES)
    factories = _FACTORIES[name]
    backend = _resolve(backend, factories)
    if backend not in factories:
        raise unknown(f"backend of task {name!r}", backend, ["auto", *factories])
    if episode_length is not None and episode_length < 1:
        raise UserError(f"episode_length is {episode_length}, but must be at least 1")
    if num_slots is not None and num_slots < 1:
        raise UserError(f"num_slots is {num_slots}, but must be at least 1")
    own = {"num_threads": num_threads, "num_slots": num_slots}
    given = {name: value for name, value in own.items() if value is not None}
    for name in given:
        if backend not in _OWN[name]:
            owners = " and ".join(map(repr, _OWN[name]))
            raise UserError(f"{name} goes with backend {owners}, not with {backend!r}")
    return factories[backend](episode_length=episode_length, **given)


def engines(name: str) -> tuple[str, ...]:
    """The backends of a task.

    Raises:
        UserError: if there is no such task.
    """
    if name not in _FACTORIES:
        raise unknown("task", name, _FACTORIES)
    return tuple(_FACTORIES[name])


def _resolve(backend: str, factories: dict[str, Callable[..., ReplayableTask]]) -> str:
    if backend != "auto":
        return backend
    if "native" not in factories:
        return next(iter(factories))
    return "native" if jax.default_backend() == "cpu" else "mjx"


def _require(module: str, backend: str, extra: str | None = None) -> None:
    if find_spec(module) is None:
        raise UserError(
            f"backend {backend!r} is not installed: pip install 'epvf[{extra or backend}]', "
            "or use backend 'native'"
        )


# engines are imported only by those who use them
def _cartpole(episode_length: int | None, num_slots: int | None = None) -> ReplayableTask:
    from epvf.tasks import cartpole

    return cartpole.make(episode_length, num_slots)


def _lanes_cartpole(episode_length: int | None, num_threads: int | None = None) -> ReplayableTask:
    from epvf.tasks import cartpole
    from epvf.tasks.engines import lanes

    task = cartpole.make(episode_length)
    return lanes.make(task.environment, task.spec, num_threads)


def _native_ant(episode_length: int | None, num_threads: int | None = None) -> ReplayableTask:
    from epvf.tasks.engines import native

    return native.make(episode_length, num_threads)


def _native_hopper(episode_length: int | None, num_threads: int | None = None) -> ReplayableTask:
    from epvf.tasks import body as bodies
    from epvf.tasks.engines import native

    return native.make(episode_length, num_threads, bodies.HOPPER)


def _native_half_cheetah(
    episode_length: int | None, num_threads: int | None = None
) -> ReplayableTask:
    from epvf.tasks import body as bodies
    from epvf.tasks.engines import native

    return native.make(episode_length, num_threads, bodies.HALF_CHEETAH)


def _mjx_ant(episode_length: int | None, num_slots: int | None = None) -> ReplayableTask:
    _require("mujoco.mjx", "mjx")
    from epvf.tasks.engines import mjx

    return mjx.make(episode_length, num_slots)


def _lanes_ant(episode_length: int | None, num_threads: int | None = None) -> ReplayableTask:
    _require("mujoco.mjx", "lanes", "mjx")
    from epvf.tasks.engines import lanes, mjx

    task = mjx.make(episode_length)
    return lanes.make(task.environment, task.spec, num_threads)


def _warp_ant(episode_length: int | None) -> ReplayableTask:
    _require("mujoco.mjx", "warp")
    _require("warp", "warp")
    if jax.default_backend() != "gpu":
        raise UserError("backend 'warp' needs a CUDA GPU that JAX can use; use backend 'native'")
    from epvf.tasks.engines import warp

    return warp.make(episode_length)


_FACTORIES: dict[str, dict[str, Callable[..., ReplayableTask]]] = {
    "cartpole": {"jax": _cartpole, "lanes": _lanes_cartpole},
    "ant": {"native": _native_ant, "mjx": _mjx_ant, "warp": _warp_ant, "lanes": _lanes_ant},
    "hopper": {"native": _native_hopper},
    "halfcheetah": {"native": _native_half_cheetah},
}

_OWN = {"num_threads": ("native", "lanes"), "num_slots": ("jax", "mjx")}
"""Backends that an option is for."""
