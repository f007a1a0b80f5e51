"""What has to be set before JAX is first used: the compilation cache, and quiet."""

import logging
import os
from pathlib import Path

CACHE_VARIABLE = "JAX_COMPILATION_CACHE_DIR"


def quieten() -> None:
    """Keeps remarks of libraries that no user can act on off the terminal."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    for name in ("jax._src.xla_bridge", "absl", "tensorboardX"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def cache_folder() -> Path:
    """Where compiled programs are kept between runs: the user's cache unless told otherwise."""
    if os.environ.get(CACHE_VARIABLE):
        return Path(os.environ[CACHE_VARIABLE])
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "epvf" / "jax"


def use_compilation_cache() -> None:
    """Has JAX keep compiled programs on disk; without a writable folder it compiles afresh."""
    import jax

    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
