"""θ, the policies around it, and what V says of them: the same questions to V(θ) and V(s, θ).

A move `[P]` is in units of the noise: entry i is per deviation of weight i's perturbation, so that
a move of length sqrt(P) is as long as a typical perturbation.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Float

from epvf.errors import UserError
from epvf.methods.base import PolicySearch
from epvf.methods.epvf import Learner, LearnerState
from epvf.methods.psvf import PSVFLearner, PSVFState
from epvf.policies.noise import clip_weights, noise_deviation
from epvf.policies.population import perturb
from epvf.training.prepare import Setup
from epvf.types import Array, Envs, Evaluation, Explore, Population, PRNGKey
from epvf.value.targets import TargetConfig
from epvf.value.v_state_theta import StepBatch

RANKED = 2048
"""About so many of the steps of a population, alike for all, tell policies apart."""


class Neighbourhood(Protocol):
    """θ and what is around it."""

    @property
    def learner(self) -> PolicySearch:
        """The method."""
        ...

    @property
    def targets(self) -> TargetConfig:
        """What returns become before evolution strategies or a ridge regression see them."""
        ...

    @property
    def theta(self) -> jax.Array:
        """`[P]`."""
        ...

    @property
    def deviation(self) -> jax.Array:
        """`[P]` of the noise on each weight, in the coordinates of the noise."""
        ...

    def population(
        self, key: PRNGKey, theta: Float[Array, "P"], num: int, antithetic: bool = False
    ) -> Population:
        """Policies `[num, P]` with the run's noise around one."""
        ...

    def moves(self, thetas: Population) -> Float[Array, "N P"]:
        """From θ to each policy."""
        ...

    def moved(self, move: Float[Array, "P"]) -> Float[Array, "P"]:
        """θ after a move, clipped as the run clips it."""
        ...

    def slopes(self, key: PRNGKey) -> dict[str, tuple[jax.Array, int]]:
        """Gradients of V at θ `[P]`, by move; and of how many fresh env steps each learned."""
        ...

    def predicted(self, key: PRNGKey, thetas: Population, found: Evaluation) -> jax.Array:
        """What V says of policies `[N, P]`, up to what all have alike: `[N]`."""
        ...

    def expected(self, key: PRNGKey, thetas: Population) -> jax.Array:
        """The same where nobody has rolled them out: the mean over states that the run knows."""
        ...


def neighbourhood(setup: Setup) -> Callable[[Any], Neighbourhood]:
    """What makes one of a seed's learner state.

    Raises:
        UserError: if the method has no value function of policies.
    """
    learner = setup.method
    if isinstance(learner, Learner):
        return partial(AroundTheta, learner)
    if isinstance(learner, PSVFLearner):
        assert setup.explore is not None
        length = setup.task.spec.episode_length
        return partial(AroundStates, learner, setup.explore, length)
    raise no_value_function(setup.config.method.name)


def no_value_function(method: str) -> UserError:
    """The error for a run that has nothing to look at."""
    return UserError(f"method {method!r} has no value function of policies to look at")


@dataclass(frozen=True)
class AroundTheta:
    """See `Neighbourhood`; V(θ)."""

    learner: Learner
    state: LearnerState

    @property
    def targets(self) -> TargetConfig:
        return self.learner.targets

    @property
    def theta(self) -> jax.Array:
        return self.learner.centre(self.state)

    @cached_property
    def deviation(self) -> jax.Array:
        with jax.ensure_compile_time_eval():  # kept, and so not to be a part of any program
            return noise_deviation(self.learner.perturbation, self.theta)

    def population(
        self, key: PRNGKey, theta: Float[Array, "P"], num: int, antithetic: bool = False
    ) -> Population:
        noise = self.learner.perturbation
        noise = replace(noise, antithetic=noise.antithetic or antithetic)
        return perturb(noise, key, theta[None, :], num)

    def moves(self, thetas: Population) -> jax.Array:
        return _per_deviation(jnp.asarray(thetas) - self.theta[None, :], self.deviation)

    def moved(self, move: Float[Array, "P"]) -> jax.Array:
        bound = self.learner.policy_update.weight_clip
        return clip_weights(self.theta + self.deviation * move, bound)

    def slopes(self, key: PRNGKey) -> dict[str, tuple[jax.Array, int]]:
        frame = self.learner.frame(self.state)

        def expected(theta: jax.Array) -> jax.Array:
            return self.learner.value.expected(self.state.value, theta[None, :], frame)[0]

        return {"value": (self.deviation * jax.grad(expected)(self.theta), 0)}

    def predicted(self, key: PRNGKey, thetas: Population, found: Evaluation) -> jax.Array:
        starts = self.learner.read_starts(found.starts)
        frame = self.learner.frame(self.state)
        return self.learner.value(self.state.value, jnp.asarray(thetas), frame, starts)

    def expected(self, key: PRNGKey, thetas: Population) -> jax.Array:
        frame = self.learner.frame(self.state)
        return jax.jit(self.learner.value.expected)(self.state.value, jnp.asarray(thetas), frame)


