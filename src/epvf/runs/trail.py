"""Where θ has been: a few of a run's unperturbed policies, evenly spread over its updates.

`trail.safetensors` holds `thetas [K, M, P]` float32 of M seeds and `updates [K]` int64,
which `epvf landscape` projects. When there are too many, every other one is dropped.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.numpy import save

from epvf.errors import UserError
from epvf.files import one_line, write_atomically
from epvf.policies.formats.safetensors import UNREADABLE
from epvf.types import Array

FORMAT = "epvf-trail/1"
MOST = 64
MOST_BYTES = 8_000_000


class Points(NamedTuple):
    """Policies of the past, and after which updates they were."""

    thetas: Float[np.ndarray, "K M P"]
    updates: Int[np.ndarray, "K"]


class Trail:
    """Notes where θ is, and writes it down."""

    def __init__(self, file: Path, update: int) -> None:
        self._file, self._each = file, 1
        self._updates: list[int] = []
        self._thetas: list[np.ndarray] = []
        if update and file.exists():
            self._go_on(update)

    def due(self, update: int) -> bool:
        """Whether it is some updates ago that a policy was noted."""
        return not self._updates or update >= self._updates[-1] + self._each

    def note(self, update: int, thetas: Float[Array, "M P"]) -> None:
        """Adds the unperturbed policies of all seeds."""
        self._updates.append(update)
        self._thetas.append(np.array(thetas, np.float32))
        most = max(4, min(MOST, MOST_BYTES // self._thetas[-1].nbytes))
        if len(self._updates) > most:
            self._updates, self._thetas = self._updates[::2], self._thetas[::2]
            self._each = max(1, (self._updates[-1] - self._updates[0]) // len(self._updates))

    def save(self) -> None:
        """Writes all of them."""
        if self._updates:
            tensors = {"thetas": np.stack(self._thetas), "updates": np.array(self._updates)}
            write_atomically(self._file, save(tensors, metadata={"format": FORMAT}))

    def _go_on(self, update: int) -> None:
        """With what a file holds, up to an update; a damaged one is begun anew."""
        try:
            thetas, updates = read_trail(self._file)
        except UserError:
            return
        kept = updates <= update
        self._updates, self._thetas = updates[kept].tolist(), list(thetas[kept])
        if len(self._updates) > 1:
            self._each = max(1, (self._updates[-1] - self._updates[0]) // len(self._updates))


def read_trail(file: Path) -> Points:
    """What a run has noted.

    Raises:
        UserError: if the file cannot be read or holds something else.
    """
    try:
        with safe_open(file, framework="numpy") as opened:
            if (opened.metadata() or {}).get("format") != FORMAT:
                raise UserError(f"{file} is not of format {FORMAT!r}")
            thetas, updates = opened.get_tensor("thetas"), opened.get_tensor("updates")
    except UNREADABLE as error:
        raise UserError(f"cannot read {file}: {one_line(error)}") from error
    fits = thetas.ndim == 3 and updates.ndim == 1 and len(thetas) == len(updates)
    if not fits or thetas.dtype != np.float32 or not np.isfinite(thetas).all():
        raise UserError(f"{file} is not a whole {FORMAT} file")
    return Points(thetas, updates)
