"""V(s₀, θ): V(θ) that also reads the state in which the episode started.

Source: Bohlinger & Peters 2025, equation 2: ∇J(θ) = E[∇V(s₀, θ)], s₀ the start state.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from epvf.errors import UserError
from epvf.types import Array, Mask, Population, Starts
from epvf.value.v_theta import Frame, Params, ValueFunction

MAX_STARTS = 256
"""Start states that J(θ) averages over. Their mean is then within 1/16 of the deviation of V(s₀, θ)
over starts, and a centre costs no more than this many rows of V's MLP, its features only once."""


class StartFrame(NamedTuple):
    """How V(s₀, θ) sees start states, and the sample of them that J(θ) averages over.

    Attributes:
        centre, scale: `[observation]`, of the affine map (s - centre) / scale.
        states: `[M, observation]` the sample.
        weight: `[M]`, of sum 1, or 0 as long as no start state is known.
    """

    centre: Float[Array, "observation"]
    scale: Float[Array, "observation"]
    states: Float[Array, "M observation"]
    weight: Float[Array, "M"]


@dataclass(frozen=True)
class StartValueFunction(ValueFunction):
    """V(s₀, θ): the start state s₀ beside the policy's features (equation 2).

    A linear V has no product of s₀ and θ: it only takes away from a return what the start explains.

    Attributes:
        start_size: length of an observation.
    """

    start_size: int

    @property
    def num_inputs(self) -> int:
        """The features' width and the observation's."""
        return self.representation.size + self.start_size

    def empty_starts(self, num: int) -> Starts:
        """Zeros `[num, observation]`."""
        return jnp.zeros((num, self.start_size))

    def read_starts(self, starts: Starts) -> Starts:
        """All of them.

        Raises:
            UserError: if the task tells no start states, or not observations of this policy.
        """
        shape = None if starts is None else tuple(starts.shape)
        if shape is None or shape[1:] != (self.start_size,):
            raise UserError(
                f"value.condition 'policy+state' needs the task's Evaluation.starts to be [N, "
                f"{self.start_size}], but it is {shape and list(shape)}; return the first "
                "observations there, or use value.condition 'policy'"
            )
        return starts

    def frame(
        self, centres: Float[Array, "C P"], starts: Starts = None, valid: Mask | None = None
    ) -> Frame:
        """As for V(θ), and around the first `MAX_STARTS` rows of `starts [S, observation]`.

        Any rows of the buffer do as a sample of the start states, since these do not depend on θ.
        Rows at one place change no faster than the buffer does: what V was fitted on still holds.
        """
        sample = starts[:MAX_STARTS]
        weight = jnp.asarray(valid)[:MAX_STARTS].astype(jnp.float32)
        weight = weight / jnp.maximum(weight.sum(), 1.0)
        centre = _mean(sample, weight)
        deviation = jnp.sqrt(_mean((sample - centre[None, :]) ** 2, weight))
        # An entry that is always the same tells nothing: any finite scale will do.
        scale = jnp.where(deviation > 0.0, deviation, 1.0)
        return super().frame(centres)._replace(starts=StartFrame(centre, scale, sample, weight))

    def expected(self, params: Params, thetas: Float[Array, "C P"], frame: Frame) -> jax.Array:
        """J(θ) `[C]`: V averaged over the frame's start states, the same for all policies.

        The features of each θ are computed once, since they do not depend on the start.
        """
        sample: StartFrame = frame.starts

        def at(state: Float[Array, "observation"]) -> jax.Array:
            starts = jnp.broadcast_to(state[None, :], (thetas.shape[0], self.start_size))
            return self(params, thetas, frame, starts)

        return _mean(jax.vmap(at)(sample.states), sample.weight)

    def _inputs(
        self, params: Params, thetas: Population, frame: Frame, starts: Starts
    ) -> list[Array]:
        seen: StartFrame = frame.starts
        standardised = (starts - seen.centre[None, :]) / seen.scale[None, :]
        return [*super()._inputs(params, thetas, frame, starts), standardised]


def _mean(rows: Float[Array, "M X"], weight: Float[Array, "M"]) -> jax.Array:
    return (weight[:, None] * rows).sum(axis=0)
