"""Processes that step environments: fresh interpreters, of which none outlives its owner.

They are started by a command of their own rather than forked, which JAX's threads forbid, and
rather than by `multiprocessing`, which would run the user's script again in each. They end when
their owner does, however it ends: each watches a pipe that nobody else holds open.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, NamedTuple, TypeAlias

from gymnasium.vector.utils import CloudpickleWrapper

from epvf.errors import RunFailed, UserError
from epvf.registry import in_a_line
from epvf.runtime import mujoco_log, startup
from epvf.tasks.adapters.stepping import Stepper

Answer: TypeAlias = Callable[[Any], Any]
"""What is asked in the middle of a task, and the answer to it."""

MOST_TOLD = 120
"""Characters that are told of an error in an environment."""

PATIENCE = 2.0
"""Seconds that processes have to close their environments before they are killed."""

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from epvf.tasks.adapters.workers import serve; serve(int(sys.argv[2]), int(sys.argv[3]))"
)

_ALONE = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Libraries' threads, of which one a process is enough."""


class Sizes(NamedTuple):
    """What a process tells of its environment: lengths of observations and actions, their kind."""

    observation: int
    action: int
    discrete: bool


class _Process(NamedTuple):
    """One process: its end of the conversation, and what keeps it alive as long as it is open."""

    popen: Any
    connection: Connection
    life: int


class Workers:
    """So many processes, started when they are needed and again after a task was interrupted."""

    def __init__(self, name: str, make: Callable[[], Any], num: int) -> None:
        """None is started yet.

        Args:
            name: of the task, for errors.
            make: makes an environment; it is sent to the processes.
            num: how many.
        """
        self.num = num
        self._name = name
        self._make = CloudpickleWrapper(make)  # takes classes of the user's script along
        self._processes: list[_Process] = []
        self._tried = False
        self._end = weakref.finalize(self, _close, self._processes)

    def sizes(self) -> Sizes:
        """Starts the first process, and asks it what its environment is like.

        Raises:
            UserError: if the environment cannot be made, or no policy fits it.
        """
        self._start(1)
        return self._conversation([("sizes", ())])[0]

    def start(self) -> None:
        """Starts all processes that are not running; the first tries its environment out.

        Raises:
            UserError: if an environment cannot be made, reset or stepped.
        """
        self._start(self.num)
        if not self._tried:
            self._conversation([("try_out", ())])
            self._tried = True

    def run(
        self, tasks: Sequence[tuple[str, tuple[Any, ...]]], answer: Answer | None = None
    ) -> list[Any]:
        """Lets the first processes do a task each: a method of `Stepper`, and its arguments.

        Args:
            tasks: at most as many as there are processes.
            answer: to what they ask on the way.

        Returns:
            What each returns.

        Raises:
            UserError: if an environment raises something, or crashes.
            RunFailed: if somebody else ended a process.
        """
        self.start()
        return self._conversation(tasks, answer)

    def close(self) -> None:
        """Ends all processes; they may close their environments."""
        _close(self._processes)

    def _start(self, num: int) -> None:
        while len(self._processes) < num:
            process = _started()
            self._processes.append(process)
            try:
                process.connection.send(self._make)
            except OSError:
                raise self._death(process) from None
            except Exception as error:  # whatever keeps it from being pickled
                what = _shortened(in_a_line(error))
                raise UserError(
                    f"task {self._name!r} cannot be sent to a process: {what}"
                ) from None

    def _conversation(
        self, tasks: Sequence[tuple[str, tuple[Any, ...]]], answer: Answer | None = None
    ) -> list[Any]:
        try:
            return self._converse(tasks, answer)
        except BaseException:  # an interrupt too: nobody knows what environments are in now
            _kill(self._processes)
            raise

    def _converse(
        self, tasks: Sequence[tuple[str, tuple[Any, ...]]], answer: Answer | None
    ) -> list[Any]:
        busy = {}
        results: list[Any] = [None] * len(tasks)
        for i, task in enumerate(tasks):
            self._send(self._processes[i], task)
            busy[self._processes[i].connection] = i
        while busy:
            # with a timeout, as another thread may be the one that gets an interrupt
            for connection in wait(list(busy), timeout=0.1):
                i = busy[connection]  # type: ignore[index]
                kind, content = self._receive(self._processes[i])
                if kind == "asks":
                    assert answer is not None
                    self._send(self._processes[i], answer(content))
                    continue
                results[i] = content
                del busy[connection]  # type: ignore[arg-type]
        return results

    def _send(self, process: _Process, message: Any) -> None:
        try:
            process.connection.send(message)
        except OSError:
            raise self._death(process) from None

    def _receive(self, process: _Process) -> tuple[str, Any]:
        try:
            kind, content = process.connection.recv()
        except (EOFError, OSError):
            raise self._death(process) from None
        if kind == "failed":
            raise UserError(f"task {self._name!r}: {_shortened(content)}")
        return kind, content

    def _death(self, process: _Process) -> Exception:
        try:
            code = process.popen.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            code = None
        how = f"exit code {code}"
        if code is not None and code < 0:
            how = signal.Signals(-code).name
        what = f"a process that stepped task {self._name!r} ended with {how}"
        if code in (-signal.SIGKILL, -signal.SIGTERM):
            return RunFailed(f"{what}: somebody ended it, or memory ran out")
        return UserError(f"{what}: its environment crashed")


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MOST_TOLD else f"{line[: MOST_TOLD - 4]} ..."


