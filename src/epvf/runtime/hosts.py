"""Several processes, of one machine or many, that train one run together (`jax.distributed`).

    meet        process 0 listens, the others come; all are of one kind and were asked the same
    join        JAX connects their devices
    the run     process 0 decides, writes and shows; the others compute their part
    part        all are through; each goes on alone

Between `meet` and `part` each of the others holds a connection to process 0. JAX's collectives end
in many ways, or not at all, when a process is gone; a connection that closes tells of it at once.
"""

import os
import signal
import socket
import threading
import time
from contextlib import suppress
from typing import Any, NoReturn

from epvf.errors import RunFailed
from epvf.files import one_line
from epvf.runtime import signals
from epvf.runtime.meeting import MEETING_SECONDS, Asked, connections, leads

GRACE_SECONDS = 5.0
"""What process 0 has to say how far the run came once another one is gone."""

HEARTBEAT_SECONDS = 30
"""After which JAX takes a process whose machine is gone for lost."""

_PIECE = 2**24
"""Bytes that are sent at once."""


class _Team:
    """The other processes, as this one is connected to them; by number, and 0 for all others."""

    def __init__(self, asked: Asked, others: dict[int, socket.socket]) -> None:
        self.asked, self.others = asked, others
        self.watches: list[threading.Thread] = []
        self.lost: int | None = None
        self.noticed = threading.Event()
        self.through = False


_team: _Team | None = None


def meet(asked: Asked, purpose: str, seconds: float | None = None) -> None:
    """Waits for the other processes of a run, and checks that they are of one kind.

    Args:
        asked: which process this is.
        purpose: what all of them have to have been asked for alike.
        seconds: how long to wait; None: `MEETING_SECONDS`.

    Raises:
        UserError: if they do not come, or differ from this one.
    """
    global _team
    others = connections(asked, purpose, seconds)
    _team = team = _Team(asked, others)
    for item in others.items():
        watch = threading.Thread(target=_watch, args=(team, *item), name="hosts", daemon=True)
        team.watches.append(watch)
        watch.start()


def join(seconds: float = MEETING_SECONDS) -> None:
    """Connects the devices of all processes that met; before JAX is used for anything else.

    Raises:
        RunFailed: if JAX cannot.
    """
    import jax

    team = _those()
    _hush(team.asked)
    # the processes of CPUs need it, others do not mind
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # or process 0 would be aborted, with a trace, where another one is lost
    jax.config.update("jax_enable_recoverability", True)
    asked = team.asked
    try:
        jax.distributed.initialize(
            asked.coordinator,
            asked.num_processes,
            asked.process_id,
            initialization_timeout=int(seconds),
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=int(GRACE_SECONDS),
        )
        jax.devices()
    except (RuntimeError, ValueError) as error:
        raise RunFailed(f"JAX cannot connect the processes: {one_line(error):.100}") from error


def _hush(asked: Asked) -> None:
    """Keeps what JAX's C++ code prints off the terminal.

    Of process 0 it goes to stderr, as stdout may be JSON; the others show nothing but their errors.
    """
    import sys

    sys.stdout = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8", errors="replace")
    os.dup2(2, 1)
    if leads(asked):
        return
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="replace")
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    _on_abort(asked.process_id)


def _on_abort(own: int) -> None:
    """JAX aborts a process that has lost process 0, with a trace; here in a line."""
    import ctypes

    def act(number: int) -> None:
        # in a thread of JAX's; the one that watches process 0 knows best why
        time.sleep(1.0)
        _end(f"JAX ended process {own} of the run: it has lost the others, or failed")

    global _handler
    _handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(act)
    ctypes.CDLL(None).signal(int(signal.SIGABRT), _handler)


_handler: Any = None
"""Kept for as long as the process lives."""


def _watch(team: _Team, number: int, connection: socket.socket) -> None:
    """Waits for a process to end, which it says first if all is well."""
    word = b""
    with suppress(OSError):
        connection.settimeout(None)
        _keep_alive(connection)
        word = connection.recv(1)
    if word or team.through:
        return
    if not leads(team.asked):
        _end(_gone(0))
    if team.lost is None:
        team.lost = number
    team.noticed.set()
    # it says itself what remains, unless it hangs in a collective
    time.sleep(GRACE_SECONDS)
    if not team.through:
        _end(_gone(number))


