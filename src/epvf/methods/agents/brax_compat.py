"""Brax 0.14.2 beside newer versions of JAX, its remarks kept off the terminal.

Delete `_replicate` and `_mend` once the oldest Brax allowed calls no `jax.device_put_replicated`.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from epvf.errors import UserError


def require(method: str) -> None:
    """Checks that Brax is installed.

    Raises:
        UserError: if it is not.
    """
    if find_spec("brax") is None:
        raise UserError(f"method {method!r} needs brax: pip install 'epvf[baselines]'")


@contextmanager
def tolerated() -> Iterator[None]:
    """Within the block Brax can be imported and run."""
    _mend()
    for name in ("absl", "orbax"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings(), jax.numpy_rank_promotion("allow"):
        # jaxopt, which Brax imports, is no longer maintained
        warnings.filterwarnings("ignore", "JAXopt", DeprecationWarning)
        # brax.training still maps over devices with pmap
        warnings.filterwarnings("ignore", ".*pmap", DeprecationWarning)
        with redirect_stdout(None):  # where MJX says that Warp is not installed
            import brax.envs  # noqa: F401
        yield


def _mend() -> None:
    """Gives JAX back the function that it dropped in 0.10 and that Brax 0.14.2 calls."""
    if not hasattr(jax, "device_put_replicated"):
        vars(jax)["device_put_replicated"] = _replicate


def _replicate(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """Every leaf `[...]` as `[D, ...]`, one copy on each of `D` devices."""
    # laid out as pmap leaves its results, so that its second call is not compiled anew
    mesh = jax.sharding.Mesh(np.array(devices), ("i",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("i"))

    def copy(leaf: Any) -> jax.Array:
        leaf = jnp.asarray(leaf)
        return jax.device_put(jnp.broadcast_to(leaf, (len(devices), *leaf.shape)), sharding)

    return jax.tree.map(copy, tree)
