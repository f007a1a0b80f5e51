"""The shapes that everything else speaks in.

Letters: `P` parameters of one policy, `N` policies evaluated in one iteration, `B` batch.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Protocol, TypeAlias

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Key

if TYPE_CHECKING:
    # Type checkers know no shapes, and a union of the two would forbid arithmetic between them.
    Array: TypeAlias = Any
else:
    Array: TypeAlias = jax.Array | np.ndarray


class Range(NamedTuple):
    """Which numbers a field of a configuration may hold; without one it is finite and above 0.

    Attributes:
        lowest, highest: the bounds, both allowed.
        exclusive: whether they are not.
    """

    lowest: float
    highest: float = float("inf")
    exclusive: bool = False


NonNegative: TypeAlias = Annotated[float, Range(0.0)]
NonNegativeInt: TypeAlias = Annotated[int, Range(0)]
Fraction: TypeAlias = Annotated[float, Range(0.0, 1.0)]
OpenFraction: TypeAlias = Annotated[float, Range(0.0, 1.0, exclusive=True)]

PRNGKey: TypeAlias = Key[jax.Array, ""]
RowKeys: TypeAlias = Key[jax.Array, "*rows"]
"""A key, or those that a task on JAX would split it into, one for each of the rows asked for."""

Theta: TypeAlias = Float[Array, "P"]
Population: TypeAlias = Float[Array, "N P"]
Returns: TypeAlias = Float[Array, "N"]
Lengths: TypeAlias = Int[Array, "N"]
Mask: TypeAlias = Bool[Array, "N"]
Starts: TypeAlias = Any
"""Start states `[N, observation]`, or None where nobody tells or reads them."""


class Evaluation(NamedTuple):
    """What a task tells of a population: how well and for how long each policy did.

    Example:
        >>> told = Evaluation(np.array([1.5, 3.0]), np.array([10, 20]))
        >>> float(told.returns.mean()), int(told.lengths.sum()), told.starts
        (2.25, 30, None)

    Attributes:
        returns: `[N]` undiscounted return of each policy; may be non-finite where the physics was.
        lengths: `[N]` env steps until the policy's episode ended; their sum is the cost.
        starts: `[N, observation]` what each policy saw of the state that its episode started in;
            None from a task that does not tell, as where every episode starts alike.
        visited: `[V, observation]` what some of the policies saw during their episodes, of which
            training tells methods that ask for it (`PolicySearch.num_scouts`); None of all others.
    """

    returns: Returns
    lengths: Lengths
    starts: Starts = None
    visited: Float[Array, "V observation"] | None = None


Evaluate: TypeAlias = Callable[[PRNGKey, Population], Evaluation]
"""Turns policies into returns. The only thing that training needs of a simulator."""


class Among(NamedTuple):
    """Which rows of a population are asked for, where a task is asked for some of them.

    Attributes:
        total: N, policies of the whole population.
        rows: `[n]` their numbers, from 0 on.
    """

    total: int
    rows: Int[Array, "n"]


class Envs(NamedTuple):
    """Environments in the middle of their episodes, waiting for the next policies.

    Attributes:
        state: the engine's own, a pytree of arrays `[N, ...]`.
        steps: `[N]` env steps since the episode began.
        total: `[N]` its rewards so far.
        finished: `[N]` return of the newest episode that ended; NaN before the first.
        finished_steps: `[N]` its length; 0 before the first.
    """

    state: Any
    steps: Int[Array, "N"]
    total: Float[Array, "N"]
    finished: Float[Array, "N"]
    finished_steps: Int[Array, "N"]


class Segment(NamedTuple):
    """What policies met in H steps from where their environments stood.

    Where an episode ends, the next one begins with the same policy.

    Attributes:
        observations: `[N, H + 1, observation]` before each step, and after the last.
        outputs: `[N, H, A]` of the policy there, before they became an action.
        rewards: `[N, H]`; NaN where the physics or an action was not finite.
        terminated: `[N, H]` whether the step ended its episode in a terminal state.
        truncated: `[N, H]` whether it ended only because the time was over.
        envs: where the environments stand now.
    """

    observations: Float[Array, "N H1 observation"]
    outputs: Float[Array, "N H A"]
    rewards: Float[Array, "N H"]
    terminated: Bool[Array, "N H"]
    truncated: Bool[Array, "N H"]
    envs: Envs


class Explore(Protocol):
    """Runs policies for a fixed number of steps in environments that go on from call to call."""

    def reset(self, key: PRNGKey, num: int) -> Envs:
        """`num` environments at the beginning of their first episodes."""
        ...

    def __call__(self, key: PRNGKey, thetas: Population, envs: Envs) -> Segment:
        """Runs policy `i` of `thetas [N, P]` in environment `i`."""
        ...