def _keep_alive(connection: socket.socket) -> None:
    """A machine that is gone closes no connection; some 30 s of silence do."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _gone(number: int) -> str:
    told = "; the run goes on from its newest checkpoint: epvf resume" if number else ""
    return f"process {number} of the run has ended{told or '; what it said tells why'}"


def _end(message: str) -> NoReturn:
    """Ends this process at once, wherever its other threads are."""
    import sys

    signals.note()
    with suppress(OSError, ValueError):
        os.write(sys.stderr.fileno(), f"epvf: error: {message}\n".encode())
    os._exit(1)


def lost(seconds: float = 2.0) -> str | None:
    """In words, that another process has ended, if that is seen within some seconds."""
    if _team is None or not _team.noticed.wait(seconds) or _team.lost is None:
        return None
    return f"process {_team.lost} of the run has ended"


def part() -> None:
    """All processes are through with the run: from now on each may end when it likes."""
    global _team
    team = _team
    if team is None:
        return
    import jax

    agree(0)  # nobody closes a connection before all know that this is the end
    team.through = True
    if leads(team.asked):
        # the last to end, as the others are aborted where they still hear it
        for watch in team.watches:
            watch.join(GRACE_SECONDS)
    with suppress(RuntimeError):
        jax.distributed.shutdown()
    for connection in team.others.values():
        with suppress(OSError):
            connection.sendall(b".")
    _team = None


def leave(code: int) -> None:
    """Ends the process if it is still part of a run, whose others it would wait for otherwise."""
    if _team is not None:
        os._exit(code)


def several() -> bool:
    """Whether this process trains together with others."""
    return _team is not None


def follows() -> bool:
    """Whether another process decides, writes and shows."""
    return _team is not None and not leads(_team.asked)


def _those() -> _Team:
    assert _team is not None, "the processes have not met"
    return _team


# What follows has to be called by all processes at the same point of the program.


def agree(number: int) -> int:
    """The largest of the numbers, from 0 to 2^31 - 1, of all processes."""
    if _team is None:
        return number
    import numpy as np
    from jax.experimental import multihost_utils

    return int(multihost_utils.process_allgather(np.asarray(number, np.int32)).max())


def of_the_first(number: int) -> int:
    """Process 0's number, from 0 to 2^31 - 1."""
    return agree(0 if follows() else number)


def share(content: bytes | None) -> bytes:
    """Process 0's bytes; what others give does not matter."""
    if _team is None:
        assert content is not None
        return content
    import numpy as np
    from jax.experimental import multihost_utils

    own = b"" if content is None or follows() else content
    size = multihost_utils.broadcast_one_to_all(np.array(divmod(len(own), 2**20), np.int32))
    size = int(size[0]) * 2**20 + int(size[1])
    piece = min(_PIECE, 1 << max(0, size - 1).bit_length())
    received = bytearray()
    for begin in range(0, size, piece):
        part = np.zeros(piece, np.uint8)
        mine = np.frombuffer(own[begin : begin + piece], np.uint8)
        part[: len(mine)] = mine
        received += multihost_utils.broadcast_one_to_all(part).tobytes()
    return bytes(received[:size])


def whole(tree: Any) -> Any:
    """Arrays of all devices as this machine's own, numpy's; large ones come in pieces."""
    if _team is None:
        return tree
    import jax

    return jax.tree.map(_whole, tree)


def _whole(array: Any) -> Any:
    import numpy as np
    from jax.experimental import multihost_utils

    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    gather = lambda x: np.asarray(multihost_utils.process_allgather(x, tiled=True))  # noqa: E731
    if array.ndim < 2 or array.nbytes <= _PIECE:
        return gather(array)
    rows = max(1, _PIECE * array.shape[1] // array.nbytes)
    pieces = [gather(array[:, i : i + rows]) for i in range(0, array.shape[1], rows)]
    return np.concatenate(pieces, axis=1)