def _started() -> _Process:
    ours, theirs = Pipe()
    watched, life = os.pipe()
    try:
        popen = subprocess.Popen(
            [
                *(sys.executable, "-W", "ignore", "-c", _START),
                *(json.dumps(sys.path), str(theirs.fileno()), str(watched)),
            ],
            pass_fds=(theirs.fileno(), watched),
            stdin=subprocess.DEVNULL,
            stdout=2,  # what environments print is no result
            start_new_session=True,  # Ctrl-C is for their owner, who ends them
            env={
                **os.environ,
                **dict.fromkeys(_ALONE, "1"),
                "PYGAME_HIDE_SUPPORT_PROMPT": "1",
            },
        )
    finally:
        theirs.close()
        os.close(watched)
    return _Process(popen, ours, life)


def _close(processes: list[_Process]) -> None:
    for process in processes:
        process.connection.close()
    for process in processes:
        try:
            process.popen.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            break
    _kill(processes)


def _kill(processes: list[_Process]) -> None:
    while processes:
        process = processes.pop()
        process.connection.close()
        process.popen.kill()
        os.close(process.life)
        process.popen.wait()


def serve(connection_fd: int, life_fd: int) -> None:
    """What a process does: takes its environment, then one task after the other, to the end."""
    threading.Thread(target=_end_with, args=(life_fd,), daemon=True).start()
    with Connection(connection_fd) as connection:
        try:
            _serve(connection)
        except (EOFError, BrokenPipeError):
            return  # nobody asks any more
        except BaseException as error:
            told = str(error) if isinstance(error, UserError) else in_a_line(error)
            with suppress(OSError):
                connection.send(("failed", told))


def _serve(connection: Connection) -> None:
    stepper = Stepper(connection.recv())
    mujoco_log.divert()
    startup.quieten()

    def ask(content: Any) -> Any:
        connection.send(("asks", content))
        return connection.recv()

    try:
        while True:
            method, arguments = connection.recv()
            if method == "sizes":
                result: Any = Sizes(stepper.seen.size, stepper.acted.size, stepper.acted.discrete)
            elif method == "episodes":
                architecture, num_seats = arguments
                result = stepper.episodes(architecture, num_seats, ask)
            else:
                result = getattr(stepper, method)(*arguments)
            connection.send(("done", result))
    finally:
        stepper.close()


def _end_with(life_fd: int) -> None:
    """Ends this process when its owner has ended, even by a signal that nobody can handle."""
    os.read(life_fd, 1)
    os._exit(1)
