"""Which process is meant: a number alone is soon another's."""

import os
import socket
from pathlib import Path
from typing import Any


def identity() -> dict[str, Any]:
    """This process, as a file can name it: host, number, and when it began."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "since": _since(pid)}


def other_is_alive(told: Any) -> bool:
    """Whether a process that `identity` named is another one, of this host, and still there."""
    if not isinstance(told, dict) or told.get("host") != socket.gethostname():
        return False
    pid = told.get("pid")
    if type(pid) is not int or not 1 < pid < 2**31 or pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        pass  # somebody else's
    except OSError:
        return False
    return told.get("since") == _since(pid)


def _since(pid: int) -> int | None:
    """When a process began, in ticks since the machine did; None where the system does not tell."""
    try:
        # the name before may hold spaces and brackets
        return int(
            Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()[19]
        )
    except (OSError, ValueError, IndexError):
        return None
