"""`epvf doctor`: what epvf finds on this machine, and what could be installed."""

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from epvf.cli import arguments
from epvf.cli.arguments import Shown
from epvf.cli.extras import EXTRAS, has, how_to
from epvf.cli.results import print_result
from epvf.files import one_line
from epvf.runtime import environment, processors, startup

if TYPE_CHECKING:
    from epvf.tasks.adapters.cluster import Machine


@dataclass(frozen=True)
class Options:
    """Tell what epvf finds on this machine, and what could be installed.

    Attributes:
        cluster: tell of its machines, too: auto, HOST:PORT or ray://HOST:PORT.
        json: print the findings as JSON.
    """

    cluster: Annotated[str | None, Shown("WHERE")] = None
    json: bool = False


def run(argv: list[str]) -> int:
    """Prints the findings; returns the exit code."""
    asked = arguments.read(Options, "epvf doctor", argv)
    findings = examine()
    if asked.cluster is not None:
        findings["cluster"] = _machines(asked.cluster)
    print_result(findings, render(findings), asked.json)
    return 0


def examine() -> dict[str, Any]:
    """All findings as plain values; what is wrong with the environment is told, and undone here."""
    wrong, told = environment.wrong(), _environment()
    with _without(wrong):
        unreadable = environment.unreadable(apart=True)
        with _without(unreadable):
            unusable = environment.unusable()
            problems = wrong | unreadable | unusable
            return {"problems": problems} | _findings(usable=not unusable, told=told)


def _findings(usable: bool, told: dict[str, str]) -> dict[str, Any]:
    """All that can be told; without JAX's devices where it cannot start."""
    from epvf.runs import provenance

    return {
        "versions": provenance.versions(),
        "devices": _devices() if usable else None,
        "engines": _engines(usable),
        "extras": {name: _extra(name) for name in EXTRAS},
        "rendering": _rendering(),
        "processor_quota": processors.quota_of_group(),
        "environment": told,
        "compilation_cache": _cache(),
        "disk_free_gb": round(shutil.disk_usage(Path.cwd()).free / 1e9, 1),
    }


def _machines(where: str) -> dict[str, str]:
    """The machines of a cluster, and whether their results can be the same to the bit."""
    from epvf.tasks.adapters import cluster

    there = cluster.machines(cluster.connect(where, None))
    told = {
        f"{machine.name} {number}": f"{machine.cpus} CPUs, {machine.cpu}, epvf {machine.epvf}, "
        f"Python {machine.python}"
        for number, machine in enumerate(there)
    }
    return told | {"alike": alike(there)}


def alike(machines: "Sequence[Machine]") -> str:
    """Whether machines compute the same to the bit; if not, in what they differ."""
    unlike = []
    for what, field in (("CPU", "cpu"), ("epvf", "epvf"), ("Python", "python")):
        counts = Counter(getattr(machine, field) for machine in machines)
        if len(counts) > 1:
            unlike.append(f"{what} " + ", ".join(f"{kind} ({n})" for kind, n in counts.items()))
    if not unlike:
        return "yes"
    told = "results depend on who computed them, in last digits"
    return f"no: {'; '.join(unlike)}; {told}"


@contextmanager
def _without(names: Iterable[str]) -> Iterator[None]:
    """Variables are not set in the block: with some values JAX cannot even be imported."""
    kept = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(kept)


def render(findings: dict[str, Any]) -> str:
    """The findings as text."""
    lines = []
    for name, value in findings.items():
        if name == "problems" and not value:
            continue
        title = name.replace("_", " ")
        if isinstance(value, dict):
            lines.append(f"{title}:")
            lines += [
                f"  {_title(key):18} {_words(inner, MISSING.get(name, 'none'))}"
                for key, inner in value.items()
            ]
        else:
            lines.append(f"{title + ':':20} {_words(value)}")
    return "\n".join(lines)


def _title(key: str) -> str:
    return key if key.isupper() else key.replace("_", " ")  # variables have their names


MISSING = {"versions": "not installed"}
"""What there is none of."""


def _words(value: Any, missing: str = "none") -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return missing if value is None else str(value)


def _engines(usable: bool) -> dict[str, str]:
    """Whether each engine can be used here, and if not, what would help."""
    return {
        "jax": "yes",
        "native": _native(),
        "mjx": "yes" if has("mujoco.mjx") else _how_to("mjx"),
        "warp": _warp(usable),
        "lanes": "yes",
    }


def _native() -> str:
    try:
        import mujoco
        from mujoco import batch  # noqa: F401
    except Exception as error:  # of whatever kind what it loads for drawing has
        return f"no: {one_line(error)}"
    return f"yes, MuJoCo {mujoco.__version__}"


def _warp(usable: bool) -> str:
    if not all(map(has, EXTRAS["warp"])):
        return _how_to("warp")
    import jax

    return (
        "yes"
        if usable and jax.default_backend() == "gpu"
        else "installed, but there is no NVIDIA GPU"
    )


def _extra(name: str) -> str:
    return "installed" if all(map(has, EXTRAS[name])) else _how_to(name)


def _how_to(extra: str) -> str:
    return f"no; to get it: {how_to(extra)}"


def _rendering() -> str:
    """Whether pictures can be drawn: with a display, or without one through EGL."""
    if asked := environment.drawing():
        good = asked in (*environment.WAYS, *environment.OFF)
        return f"MUJOCO_GL={asked}" + ("" if good else ", which MuJoCo does not know; unset it")
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        return "a display"
    import ctypes.util

    if ctypes.util.find_library("EGL"):
        return "no display, but EGL: set MUJOCO_GL=egl"
    return "no display and no EGL; on Debian and Ubuntu: apt install libegl1, then MUJOCO_GL=egl"


def _devices() -> dict[str, Any]:
    from epvf.runs import provenance

    found = provenance.devices()
    # its features are a page, and run.json has them
    return found | {"cpu": found["cpu"]["model"]}


def _environment() -> dict[str, str]:
    """What is set of that which JAX, MuJoCo and numba read."""
    prefixes = ("JAX_", "XLA_", "MUJOCO_", "NUMBA_", "EPVF_")
    found = {name: value for name, value in os.environ.items() if name.startswith(prefixes)}
    if environment.SET_ASIDE in found:
        found[environment.GL] = found.pop(environment.SET_ASIDE)
    return dict(sorted(found.items()))


def _cache() -> str:
    folder = startup.cache_folder()
    if folder is None:
        return "none: there is no home; set JAX_COMPILATION_CACHE_DIR"
    try:
        if not folder.is_dir():
            return f"{folder} (not there yet)"
        files = [file.stat().st_size for file in folder.iterdir() if file.is_file()]
        trust = (
            "; others can write into it, and what lies in it is run: trust them, or make it yours"
            if startup.shared(folder)
            else ""
        )
    except OSError as error:
        return f"{folder} ({one_line(error)})"
    return f"{folder} ({len(files)} files, {sum(files) / 1e6:.0f} MB){trust}"
