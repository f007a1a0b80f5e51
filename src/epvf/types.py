"""The shapes that everything else speaks in.

Letters: `P` parameters of one policy, `N` policies evaluated in one iteration, `B` batch.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Key

if TYPE_CHECKING:
    # Type checkers know no shapes, and a union of the two would forbid arithmetic between them.
    Array: TypeAlias = Any
else:
    Array: TypeAlias = jax.Array | np.ndarray

PRNGKey: TypeAlias = Key[jax.Array, ""]
Theta: TypeAlias = Float[Array, "P"]
Population: TypeAlias = Float[Array, "N P"]
Returns: TypeAlias = Float[Array, "N"]
Lengths: TypeAlias = Int[Array, "N"]
Mask: TypeAlias = Bool[Array, "N"]
Starts: TypeAlias = Any
"""Start states `[N, observation]`, or None where nobody tells or reads them."""


class Evaluation(NamedTuple):
    """What a task tells of a population: how well and for how long each policy did.

    Attributes:
        returns: `[N]` undiscounted return of each policy; may be non-finite where the physics was.
        lengths: `[N]` env steps until the policy's episode ended; their sum is the cost.
        starts: `[N, observation]` what each policy saw of the state that its episode started in;
            None from a task that does not tell, as where every episode starts alike.
    """

    returns: Returns
    lengths: Lengths
    starts: Starts = None


Evaluate: TypeAlias = Callable[[PRNGKey, Population], Evaluation]
"""Turns policies into returns. The only thing that training needs of a simulator."""
