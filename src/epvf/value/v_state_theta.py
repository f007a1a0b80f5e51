"""V(s, θ): the return of θ from a state s, with θ seen through what it would do there.

    V(s, θ') = v(s) + A(s, z)        z = (π_θ'(s) - π_θ(s)) / σ

v is a network of the state: the value of the population around the centre θ. z is what θ' does
otherwise than the centre in s: a fingerprint of the policy (Faccio et al. 2022), taken in every
state that the rollouts visit rather than in a few probing states, from the outputs before they
become an action, in units of their deviation σ over the population. A tells what that difference is
worth, and ∇θ' of the mean of V(s, θ') over visited states s says where the centre should go.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from epvf.policies.scaling import Scaler
from epvf.types import Array, PRNGKey
from epvf.value.networks import Params, init_mlp, mlp

Advantage: TypeAlias = Literal["importance", "linear"]


class StepBatch(NamedTuple):
    """Steps `[B]` that policies of the population took, and what came of them.

    Attributes:
        observations: `[B, observation]` as the policy read it.
        centre: `[B, A]` outputs of the centre there.
        offsets: `[B, A]` z of the policy that took the step.
        advantages: `[B]` what came of it, standardised.
        targets: `[B]` for v.
        weight: `[B]` 1, or 0 for steps of policies whose rollout was not finite.
        scaler: of what the networks read.
    """

    observations: Float[Array, "B observation"]
    centre: Float[Array, "B A"]
    offsets: Float[Array, "B A"]
    advantages: Float[Array, "B"]
    targets: Float[Array, "B"]
    weight: Float[Array, "B"]
    scaler: Scaler

    @property
    def inputs(self) -> jax.Array:
        """`[B, observation]` standardised."""
        return self.scaler(self.observations)

    def take(self, rows: Int[Array, "R"] | slice) -> "StepBatch":
        """Some of the steps."""
        columns = {name: x[rows] for name, x in self._asdict().items() if name != "scaler"}
        return self._replace(**columns)


def init_network(key: PRNGKey, sizes: Sequence[int], gain: float = 0.01) -> Params:
    """Parameters of `network`, LeCun-scaled, its last layer by `gain` besides."""
    return init_mlp(jax.random.split(key, len(sizes) - 1), sizes, "lecun", gain)


def network(params: Params, x: Float[Array, "*B I"]) -> jax.Array:
    """The outputs `[..., O]` of an ELU network."""
    return mlp(params, [x], "exp_elu")


class AdvantageModel(NamedTuple):
    """A(s, z) in one of its forms.

    Attributes:
        network_outputs: width of its network for so many actions; 0: it has none.
        predict: parameters, inputs `[B, observation]` and offsets `[B, A]` to A `[B]`, before
            anything is known of what came of the steps.
        gain: parameters, steps and the offsets `[B, A]` that a new centre has there, to what A says
            these are worth `[B]`.
    """

    network_outputs: Callable[[int], int]
    predict: Callable[[Params, Array, Array], jax.Array]
    gain: Callable[[Params, StepBatch, Array, float], jax.Array]


def _no_prediction(params: Params, inputs: Array, offsets: Array) -> jax.Array:
    return jnp.zeros(inputs.shape[0])


def _weighted(params: Params, batch: StepBatch, offsets: Array, bound: float) -> jax.Array:
    """A from the step itself: its advantage, weighted by how much likelier θ' is to take it.

    With unit normal noise on the outputs, that is the importance weight of θ' against θ. It is
    bounded to 1 ± `bound` where that lowers A, as PPO's is (Schulman et al. 2017, equation 7), and
    to e at most in any case: a few steps of bad luck would otherwise drive θ away without end.
    """
    distance = (batch.offsets**2).sum(axis=-1) - ((batch.offsets - offsets) ** 2).sum(axis=-1)
    ratio = jnp.exp(jnp.clip(0.5 * distance, -1.0, 1.0))
    bounded = jnp.clip(ratio, 1.0 - bound, 1.0 + bound)
    return jnp.minimum(ratio * batch.advantages, bounded * batch.advantages)


def _slope(params: Params, inputs: Array, offsets: Array) -> jax.Array:
    """A as a slope over the outputs, which a network tells of every state."""
    return (network(params, inputs) * offsets).sum(axis=-1)


def _slope_within(params: Params, batch: StepBatch, offsets: Array, bound: float) -> jax.Array:
    """The slope, less what keeps a new centre's offsets near 0: |z|² / (2 `bound`)."""
    return _slope(params, batch.inputs, offsets) - (offsets**2).sum(axis=-1) / (2.0 * bound)


ADVANTAGES: dict[Advantage, AdvantageModel] = {
    "importance": AdvantageModel(lambda actions: 0, _no_prediction, _weighted),
    "linear": AdvantageModel(lambda actions: actions, _slope, _slope_within),
}
