"""V of a run as a function: what it predicts of policies, its gradient, and what it learned from.

value = load_value("runs/ant/...")
value(theta), value(thetas), value.gradient(theta), value.buffer()
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from epvf.analysis.neighbourhood import (
    AroundStates,
    AroundTheta,
    Neighbourhood,
    no_value_function,
)
from epvf.analysis.restore import restore
from epvf.errors import UserError
from epvf.methods.epvf import Learner, LearnerState
from epvf.methods.psvf import PSVFLearner
from epvf.policies.mlp import Policy
from epvf.types import Array
from epvf.value.targets import TargetConfig, target_units
from epvf.value.v_start import StartValueFunction
from epvf.value.v_state_theta import ADVANTAGES, StepBatch, network

Kind: TypeAlias = Literal["V(θ)", "V(s₀, θ)", "V(s, θ)"]
Units: TypeAlias = Literal["return", "rank", "discounted return"]
Thetas: TypeAlias = Float[Array, "N P"]
States: TypeAlias = Float[Array, "M observation"]


class Pairs(NamedTuple):
    """What V was fitted to: policies `[n, P]` and the return `[n]` that each of them had."""

    thetas: np.ndarray
    returns: np.ndarray


@dataclass(frozen=True)
class TrainedValue:
    """The value function of one seed at a run's newest checkpoint.

    Attributes:
        kind: what it reads: a policy; a policy and the state s₀ in which its episode starts; or a
            policy and any state s.
        units: of predictions. `return`: undiscounted returns. `rank`: where the run's targets are
            ranks, from -0.5 for the worst to 0.5 for the best policy of its buffer. `discounted
            return`: what the policy earns from a state on, discounted as in the newest iteration.
        policy: the architecture of the policies that it reads.
        theta: `[P]` the run's own policy at the checkpoint.
    """

    kind: Kind
    units: Units
    policy: Policy
    theta: np.ndarray
    _average: Callable[[Thetas], jax.Array]
    _at_states: Callable[[Thetas, States], jax.Array]
    _pairs: Callable[[], Pairs]

    def __call__(self, thetas: ArrayLike, states: ArrayLike | None = None) -> np.ndarray:
        """What V predicts of policies.

        Args:
            thetas: one policy `[P]` or several `[N, P]`.
            states: `[M, observation]` for V(s₀, θ) and V(s, θ), as the policy observes them. None:
                the mean over states that the run knows. Of V(s₀, θ) these are the start states of
                its buffer; of V(s, θ) the states that a population around θ passes through, from
                where the run's environments stand. V(θ) reads no states.

        Returns:
            `[N]`, or `[N, M]` with states; without the first axis for one policy.

        Raises:
            UserError: if policies or states are of another size, or V cannot read states.
        """
        several = self._checked(thetas)
        if states is None:
            found = self._average(several)
        else:
            found = self._at_states(several, _checked_states(self.policy, states))
        return np.asarray(found[0] if np.ndim(thetas) == 1 else found)

    def average(self, thetas: Thetas) -> jax.Array:
        """The same `[N]` of policies `[N, P]`, over states that the run knows; for JAX to trace."""
        return self._average(thetas)

    def gradient(self, theta: ArrayLike) -> np.ndarray:
        """∇V `[P]` at a policy `[P]`, of the mean over states where V reads them; see `__call__`.

        Raises:
            UserError: if the policy is of another size.
        """
        if np.ndim(theta) != 1:
            raise UserError(f"the gradient is of one policy [P], not of {list(np.shape(theta))}")
        (only,) = self._checked(theta)
        return np.asarray(jax.grad(lambda x: self._average(x[None])[0])(only))

    def buffer(self) -> Pairs:
        """The (policy, return) pairs that V was last fitted to, oldest rows in no special order.

        Where the run stores seeds instead of weights, the policies are drawn again.

        Raises:
            UserError: if the method keeps no buffer.
        """
        return self._pairs()

    def _checked(self, thetas: ArrayLike) -> jax.Array:
        shape, size = np.shape(thetas), self.policy.num_parameters
        if len(shape) not in (1, 2) or shape[-1] != size:
            raise UserError(f"thetas have shape {list(shape)}, but must be [{size}] or [N, {size}]")
        return jnp.asarray(thetas, jnp.float32).reshape(-1, size)


def load_value(run: str | Path, seed: int | None = None) -> TrainedValue:
    """The value function that a run has learned, from its newest checkpoint.

    Example:
        >>> import epvf, tempfile
        >>> config = epvf.preset("cartpole", "debug").replace({"iterations": 2})
        >>> result = epvf.train(config, out=f"{tempfile.mkdtemp()}/run")
        >>> value = load_value(result.run)
        >>> value.kind, value(result.theta).shape, value.gradient(result.theta).shape
        ('V(θ)', (), (58,))
        >>> thetas, returns = value.buffer()
        >>> thetas.shape, returns.shape
        ((64, 58), (64,))

    Args:
        run: the run's folder.
        seed: which of several seeds; None: the first.

    Raises:
        UserError: if the folder is no run, has no checkpoint or no such seed, or its method has no
            value function of policies.
    """
    found = restore(Path(run))
    return value_around(found.around(seed), found.setup.config.method.name)


def value_around(around: Neighbourhood, method: str) -> TrainedValue:
    """The value function of a θ and its surroundings; see `load_value`.

    Raises:
        UserError: if the method has no value function of policies.
    """
    if isinstance(around, AroundStates):
        return _of_states(around)
    if isinstance(around, AroundTheta):
        return _of_policies(around.learner, around.state, around.targets)
    raise no_value_function(method)


def _of_policies(learner: Learner, state: LearnerState, targets: TargetConfig) -> TrainedValue:
    frame, stored = learner.frame(state), state.buffer
    zero, unit = target_units(targets, stored.returns, stored.valid)
    reads_starts = isinstance(learner.value, StartValueFunction)

    @jax.jit
    def average(thetas: Thetas) -> jax.Array:
        return zero + unit * learner.value.expected(state.value, thetas, frame)

    @jax.jit
    def at_states(thetas: Thetas, states: States) -> jax.Array:
        if not reads_starts:
            raise UserError("V(θ) reads no states; leave them out")

        def at(start: Float[Array, "observation"]) -> jax.Array:
            starts = jnp.broadcast_to(start[None], (thetas.shape[0], start.shape[0]))
            return learner.value(state.value, thetas, frame, starts)

        return zero + unit * jax.vmap(at, out_axes=1)(states)

    def pairs() -> Pairs:
        rows = jnp.flatnonzero(stored.valid)
        return Pairs(np.asarray(stored.thetas[rows]), np.asarray(stored.returns[rows]))

    kind: Kind = "V(s₀, θ)" if reads_starts else "V(θ)"
    units: Units = "rank" if targets.transform == "centred_ranks" else "return"
    theta = np.asarray(learner.centre(state))
    return TrainedValue(kind, units, learner.policy, theta, average, at_states, pairs)


def _of_states(around: AroundStates) -> TrainedValue:
    """V(s, θ') = v(s) + A(s, z), see `v_state_theta`; A counts in units of advantages' spread."""
    learner, state = around.learner, around.state
    policy, parameters = learner.policy, state.value
    model = ADVANTAGES[learner.config.advantage]
    known_at_steps_only = model.network_outputs(policy.layer_sizes[-1]) == 0
    (steps, deviation), _ = around.fresh_steps(jax.random.key(0), state.envs)
    expected = network(parameters["v"], steps.inputs)[:, 0]
    spread = _deviation(steps.targets - expected, steps.weight)

    def advantage(batch: StepBatch, theta: Float[Array, "P"]) -> jax.Array:
        offsets = learner.offsets(theta, batch, deviation)
        if known_at_steps_only:
            return model.gain(parameters["advantage"], batch, offsets, learner.config.trust)
        return model.predict(parameters["advantage"], batch.inputs, offsets)

    @jax.jit
    def average(thetas: Thetas) -> jax.Array:
        def of(theta: Float[Array, "P"]) -> jax.Array:
            value = expected + spread * advantage(steps, theta)
            return _mean(value, steps.weight)

        with jax.default_matmul_precision("highest"):
            return state.reward_scale * jax.lax.map(of, thetas)

    @jax.jit
    def at_states(thetas: Thetas, states: States) -> jax.Array:
        if known_at_steps_only:
            raise UserError(
                "psvf.advantage 'importance' knows A(s, z) only at steps that were taken; leave "
                "states out, or train with psvf.advantage 'linear'"
            )
        batch = _without_steps(learner, around.theta, states, steps)
        v = network(parameters["v"], batch.inputs)[:, 0]
        with jax.default_matmul_precision("highest"):
            found = jax.lax.map(lambda theta: v + spread * advantage(batch, theta), thetas)
        return state.reward_scale * found

    def pairs() -> Pairs:
        raise UserError("a run of V(s, θ) keeps no buffer: it learns from steps, and forgets them")

    theta = np.asarray(around.theta)
    return TrainedValue("V(s, θ)", "discounted return", policy, theta, average, at_states, pairs)


def _without_steps(
    learner: PSVFLearner, theta: Float[Array, "P"], states: States, like: StepBatch
) -> StepBatch:
    """States alone: what θ does there, and nothing of what came of it."""
    outputs, nothing = learner.outputs(theta, states), jnp.zeros(states.shape[0])
    return like._replace(
        observations=states,
        centre=outputs,
        offsets=jnp.zeros_like(outputs),
        advantages=nothing,
        targets=nothing,
        weight=nothing,
    )


def _mean(values: Float[Array, "B"], weight: Float[Array, "B"]) -> jax.Array:
    return (weight * values).sum() / jnp.maximum(weight.sum(), 1.0)


def _deviation(values: Float[Array, "B"], weight: Float[Array, "B"]) -> jax.Array:
    return jnp.sqrt(_mean((values - _mean(values, weight)) ** 2, weight))


def _checked_states(policy: Policy, states: ArrayLike) -> jax.Array:
    size = policy.layer_sizes[0]
    if np.ndim(states) != 2 or np.shape(states)[1] != size:
        raise UserError(f"states have shape {list(np.shape(states))}, but must be [M, {size}]")
    return jnp.asarray(states, jnp.float32)
