"""What a run tells while it trains: `metrics.jsonl`, TensorBoard, and other sinks."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from epvf.config.schema import Config
from epvf.errors import UserError, brief
from epvf.files import from_json, one_line, strict_json
from epvf.runs.sinks import AXIS, Record, Session, open_sink


class MetricsLog:
    """Appends records to `metrics.jsonl`, whole lines only, and gives them to sinks.

    On an existing run everything after update `start` is dropped first, so that resuming leaves
    no duplicates.

    Raises:
        UserError: if a line that was written before is none of a run.
        OSError: if the file cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        config: Config,
        start: int,
        others: Sequence[str] = (),
    ) -> None:
        file = folder / "metrics.jsonl"
        truncate(file, start)
        seeds = range(config.seed, config.seed + config.num_seeds)
        done = {}
        if start and file.exists():
            done = {r.get("seed", seeds[0]): r[AXIS] for r in read_metrics(file)[-len(seeds) :]}
        self._sinks = []
        session = Session(folder, config, seeds, done)
        self._file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
        try:
            for name in ("tensorboard", *others):
                self._sinks.append(open_sink(name, session))
        except BaseException:
            self.close()
            raise

    def write(self, records: Sequence[Record]) -> None:
        """Adds one line a record, and tells every sink."""
        for record in records:
            self._append((strict_json(record) + "\n").encode())
            for sink in self._sinks:
                sink.write(record)
        for sink in self._sinks:
            sink.flush()

    def sync(self) -> None:
        """Makes sure that what was written survives a crash of the machine."""
        os.fsync(self._file)

    def close(self) -> None:
        os.close(self._file)
        for sink in self._sinks:
            sink.close()

    def _append(self, line: bytes) -> None:
        # One system call a line: being killed between two leaves no half of one.
        written = os.write(self._file, line)
        if written < len(line):
            os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_metrics(file: Path) -> list[Record]:
    """The records of a run, also of one that is being written; nulls come back as None.

    Raises:
        UserError: if the file cannot be read, or a line but the last is broken.
    """
    return [record for record, _ in _whole_lines(file, _content(file))]


def truncate(file: Path, update: int) -> None:
    """Cuts off a broken last line and all records after an update; no file stays none.

    Raises:
        UserError: if a line but the last is broken, so that nobody knows what comes after it.
    """
    if not file.exists():
        return
    end = 0
    for record, stop in _whole_lines(file, _content(file)):
        if record["steps/update"] > update:
            break
        end = stop
    os.truncate(file, end)


def _content(file: Path) -> bytes:
    try:
        if not file.is_file():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {file}: {one_line(error)}") from error


def _whole_lines(file: Path, content: bytes) -> list[tuple[Record, int]]:
    """Records, each with the offset of its end; a broken last line, of a killed run, is left out.

    Raises:
        UserError: with the number of a broken line before it.
    """
    found: list[tuple[Record, int]] = []
    start, number = 0, 0
    newest = 0
    while (stop := content.find(b"\n", start) + 1) > 0:
        number += 1
        try:
            record = _record(content[start:stop], newest)
        except ValueError as error:
            if stop == len(content):
                break
            raise UserError(
                f"line {number} of {file} is broken ({one_line(error)[:60]}); mend it, or cut the "
                "file off before it"
            ) from error
        newest = record["steps/update"]
        found.append((record, stop))
        start = stop
    return found


def _record(line: bytes, newest: int) -> Record:
    """One line's record. Raises ValueError where it is none that a run writes."""
    record = from_json(line, parse_constant=_refuse_constant)
    if not isinstance(record, dict):
        raise ValueError("it is no object")
    for name, value in record.items():
        whole = name in _COUNTS
        if value is None and not whole:
            continue
        kinds = (int,) if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not abs(value) < _LARGEST:
            raise ValueError(f"{brief(name)} is {brief(value)}")
    update = record.get("steps/update")
    if update is None or update < max(1, newest):
        raise ValueError(f"steps/update is {brief(update)} after {newest}")
    if any(not 0 <= record.get(name, 0) < 2**63 for name in _COUNTS):
        raise ValueError("a count is out of range")
    return record


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


_COUNTS = ("steps/update", "steps/env", "seed")
"""Whole numbers, which are always known."""

_LARGEST = 1e150
"""So that squares, and sums of many, stay finite."""
