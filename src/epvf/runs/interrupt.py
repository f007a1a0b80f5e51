"""Ending cleanly at a signal: between iterations, or within a rollout on the host."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from epvf.runtime import signals
from epvf.training.prepare import Setup
from epvf.types import Envs, Evaluate, Evaluation, Explore, Population, PRNGKey, Segment

SIGNALS = signals.ENDING


class Interrupted(Exception):
    """Raised out of a rollout on the host; the state before it is untouched."""


class Interrupt:
    """Notes the first signal; a second Ctrl-C ends at once.

    In a program of the command line the second ends the process, in any other it raises
    KeyboardInterrupt.

    Attributes:
        received: the signal, or None.
    """

    def __init__(self, announce: Callable[[str], None]) -> None:
        self.received: int | None = None
        self._announce = announce
        self._in_rollout = False

    @property
    def exit_code(self) -> int:
        """128 plus the signal's number, as shells have it."""
        return 128 + (self.received or 0)

    @contextmanager
    def listening(self) -> Iterator["Interrupt"]:
        """Handles the signals while the block runs; only a program's main thread gets any.

        Those that the process was started to ignore, as under `nohup`, stay ignored.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._receive) for number in signals.handled()}
        try:
            with signals.saving():
                yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def guard(self, setup: Setup) -> Setup:
        """The same setup; where it rolls out on the host, a signal ends the rollout."""
        if setup.task.spec.traceable:
            return setup
        explore = None if setup.explore is None else _GuardedExplorer(setup.explore, self)
        return setup._replace(evaluate=self._guarded(setup.evaluate), explore=explore)

    def _guarded(self, evaluate: Evaluate) -> Evaluate:
        def guarded(key: PRNGKey, thetas: Population) -> Evaluation:
            with self.in_rollout():
                return evaluate(key, thetas)

        return guarded

    @contextmanager
    def in_rollout(self) -> Iterator[None]:
        """Raises `Interrupted` out of the block at a signal."""
        self._in_rollout = True
        try:
            if self.received is not None:
                raise Interrupted
            yield
        finally:
            self._in_rollout = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            if signals.guarded() or number != signal.SIGINT:
                return  # what ends the process does not come through here
            raise KeyboardInterrupt
        self.received = number
        self._announce("saving the run and ending; Ctrl-C again ends at once")
        if self._in_rollout:
            raise Interrupted


@dataclass(frozen=True)
class _GuardedExplorer:
    explore: Explore
    interrupt: Interrupt

    def reset(self, key: PRNGKey, num: int) -> Envs:
        return self.explore.reset(key, num)

    def __call__(self, key: PRNGKey, thetas: Population, envs: Envs) -> Segment:
        with self.interrupt.in_rollout():
            return self.explore(key, thetas, envs)
