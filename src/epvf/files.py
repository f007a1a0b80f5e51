"""Writing files so that a reader, or a crash, never meets half of one."""

import errno
import fcntl
import json
import math
import os
from pathlib import Path
from typing import Any

from epvf.errors import UserError


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces a file in one step: it holds the old content or the new, whatever happens."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def check_new(path: Path, replace: bool = False) -> None:
    """Checks that writing a file would not replace one, unless that is asked for.

    Raises:
        UserError: if it would.
    """
    if not replace and path.exists():
        raise UserError(f"{path} exists already; choose another --out, or give --replace")


def write_json(path: Path, value: Any) -> None:
    """Writes readable JSON atomically; see `strict_json`."""
    write_atomically(path, (strict_json(value, indent=2) + "\n").encode())


def strict_json(value: Any, indent: int | None = None) -> str:
    """JSON proper, in which a number that is not finite is null."""
    return json.dumps(known(value), indent=indent, allow_nan=False)


def known(value: Any) -> Any:
    """Plain values with None for every number that is not finite."""
    if isinstance(value, dict):
        return {name: known(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [known(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        UserError: if there is none.
    """
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {one_line(error)}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no JSON object")
    return value


def one_line(error: BaseException) -> str:
    """The first line of what an exception says, or its name where it says nothing."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def lock(path: Path, wait: bool = False) -> int | None:
    """Takes a file for this process until the handle is closed, even by being killed.

    Args:
        path: of the file, which is made where there is none.
        wait: for another process that has it.

    Returns:
        The handle; None if another process has it. Where the file system knows no locks, nothing
        keeps two processes apart.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(handle)
        return None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            os.close(handle)
            raise
    return handle
