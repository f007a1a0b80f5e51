"""The whole state of a run on disk, through Orbax: saved atomically, restored to the bit.

Every array is restored as it was, by its SHA-256, or not at all.
"""

import errno
import gc
import hashlib
import inspect
import json
import logging
import os
import shutil
import sys
import time
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from epvf.errors import UserError, brief
from epvf.files import check_inside, one_line
from epvf.methods.base import Progress, State
from epvf.methods.replay import Buffer
from epvf.runtime.devices import at_hand
from epvf.runtime.memory import num_bytes
from epvf.training.state import TrainState

FORMAT = "epvf-checkpoint/3"
_UNHASHED = "epvf-checkpoint/2"
"""Before arrays had hashes."""
_FLAT = "epvf-checkpoint/1"
"""Of 0.1.0, where what every method remembers lay beside the method's own."""

TRANSFER_SECONDS = 0.3
"""How long the other transfers of a failed save or restore are given to end."""


BESIDES = 100_000
"""Bytes of disk that Orbax's own files take in each checkpoint, as blocks of a file system."""


def size_on_disk(learner: State) -> int:
    """Bytes that a checkpoint of a learner's state, or of its shapes, takes at most."""
    return num_bytes(learner) + BESIDES


class Checkpoints:
    """The newest few checkpoints in a folder, each in a folder named by its update.

    A checkpoint appears under its name only once it is complete; what a killed process left
    behind is removed when the folder is opened for writing, which `read_only` does not.
    """

    def __init__(self, folder: Path, keep: int, read_only: bool = False) -> None:
        # Orbax logs its progress, and every error that it also raises, through absl.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        self._folder = folder
        check_inside(folder.parent, [folder.name])
        alone: dict[str, Any] = {}
        if jax.process_count() > 1:
            # one of several processes writes, and waits for none
            folder.mkdir(exist_ok=True)
            how = ocp.options.MultiprocessingOptions(0, {0}, "epvf")
            alone = {"create": False, "multiprocessing_options": how}
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                step_name_format=ocp.path.step.standard_name_format(step_format_fixed_length=12),
                enable_async_checkpointing=False,
                cleanup_tmp_directories=not read_only,
                read_only=read_only,
                **alone,
            ),
        )

    @property
    def latest(self) -> Path | None:
        """The newest complete checkpoint."""
        update = self._manager.latest_step()
        return None if update is None else self._path(update)

    def save(self, state: TrainState) -> None:
        """Writes a checkpoint of a state, unless there is one of the same update.

        Raises:
            OSError: if it cannot be written; earlier checkpoints stay.
        """
        if state.iteration in self._manager.all_steps():
            return
        meta: dict[str, Any] = {
            "format": FORMAT,
            "iteration": state.iteration,
            "env_steps": state.env_steps.tolist(),
            "wall_time": state.wall_time,
            "arrays": _describe(state.learner),
            "sha256": _hashes(state.learner),
        }
        meta["meta_sha256"] = _hash_of(meta)
        parts = {
            "state": ocp.args.StandardSave(_stored(state.learner)),
            "meta": ocp.args.JsonSave(meta),
        }
        try:
            with _without_late_complaints():
                self._manager.save(state.iteration, args=ocp.args.Composite(**parts))
        except (OSError, ValueError) as error:
            # Orbax reports a full disk as either, at length.
            full = os.strerror(errno.ENOSPC)
            reason = full if full in str(error) else one_line(error)
            raise OSError(f"cannot write checkpoint {state.iteration}: {reason}") from error

    def restore(self, like: State, update: int | None = None) -> TrainState | None:
        """A checkpoint; None if there is none.

        Args:
            like: the learner's state of such a run, of which only shapes and types are used.
            update: of the checkpoint; None: the newest.

        Raises:
            UserError: if there is no such checkpoint, it is not as it was written, or it was
                written by a version with another state.
        """
        if update is None:
            update = self._manager.latest_step()
            if update is None:
                return None
        elif update not in self._manager.all_steps():
            there = ", ".join(map(str, sorted(self._manager.all_steps()))) or "none"
            raise UserError(f"there is no checkpoint {update}; there is: {there}")
        meta = self._read(update, "meta", ocp.args.JsonRestore())
        told = meta.get("format") if isinstance(meta, dict) else None
        if told not in (FORMAT, _UNHASHED, _FLAT):
            raise self._misfit(update, f"its format is {brief(told)}, not {FORMAT!r}")
        self._check_meta(update, meta)
        expected = _flat(like) if told == _FLAT else like
        ours, theirs = _describe(expected), meta["arrays"]
        for name in sorted(ours.keys() | theirs.keys()):
            if ours.get(name) != theirs.get(name):
                reason = f"{name} is {brief(theirs.get(name))} there and {ours.get(name)} here"
                raise self._misfit(update, reason)
        abstract = _stored(jax.tree.map(_abstract, expected))
        stored = self._read(update, "state", ocp.args.StandardRestore(abstract))
        learner = _restored(stored if told != _FLAT else _nested(stored, like))
        if told == FORMAT:
            self._check_arrays(update, learner, meta["sha256"])
        env_steps = np.asarray(meta["env_steps"], np.int64)
        return TrainState(learner, meta["iteration"], env_steps, meta["wall_time"])

    def set_aside(self, update: int) -> list[Path]:
        """Moves checkpoints of after an update out of the way of those to come; where to.

        They stay beside the others' folder: whoever went back too far can have them again.
        """
        moved = []
        for later in sorted(step for step in self._manager.all_steps() if step > update):
            place = self._folder.with_name("set-aside") / self._path(later).name
            place.parent.mkdir(exist_ok=True)
            if place.exists():
                shutil.rmtree(place)
            os.replace(self._path(later), place)
            moved.append(place)
        self._manager.reload()
        return moved

    def close(self) -> None:
        self._manager.close()

    def _read(self, update: int, part: str, how: ocp.args.CheckpointArgs) -> Any:
        with _without_late_complaints():
            try:
                return self._manager.restore(update, args=ocp.args.Composite(**{part: how}))[part]
            except MemoryError:
                raise
            except Exception as error:  # of any kind, by what is broken
                reason = _reason(error)
            # what the error holds complains when it goes: now, while that is silenced
            time.sleep(TRANSFER_SECONDS)
            gc.collect()
        raise self._damaged(update, reason)

    def _check_meta(self, update: int, meta: dict[str, Any]) -> None:
        """Raises a `UserError` unless what a checkpoint says of itself is as it was written."""
        if meta["format"] == FORMAT or "meta_sha256" in meta:
            rest = {name: value for name, value in meta.items() if name != "meta_sha256"}
            if meta.get("meta_sha256") != _hash_of(rest):
                raise self._damaged(update, "its description is not as it was written")
        steps, seconds, arrays = (meta.get(x) for x in ("env_steps", "wall_time", "arrays"))
        whole = (
            meta.get("iteration") == update
            and isinstance(steps, list)
            and all(type(number) is int and 0 <= number < 2**63 for number in steps)
            and isinstance(seconds, int | float)
            and isinstance(arrays, dict)
        )
        if not whole:
            raise self._damaged(update, "its description is not that of this update")

    def _check_arrays(self, update: int, learner: State, told: Any) -> None:
        """Raises a `UserError` unless every array is as it was written."""
        for name, found in _hashes(learner).items():
            if not isinstance(told, dict) or told.get(name) != found:
                raise self._damaged(update, f"{name} is not as it was written")

    def _damaged(self, update: int, reason: str) -> UserError:
        earlier = [step for step in self._manager.all_steps() if step < update]
        run = self._folder.parent
        help_ = (
            f"go on from the one before: epvf resume {run} --checkpoint {max(earlier)}"
            if earlier
            else f"there is none before it; its policies may be whole: epvf eval {run}"
        )
        return UserError(f"checkpoint {self._path(update).name} is damaged ({reason}); {help_}")

    def _misfit(self, update: int, reason: str) -> UserError:
        return UserError(f"checkpoint {self._path(update)} is of another version of epvf: {reason}")

    def _path(self, update: int) -> Path:
        return self._folder / f"{update:012}"


