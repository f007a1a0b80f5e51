"""What a run tells while it trains: `metrics.jsonl` and TensorBoard."""

import errno
import json
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from epvf.errors import UserError
from epvf.files import one_line, strict_json

Record: TypeAlias = dict[str, Any]


class MetricsLog:
    """Appends records to `metrics.jsonl`, whole lines only, and to TensorBoard.

    On an existing run everything after update `start` is dropped first, so that resuming leaves
    no duplicates.
    """

    def __init__(self, file: Path, tensorboard: Path, seeds: Sequence[int], start: int) -> None:
        truncate(file, start)
        self._file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._writers = _tensorboard_writers(tensorboard, seeds, start)
        self._first = seeds[0]

    def write(self, records: Sequence[Record]) -> None:
        """Adds one line a record, and one scalar a field."""
        for record in records:
            self._append((strict_json(record) + "\n").encode())
            self._add_scalars(record)
        for writer in self._writers.values():
            writer.flush()

    def sync(self) -> None:
        """Makes sure that what was written survives a crash of the machine."""
        os.fsync(self._file)

    def close(self) -> None:
        os.close(self._file)
        for writer in self._writers.values():
            writer.close()

    def _append(self, line: bytes) -> None:
        # One system call a line: being killed between two leaves no half of one.
        written = os.write(self._file, line)
        if written < len(line):
            os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _add_scalars(self, record: Record) -> None:
        writer = self._writers[record.get("seed", self._first)]
        for name, value in record.items():
            if name not in ("seed", "steps/update") and math.isfinite(value):
                writer.add_scalar(name, value, record["steps/update"])


def read_metrics(file: Path) -> list[Record]:
    """The records of a run, also of one that is being written; nulls come back as None.

    Raises:
        UserError: if the file cannot be read.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {file}: {one_line(error)}") from error
    return [record for record, _ in _whole_lines(content)]


def truncate(file: Path, update: int) -> None:
    """Cuts off a broken last line and all records after an update; no file stays none."""
    if not file.exists():
        return
    end = 0
    for record, stop in _whole_lines(file.read_bytes()):
        if record["steps/update"] > update:
            break
        end = stop
    os.truncate(file, end)


def _whole_lines(content: bytes) -> list[tuple[Record, int]]:
    """Records up to the first line that is none, each with the offset of its end."""
    found, start = [], 0
    while (stop := content.find(b"\n", start) + 1) > 0:
        try:
            record = json.loads(content[start:stop])
            record["steps/update"]
        except (ValueError, TypeError, KeyError):
            break
        found.append((record, stop))
        start = stop
    return found


def _tensorboard_writers(folder: Path, seeds: Sequence[int], start: int) -> dict[int, Any]:
    logging.getLogger("tensorboardX").setLevel(logging.ERROR)
    from tensorboardX import SummaryWriter  # slow to import, and only a training run needs it

    options: dict[str, Any] = {"filename_suffix": f".{start}"}
    if folder.exists():
        options["purge_step"] = start + 1
    return {
        seed: SummaryWriter(str(folder / f"seed{seed}" if len(seeds) > 1 else folder), **options)
        for seed in seeds
    }
