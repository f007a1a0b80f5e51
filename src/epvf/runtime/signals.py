"""Signals from the first moment on: until somebody listens, one ends the process at once.

Python runs handlers in the main thread only, between two instructions of its own, and what a
handler raises can get lost in a callback of the garbage collector. So a thread of its own waits for
signals here, which no compilation and no callback holds up; it notes how the process ended and ends
it. Those who save what they have first (a training run) say so by `saving`.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

ENDING: tuple[int, ...] = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
)
"""Ctrl-C, what systems and job schedulers send before they kill, and a terminal that is closed."""

APART = 0.3
"""Seconds between two Ctrl-C of a person; closer ones are one, passed on by a wrapper too."""

Note = Callable[[], None]

_notes: list[Note] = []
_saving = 0
_first: float | None = None
_guarded = False
_told = True


def handled() -> list[int]:
    """The signals that end a run: those that were not ignored when the process began."""
    return [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]


def guard(told: bool = True) -> None:
    """From now on a signal ends the process: for programs, in their main thread.

    Args:
        told: whether that is told on stderr.
    """
    global _guarded, _told
    _told = told
    reader, writer = os.pipe()
    for end in (reader, writer):
        os.set_inheritable(end, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in handled():
        signal.signal(number, _left_to_the_thread)
    threading.Thread(target=_wait, args=(reader,), name="signals", daemon=True).start()
    _guarded = True


def guarded() -> bool:
    """Whether a second signal ends this process by itself, whatever the main thread does."""
    return _guarded


def add_note(note: Note) -> None:
    """Has `note` called before a signal ends the process."""
    _notes.append(note)


def remove_note(note: Note) -> None:
    """Takes a note back."""
    if note in _notes:
        _notes.remove(note)


@contextmanager
def saving() -> Iterator[None]:
    """While the block runs, signals are the block's; a Ctrl-C after the first ends the process."""
    global _saving, _first
    _saving, _first = _saving + 1, None
    try:
        yield
    finally:
        _saving -= 1


def _left_to_the_thread(number: int, frame: Any) -> None:
    pass


def _wait(reader: int) -> None:
    global _first
    while numbers := os.read(reader, 1):
        number = numbers[0]
        if number not in ENDING:
            continue
        now = time.monotonic()
        if _first is None:
            _first = now
        again = number == signal.SIGINT and now - _first > APART
        if not _saving or again:
            end(number)


def note() -> None:
    """Has all notes called, as the process is about to end."""
    for each in list(_notes):
        with suppress(BaseException):
            each()


def end(number: int) -> None:
    """Ends this process as a signal does, after all notes: 128 plus its number."""
    note()
    with suppress(OSError):
        # past the streams, whose locks the main thread may hold
        if _told:
            # a live display hides the cursor
            shown = "\x1b[?25h" if os.isatty(2) else ""
            os.write(2, f"{shown}epvf: error: interrupted\n".encode())
    os._exit(128 + number)
