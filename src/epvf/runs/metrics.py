"""What a run tells while it trains: `metrics.jsonl`, TensorBoard, and other sinks."""

import errno
import json
import os
from collections.abc import Sequence
from pathlib import Path

from epvf.config.schema import Config
from epvf.errors import UserError
from epvf.files import one_line, strict_json
from epvf.runs.sinks import AXIS, Record, Session, open_sink


class MetricsLog:
    """Appends records to `metrics.jsonl`, whole lines only, and gives them to sinks.

    On an existing run everything after update `start` is dropped first, so that resuming leaves
    no duplicates.
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
        self._file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
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
