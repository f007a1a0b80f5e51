"""How processes that are to train one run find each other: all of one kind, and asked the same.

Process 0 listens, the others come. Each then keeps its connection to process 0 (`runtime.hosts`).
"""

import hashlib
import json
import os
import platform
import re
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import Any, NamedTuple

from epvf import __version__
from epvf.errors import UserError, brief
from epvf.files import from_json, one_line

MEETING_SECONDS = 120.0
"""How long the processes of a run wait for each other."""

_LONGEST = 4096
"""Bytes of a line that processes tell each other."""


class Asked(NamedTuple):
    """Which process of a run this is.

    Attributes:
        coordinator: `HOST:PORT` where process 0 listens.
        num_processes: of the run.
        process_id: of this one.
    """

    coordinator: str
    num_processes: int
    process_id: int


def leads(asked: Asked | None) -> bool:
    """Whether this process decides, writes and shows."""
    return asked is None or asked.process_id == 0


def asked_for(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> Asked | None:
    """Which process of a run this is, by options or by SLURM's variables; None: the only one.

    Raises:
        UserError: if an option is missing or wrong.
    """
    if num_processes == 1 and coordinator is None and process_id in (None, 0):
        return None
    if coordinator is None and num_processes is None and process_id is None:
        return _by_slurm(os.environ)
    if coordinator is None or num_processes is None or process_id is None:
        raise UserError(
            "several processes need all of --coordinator HOST:PORT, --num-processes N and "
            "--process-id I (process 0 is on HOST)"
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(f"coordinator must be HOST:PORT of process 0, not {brief(coordinator)}")
    if not 0 <= process_id < num_processes:
        raise UserError(
            f"process-id {process_id} must be one of 0 to {num_processes - 1}, as "
            f"num-processes is {num_processes}"
        )
    return None if num_processes == 1 else Asked(coordinator, num_processes, process_id)


def named(words: Sequence[str]) -> bool:
    """Whether words of a command line, or SLURM, ask for several processes."""
    options = {word.partition("=")[0].replace("_", "-") for word in words}
    return "--coordinator" in options or _by_slurm(os.environ) is not None


def _by_slurm(variables: Any) -> Asked | None:
    """Of a step of several tasks that `srun` started."""
    try:
        num, own = int(variables["SLURM_STEP_NUM_TASKS"]), int(variables["SLURM_PROCID"])
        job, nodes = int(variables["SLURM_JOB_ID"]), variables["SLURM_STEP_NODELIST"]
    except (KeyError, ValueError):
        return None
    if num < 2:
        return None
    # host, host1,host2, host[01-04,07] or host[01-04]-rack
    first = re.match(r"[^,\[]+(\[(\w+))?", nodes)
    if first is None:
        return None
    name = first[0] if first[2] is None else first[0].partition("[")[0] + first[2]
    step = int(variables.get("SLURM_STEP_ID", "0") or 0)
    return Asked(f"{name}:{61_440 + (job + step) % 4096}", num, own)


def connections(
    asked: Asked, purpose: str, seconds: float | None = None
) -> dict[int, socket.socket]:
    """Connections to the other processes by their numbers: process 0 to all, the others to it.

    Args:
        asked: which process this is.
        purpose: what all of them have to have been asked for alike.
        seconds: how long to wait for them; None: `MEETING_SECONDS`.

    Raises:
        UserError: if they do not come, or differ from this one.
    """
    seconds = MEETING_SECONDS if seconds is None else seconds
    told = {
        "process": asked.process_id,
        "processes": asked.num_processes,
        "epvf": __version__,
        "Python": platform.python_version(),
        "JAX": version("jax"),
        "asked": hashlib.sha256(purpose.encode()).hexdigest(),
    }
    return _receive_all(asked, told, seconds) if leads(asked) else _go_to(asked, told, seconds)


def _receive_all(asked: Asked, told: dict[str, Any], seconds: float) -> dict[int, socket.socket]:
    """Process 0 waits for all others."""
    port = int(asked.coordinator.rpartition(":")[2])
    end, come = time.monotonic() + seconds, list[tuple[Any, socket.socket]]()
    try:
        listening = _listening(port)
    except OSError as error:
        raise UserError(
            f"cannot listen on port {port} for the other processes: {one_line(error)}; use "
            "another one in --coordinator"
        ) from None
    problem = None
    with listening:
        while len(come) < asked.num_processes - 1 and problem is None:
            listening.settimeout(max(0.01, end - time.monotonic()))
            try:
                connection, _ = listening.accept()
            except TimeoutError:
                missing = sorted(
                    set(range(1, asked.num_processes)) - {number for number, _ in come}
                )
                names = ", ".join(map(str, missing))
                problem = f"of {asked.num_processes} processes these did not come: {names:.60}"
                problem += f" (waited {seconds:g} s at {asked.coordinator})"
                break
            try:
                hello = _heard(connection)
            except (OSError, ValueError):
                connection.close()
                continue  # whoever that was
            number = hello.get("process")
            problem = _difference(told, hello)
            if number in (0, *(other for other, _ in come)) or type(number) is not int:
                problem = f"two processes came with process-id {brief(number)}"
            come.append((number, connection))
    for _, connection in come:
        with suppress(OSError):
            _tell(connection, {"problem": problem})
    if problem is None:
        return dict(come)
    for _, connection in come:
        connection.close()
    raise UserError(problem)


def _listening(port: int) -> socket.socket:
    """A socket on all addresses of this machine, of both kinds where it has both."""
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    return socket.create_server(("", port), family=family, dualstack_ipv6=both)


def _go_to(asked: Asked, told: dict[str, Any], seconds: float) -> dict[int, socket.socket]:
    """Others go to process 0, which may not have begun yet."""
    host, _, port = asked.coordinator.rpartition(":")
    end, reason = time.monotonic() + seconds, "nobody listens there"
    while (left := end - time.monotonic()) > 0:
        try:
            connection = socket.create_connection((host.strip("[]"), int(port)), timeout=left)
            break
        except OSError as error:
            reason = one_line(error)
            time.sleep(min(0.2, left))
    else:
        raise UserError(
            f"process 0 of the run is not at {asked.coordinator} ({reason:.60}; tried for "
            f"{seconds:g} s)"
        )
    try:
        _tell(connection, told)
        connection.settimeout(max(1.0, seconds))
        answer = _heard(connection)
    except (OSError, ValueError):
        connection.close()
        raise UserError(
            f"what listens at {asked.coordinator} is no process 0 of a run, or gave up"
        ) from None
    if answer.get("problem") is not None:
        connection.close()
        raise UserError(f"{answer['problem']}")
    return {0: connection}


def check_listens(address: str, seconds: float = 10.0) -> None:
    """Checks that somebody listens at `HOST:PORT`, before a library tries to for minutes.

    Raises:
        UserError: if not, within some seconds.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(f"{brief(address)} must be HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=seconds).close()
    except OSError as error:
        raise UserError(f"nobody listens at {address}: {one_line(error):.80}") from None


def _difference(ours: dict[str, Any], theirs: dict[str, Any]) -> str | None:
    """What two processes of a run may not differ in, in words."""
    other = theirs.get("process")
    for name in ("processes", "epvf", "Python", "JAX"):
        if ours[name] != theirs.get(name):
            return (
                f"process {brief(other)} has {name} {brief(theirs.get(name))}, but process 0 has "
                f"{ours[name]}; they have to be the same everywhere"
            )
    if ours["asked"] != theirs.get("asked"):
        return (
            f"process {brief(other)} was asked for another run than process 0; give all the same "
            "options (or --num-processes 1, for runs of their own)"
        )
    return None


def _tell(connection: socket.socket, what: dict[str, Any]) -> None:
    connection.sendall(json.dumps(what).encode() + b"\n")


def _heard(connection: socket.socket) -> dict[str, Any]:
    """A line of JSON, read byte by byte as more may follow."""
    if connection.gettimeout() is None:
        connection.settimeout(10.0)
    line = b""
    while not line.endswith(b"\n"):
        if not (byte := connection.recv(1)) or len(line) > _LONGEST:
            raise ValueError("no line")
        line += byte
    found = from_json(line)
    if not isinstance(found, dict):
        raise ValueError("no words")
    return found