@dataclass(frozen=True)
class AroundStates:
    """See `Neighbourhood`; V(s, θ), which fresh populations tell of states where the run stands."""

    learner: PSVFLearner
    explore: Explore
    episode_length: int
    state: PSVFState

    @property
    def targets(self) -> TargetConfig:
        return TargetConfig(transform="centred_ranks")

    @property
    def theta(self) -> jax.Array:
        return self.state.theta

    @cached_property
    def deviation(self) -> jax.Array:
        with jax.ensure_compile_time_eval():
            return self.state.noise * noise_deviation(self.learner.perturbation, self._centre)

    @cached_property
    def _centre(self) -> jax.Array:
        with jax.ensure_compile_time_eval():
            return self.learner.inward(self.state.scaler, self.theta)

    def population(
        self, key: PRNGKey, theta: Float[Array, "P"], num: int, antithetic: bool = False
    ) -> Population:
        noise = self.learner.perturbation
        noise = replace(noise, antithetic=noise.antithetic or antithetic)
        learner = replace(self.learner, perturbation=noise)
        draw = jax.jit(learner.perturbed, static_argnums=2)
        return draw(self.state._replace(theta=theta), key, num)

    def moves(self, thetas: Population) -> jax.Array:
        inner = self.learner.inward(self.state.scaler, jnp.asarray(thetas))
        return _per_deviation(inner - self._centre[None, :], self.deviation)

    def moved(self, move: Float[Array, "P"]) -> jax.Array:
        bound = self.learner.policy_update.weight_clip
        inner = self._centre + self.deviation * move
        return clip_weights(self.learner.outward(self.state.scaler, inner), bound)

    def slopes(self, key: PRNGKey) -> dict[str, tuple[jax.Array, int]]:
        """`value` is of one population, `value-long` of as many as a whole episode is long."""
        envs, total = self.state.envs, jnp.zeros_like(self.theta)
        slope = jax.jit(self._slope)
        count = -(-self.episode_length // self.learner.horizon)
        steps = self.learner.num_envs * self.learner.horizon
        for number in range(count):
            (batch, deviation), envs = self.fresh_steps(jax.random.fold_in(key, number), envs)
            total += slope(batch, deviation)
            if not number:
                first = total
        return {"value": (first, steps), "value-long": (total, count * steps)}

    def predicted(self, key: PRNGKey, thetas: Population, found: Evaluation) -> jax.Array:
        return self.expected(key, thetas)

    def expected(self, key: PRNGKey, thetas: Population) -> jax.Array:
        (batch, deviation), _ = self.fresh_steps(key, self.state.envs)
        some = batch.take(slice(None, None, max(1, len(batch.advantages) // RANKED)))
        gain = partial(self.learner.predicted_gain, self.state.value, some, deviation)
        with jax.default_matmul_precision("highest"):
            return jax.jit(partial(jax.lax.map, gain))(jnp.asarray(thetas))

    def fresh_steps(
        self, key: PRNGKey, envs: Envs | None
    ) -> tuple[tuple[StepBatch, jax.Array], Envs]:
        """Steps of a fresh population from there, the outputs' deviation, and where it ended."""
        if envs is None:
            raise UserError("the run has no environments yet; train it for an iteration")
        noise_key, explore_key = jax.random.split(key)
        thetas = self.learner.perturbed(self.state, noise_key, self.learner.num_envs)
        segment = self.explore(explore_key, thetas, envs)
        finite = jnp.isfinite(segment.rewards).all(axis=1)
        batch, deviation, _ = jax.jit(self.learner.step_batch)(self.state, segment, finite)
        return (batch, deviation), segment.envs

    def _slope(self, batch: StepBatch, deviation: Array) -> jax.Array:
        def gain(centre: jax.Array) -> jax.Array:
            theta = self.learner.outward(self.state.scaler, centre)
            return self.learner.predicted_gain(self.state.value, batch, deviation, theta)

        with jax.default_matmul_precision("highest"):
            return self.deviation * jax.grad(gain)(self._centre)


def _per_deviation(offsets: Float[Array, "N P"], deviation: Float[Array, "P"]) -> jax.Array:
    """Offsets in units of the noise; 0 where there is none."""
    return offsets / jnp.where(deviation > 0.0, deviation, jnp.inf)[None, :]
