"""Writing files so that a reader, or a crash, never meets half of one."""

import errno
import fcntl
import json
import math
import os
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from epvf.errors import UserError, printable, shortened

LARGEST_JSON = 64_000_000
"""Bytes of the largest JSON file that is read."""

DEEPEST_JSON = 50
"""Levels of what a JSON file holds."""

TOO_DEEP = "nested too deeply"

REASON = 120
"""Characters of what another library says, in a message."""


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces a file in one step: it holds the old content or the new, whatever happens.

    A link at the path is replaced, not followed.
    """
    # a name that nobody can have laid out, and a file that was not there before
    temporary = path.with_name(f".{path.name[:200]}.{secrets.token_hex(8)}.tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with open(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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
        value = from_json(read_text(path, LARGEST_JSON))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {one_line(error)}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no JSON object")
    return value


def from_json(text: str | bytes, **options: Any) -> Any:
    """The value of JSON from anywhere.

    Args:
        text: JSON.
        options: of `json.loads`.

    Raises:
        ValueError: if it is none, or lies deeper in each other than anybody writes it: how deep
            Python reads depends on its version, and what goes through the values goes less deep.
    """
    try:
        value = json.loads(text, **options)
    except RecursionError as error:
        raise ValueError(TOO_DEEP) from error
    layer = [value]
    for _ in range(DEEPEST_JSON):
        dicts = [one.values() for one in layer if isinstance(one, dict)]
        lists = [one for one in layer if isinstance(one, list)]
        layer = [inner for values in (*dicts, *lists) for inner in values]
        if not layer:
            return value
    raise ValueError(TOO_DEEP)


def read_text(path: Path, largest: int) -> str:
    """A file's text, in UTF-8 whatever the machine's language.

    Raises:
        OSError: if it cannot be read, is no file, or is larger.
        ValueError: if it is not UTF-8.
    """
    if not path.is_file():
        # a pipe would be waited for
        if not path.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        raise OSError(None, "is no file")
    if path.stat().st_size > largest:
        raise OSError(None, f"larger than {largest / 1e6:g} MB")
    return path.read_bytes().decode("utf-8-sig")


def one_line(error: BaseException) -> str:
    """The first line of what an exception says, or its name where it says nothing."""
    if isinstance(error, RecursionError):
        return TOO_DEEP
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    said = lines[0] if lines else type(error).__name__
    return shortened(printable(said), REASON)


def check_inside(folder: Path, names: Iterable[str]) -> None:
    """Checks that what lies in a folder is its own: files and folders, no links, no devices.

    Whoever made the folder could otherwise have other files read, written or deleted. The folder
    itself may be reached by a link.

    Args:
        folder: that may come from anybody.
        names: of the entries to look at, with all that lies in them.

    Raises:
        UserError: naming the first entry that is something else.
    """
    left = [folder / name for name in names]
    while left:
        path = left.pop()
        try:
            mode = path.lstat().st_mode
            if stat.S_ISDIR(mode):
                left += path.iterdir()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise UserError(f"cannot read {path}: {one_line(error)}") from error
        if stat.S_ISLNK(mode):
            told = "a link, which is never followed: put what it leads to in its place"
            raise UserError(f"{path} is {told}")
        if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
            raise UserError(f"{path} is neither a file nor a folder; remove it")


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
