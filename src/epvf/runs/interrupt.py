"""Ending cleanly at Ctrl-C and SIGTERM: between iterations, or within a rollout on the host."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from epvf.policies.mlp import Policy
from epvf.tasks.base import Task, TaskSpec, explorer_of
from epvf.types import Envs, Evaluate, Evaluation, Explore, Population, PRNGKey, Segment

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """Raised out of a rollout on the host; the state before it is untouched."""


class Interrupt:
    """Notes the first signal; a second Ctrl-C raises KeyboardInterrupt at once.

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
        """Handles the signals while the block runs."""
        before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def guard(self, task: Task) -> Task:
        """The same task; where it rolls out on the host, a signal ends the rollout."""
        return task if task.spec.traceable else _Guarded(task, self)

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
            raise KeyboardInterrupt
        self.received = number
        self._announce("saving the run and ending; Ctrl-C again ends at once")
        if self._in_rollout:
            raise Interrupted


@dataclass(frozen=True)
class _Guarded:
    task: Task
    interrupt: Interrupt

    @property
    def spec(self) -> TaskSpec:
        return self.task.spec

    def evaluator(self, policy: Policy) -> Evaluate:
        evaluate = self.task.evaluator(policy)

        def guarded(key: PRNGKey, thetas: Population) -> Evaluation:
            with self.interrupt.in_rollout():
                return evaluate(key, thetas)

        return guarded

    def explorer(self, policy: Policy, horizon: int) -> Explore:
        return _GuardedExplorer(explorer_of(self.task, policy, horizon), self.interrupt)


@dataclass(frozen=True)
class _GuardedExplorer:
    explore: Explore
    interrupt: Interrupt

    def reset(self, key: PRNGKey, num: int) -> Envs:
        return self.explore.reset(key, num)

    def __call__(self, key: PRNGKey, thetas: Population, envs: Envs) -> Segment:
        with self.interrupt.in_rollout():
            return self.explore(key, thetas, envs)
