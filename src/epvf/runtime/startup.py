"""What has to be set before JAX is first used: the compilation cache, and quiet."""

import hashlib
import logging
import os
import platform
import stat
from pathlib import Path

from epvf.runtime import mujoco_log

CACHE_VARIABLE = "JAX_COMPILATION_CACHE_DIR"
PROCESSORS = Path("/proc/cpuinfo")


def quieten() -> None:
    """Keeps remarks of libraries that no user can act on off the terminal."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    for name in ("jax._src.xla_bridge", "absl", "tensorboardX", mujoco_log.LOGGER):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def cache_folder() -> Path | None:
    """Where compiled programs are kept between runs; None: nowhere, since there is no home.

    The user's cache, apart for each kind of processor, unless `JAX_COMPILATION_CACHE_DIR` tells.
    """
    if os.environ.get(CACHE_VARIABLE):
        return Path(os.environ[CACHE_VARIABLE])
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # no home at all
        return None
    return Path(base) / "epvf" / "jax" / _kind_of_processor()


def use_compilation_cache() -> None:
    """Has JAX keep compiled programs on disk; without a folder of one's own it compiles afresh."""
    import jax

    folder = cache_folder()
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.environ.get(CACHE_VARIABLE) and shared(folder):
            return
    except OSError:
        return
    if os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.02)


def shared(folder: Path) -> bool:
    """Whether others can write into a folder: programs in it are run as they are.

    Whoever can write there can have anything run; a cache that is shared has to be asked for.
    """
    state = folder.stat()
    mine = not hasattr(os, "getuid") or state.st_uid == os.getuid()
    return not mine or bool(state.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def _kind_of_processor() -> str:
    """A few characters: programs for other processors' features are rejected loudly, or crash."""
    try:
        with PROCESSORS.open(encoding="utf-8", errors="replace") as file:
            lines = (line for line in file if line.lower().startswith(("flags", "features")))
            features = next(lines, "")
    except OSError:
        features = ""
    told = f"{platform.machine()} {' '.join(sorted(features.split()))}"
    return hashlib.sha256(told.encode()).hexdigest()[:12]
