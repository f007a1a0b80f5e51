"""Memory: what is free, what a run needs at least, and how much of it a call took."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp

from epvf.errors import RunFailed, UserError
from epvf.files import one_line
from epvf.policies.population import drawn

T = TypeVar("T")

GIGABYTE = 1e9
HOST, DEVICE = "of memory", "of the device's memory"


class Needs(NamedTuple):
    """Bytes that are in use together at some moment of every run, at least.

    Attributes:
        fixed: buffer, value function and optimizers, whatever the number of policies.
        per_policy: for each policy of an iteration.
    """

    fixed: int
    per_policy: int


class Search(Protocol):
    """As much of a method as its memory depends on."""

    @property
    def num_envs(self) -> int: ...

    def init_state(self, key: Any) -> Any: ...

    def propose(self, state: Any, iteration: Any) -> Any: ...


def check_run(search: Search, num_seeds: int, traceable: bool, multiple: int = 1) -> None:
    """Refuses a run that cannot fit the memory, before anything of it is compiled.

    Only what is certainly needed is counted, so that nothing is refused which would fit; what
    passes can still be too large.

    Args:
        search: the method's statics.
        num_seeds: M, seeds trained side by side.
        traceable: whether the rollouts run where the arrays live, rather than on the host.
        multiple: of which a number of policies has to be one.

    Raises:
        UserError: if the run cannot fit; it tells how many policies do.
    """
    free, where, copies = free_device_bytes(), DEVICE, 1
    if free is None:
        # a task on the host gets populations and clouds together, copied into one
        free, where, copies = free_host_bytes(), HOST, 1 if traceable else 2
    if free is not None:
        needs = run_needs(search, num_seeds, traceable, copies)
        check_fits(search.num_envs, needs, free, multiple, where)


def run_needs(search: Search, num_seeds: int, traceable: bool, copies: int) -> Needs:
    """What a run needs, by the shapes of its state and of so many copies of its populations.

    Populations that a traceable task draws as it goes take next to nothing.
    """
    state = jax.eval_shape(search.init_state, jax.eval_shape(lambda: jax.random.key(0)))
    iteration = jax.ShapeDtypeStruct((), jnp.int32)
    thetas = jax.eval_shape(search.propose, state, iteration)
    if not traceable:
        thetas = jax.eval_shape(drawn, thetas)
    per_policy = _num_bytes(thetas) // search.num_envs
    return Needs(num_seeds * _num_bytes(state), num_seeds * copies * per_policy)


def check_fits(
    num_envs: int, needs: Needs, free: int, multiple: int = 1, where: str = HOST
) -> None:
    """Compares needs with the bytes that are free.

    Raises:
        UserError: if they are more; it tells how many policies fit, as a multiple of `multiple`.
    """
    total = needs.fixed + num_envs * needs.per_policy
    if total <= free:
        return
    amounts = f"at least {total / GIGABYTE:.3g} GB {where}, but {free / GIGABYTE:.3g} GB are free"
    left = free - needs.fixed
    fitting = left // max(1, needs.per_policy) // multiple * multiple
    if fitting < 1:
        raise UserError(
            f"num_envs {num_envs} needs {amounts}; {needs.fixed / GIGABYTE:.3g} GB of it are the "
            "buffer and what learns: lower buffer.size or policy.hidden_sizes, or set "
            "buffer.store seeds"
        )
    raise UserError(
        f"num_envs {num_envs} needs {amounts}: no more than {fitting} fit; lower num_envs, "
        "buffer.size or policy.hidden_sizes"
    )


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turns running out of memory inside into one line about `what`.

    Raises:
        RunFailed: if memory ran out.
    """
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            raise RunFailed(f"{what} does not fit the memory: {one_line(error)}") from error
        raise


def free_host_bytes() -> int | None:
    """Memory that this process can still get without swapping; None where that is not known."""
    known = [_free_of_machine(), _free_of_cgroup()]
    return min((free for free in known if free is not None), default=None)


def free_device_bytes() -> int | None:
    """Memory that JAX can still get on its first device; None on a CPU."""
    stats = _device_stats()
    if "bytes_limit" not in stats:
        return None
    return int(stats["bytes_limit"]) - int(stats.get("bytes_in_use", 0))


class Peak(NamedTuple):
    """How high a call drove memory, in bytes; None where that is not known.

    Attributes:
        host: by how much the process' resident memory exceeded at its highest that before.
        device: highest use of the first device's memory, with what was on it before.
    """

    host: int | None
    device: int | None


def measure_peak(run: Callable[[], T]) -> tuple[T, Peak]:
    """What `run` returns, and how high it drove memory."""
    resettable = _reset_host_peak()
    host, device = _host_peak(), _device_peak()
    result = run()
    return result, Peak(_raised(host, _host_peak(), resettable), _highest(device, _device_peak()))


def _raised(before: int | None, after: int | None, resettable: bool) -> int | None:
    if before is None or after is None:
        return None
    # without a reset an earlier, higher peak would hide this one
    return after - before if resettable or after > before else None


def _highest(before: int | None, after: int | None) -> int | None:
    if before is None or after is None:
        return None
    return after if after > before else None


def _num_bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _device_stats() -> dict[str, int]:
    return jax.local_devices()[0].memory_stats() or {}


def _device_peak() -> int | None:
    return _device_stats().get("peak_bytes_in_use")


def _free_of_machine(file: Path = Path("/proc/meminfo")) -> int | None:
    """What Linux says is available; elsewhere all that there is."""
    for name, value in _pairs(file):
        if name == "MemAvailable:":
            return int(value) * 1024
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _free_of_cgroup(
    root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> int | None:
    """What the tightest control group leaves, as containers and job schedulers set them."""
    try:
        groups = membership.read_text().splitlines()
    except OSError:
        return None
    found = []
    for line in groups:
        _, controllers, path = line.split(":", 2)
        names = ("memory.max", "memory.current", "file")
        base = root
        if "memory" in controllers.split(","):  # version 1
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache")
            base = root / "memory"
        inner = base / path.strip("/")
        for group in (inner, *inner.parents):
            if group.is_relative_to(base):
                found.append(_free_of_group(group, *names))
    return min((free for free in found if free is not None), default=None)


def _free_of_group(group: Path, limit: str, usage: str, cache: str) -> int | None:
    """A group's limit less what it uses and cannot give back; None if it has none."""
    try:
        most, used = (int((group / name).read_text()) for name in (limit, usage))
    except (OSError, ValueError):  # "max" is no number
        return None
    cached = dict(_pairs(group / "memory.stat")).get(cache, "0")
    return max(0, most - max(0, used - int(cached)))


def _pairs(file: Path) -> list[tuple[str, str]]:
    """The first two words of each line."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return []
    words = (line.split() for line in lines)
    return [(line[0], line[1]) for line in words if len(line) > 1]


def _reset_host_peak() -> bool:
    """Makes Linux forget the peak of this process' resident memory; false elsewhere."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _host_peak() -> int | None:
    if os.name != "posix":
        return None
    import resource  # not there on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
