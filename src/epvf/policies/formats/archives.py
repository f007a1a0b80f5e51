"""Zip archives by strangers: looked at before anything of them is unpacked."""

import zipfile
from pathlib import Path, PurePosixPath

from epvf.errors import UserError

MOST_BYTES = 1 << 28
"""Of all entries together, unpacked: a policy of a million weights and its optimiser take 12 MB."""

MOST_ENTRIES = 10_000


def check_archive(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuses an archive that would unpack to too much, or whose names leave it.

    Raises:
        UserError: in words.
    """
    entries = archive.infolist()
    if len(entries) > MOST_ENTRIES:
        raise UserError(f"{path} is no policy: it has {len(entries)} entries")
    for entry in entries:
        name = PurePosixPath(entry.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts:
            raise UserError(f"{path} is refused: its entry {entry.filename[:60]!r} leaves it")
        if entry.flag_bits & 1:
            raise UserError(f"{path} is refused: its entry {entry.filename[:60]!r} is encrypted")
    total = sum(entry.file_size for entry in entries)
    if total > MOST_BYTES:
        raise UserError(
            f"{path} is refused: it would unpack to {total >> 20} MiB, more than the "
            f"{MOST_BYTES >> 20} MiB that a policy may have"
        )
