"""What the engines written in JAX have to provide: one environment as pure functions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from epvf.types import PRNGKey

State: TypeAlias = Any


@dataclass(frozen=True)
class Environment:
    """One environment as pure functions of one, unbatched state.

    Attributes:
        reset: key to the first state.
        step: state and action to the next state, its reward and whether it is terminal.
        observe: state to what the policy sees of it.
    """

    reset: Callable[[PRNGKey], State]
    step: Callable[[State, Any], tuple[State, Any, Any]]
    observe: Callable[[State], Any]
