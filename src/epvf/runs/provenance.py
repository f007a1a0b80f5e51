"""Where a run comes from: versions, devices and the state of the source code."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

from epvf.runtime.processors import num_processors

PACKAGES = (
    "epvf",
    "jax",
    "jaxlib",
    "numpy",
    "optax",
    "orbax-checkpoint",
    "mujoco",
    "mujoco-mjx",
    "warp-lang",
    "numba",
    "llvmlite",
    "gymnasium",
    "brax",
)


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that results depend on; None: not installed."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def version(package: str) -> str | None:
    """Version of an installed package; None: not installed."""
    if package == "epvf":
        from epvf import __version__  # also right where the source is used without installing

        return __version__
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def devices() -> dict[str, Any]:
    """What computes: JAX's devices and the processor."""
    return {
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "usable_processors": num_processors(),
        "cpu": processor(),
        "jax_backend": jax.default_backend(),
        "jax": [device.device_kind for device in jax.devices()],
    }


def processor(file: Path = Path("/proc/cpuinfo")) -> dict[str, Any]:
    """Model and features of the processor: programs compiled for other features round otherwise."""
    try:
        lines = file.read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    found: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        found.setdefault(name.strip().lower(), value.strip())
    model = found.get("model name") or found.get("cpu model") or platform.processor() or None
    # x86 says flags, ARM Features
    flags = found.get("flags") or found.get("features") or ""
    return {"model": model, "flags": " ".join(sorted(flags.split()))}


def git_state() -> dict[str, Any] | None:
    """Commit of the source tree and whether it was changed since; None outside of a checkout."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "changed": bool(_git("status", "--porcelain", "--", "src"))}


def _git(*arguments: str) -> str | None:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        # An installed copy: a repository that happens to lie around it is not the source.
        return None
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