@contextmanager
def _without_late_complaints() -> Iterator[None]:
    """Silences what follows a failure in Orbax, which is raised all the same.

    Orbax closes its event loop under transfers that are still on their way; each of them would
    print a traceback when it ends.
    """
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        late = str(unraisable.exc_value) == "Event loop is closed"
        if not late and not inspect.iscoroutine(unraisable.object):
            before(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    except Exception:
        time.sleep(TRANSFER_SECONDS)
        raise
    finally:
        sys.unraisablehook = before


def _describe(learner: State) -> dict[str, str]:
    """Type and shape of each array by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(learner)
    return {jax.tree_util.keystr(path): f"{x.dtype}{list(x.shape)}" for path, x in leaves}


def _hashes(learner: State) -> dict[str, str]:
    """SHA-256 of each array's numbers by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(learner)
    return {jax.tree_util.keystr(path): _hash(x) for path, x in leaves}


def _hash(array: Any) -> str:
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    content = np.ascontiguousarray(np.asarray(array)).reshape(-1).view(np.uint8)
    return hashlib.sha256(content.data).hexdigest()


def _hash_of(meta: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def _reason(error: BaseException) -> str:
    # TensorStore's messages hold its whole configuration.
    return one_line(error).split(": ")[0][:60]


def _stored(learner: State) -> Any:
    """The state without the parts of the buffer that this run has none of.

    Orbax would note them down, and refuse checkpoints of before there were such parts.
    """
    if not hasattr(learner, "buffer"):
        return learner
    parts = learner.buffer._asdict().items()
    present: Any = {name: part for name, part in parts if part is not None}
    return learner._replace(buffer=present)


def _restored(stored: Any) -> State:
    """The state that `_stored` was made from."""
    if not hasattr(stored, "buffer"):
        return stored
    return stored._replace(buffer=Buffer(**stored.buffer))


def _flat(learner: State) -> Any:
    """The state as 0.1.0 had it."""
    fields = learner._asdict()
    progress = fields.pop("progress")._asdict()
    names = (*fields, *progress)
    return namedtuple("Flat", names)(**fields, **progress)


def _nested(flat: Any, like: State) -> State:
    """The state that `_flat` was made from."""
    fields = flat._asdict()
    progress = Progress(**{name: fields.pop(name) for name in Progress._fields})
    return like._replace(**fields, progress=progress)


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    """An array to be read onto a device at hand, wherever it was when it was written."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at_hand())
