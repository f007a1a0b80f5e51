"""Search by V(s, θ) on what the rollouts pass through: every step teaches, not every episode.

    propose: θ -> Θ[N, P]     explore: Θ, H steps on from where N environments stand -> Segment
    learn: Segment -> advantages -> V(s, θ) -> θ

Parameter-based state-value functions are Faccio et al. 2021's; equation 2 of Bohlinger & Peters
2025 makes the policy's gradient of them, ∇J(θ) = E_s[∇V(s, θ)]. There s is where episodes start;
here it is wherever the population goes.
"""

from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, Int

from epvf.errors import UserError
from epvf.methods.base import (
    Method,
    Parts,
    Plan,
    PolicySearch,
    Progress,
    begin,
    check_decay,
    common,
    keep_nonfinite,
)
from epvf.methods.epvf import PolicyUpdateConfig, check_pairs
from epvf.methods.metrics import ENDED, Metrics, count_steps
from epvf.methods.optimizers import decay, make_optimizer
from epvf.policies import scaling as coordinates
from epvf.policies.noise import PerturbationConfig, clip_weights
from epvf.policies.population import Rescaled, Undrawn, drawn, perturbed
from epvf.policies.scaling import Scaler
from epvf.types import (
    Array,
    Envs,
    Evaluation,
    Fraction,
    Mask,
    NonNegative,
    OpenFraction,
    Population,
    PRNGKey,
    Segment,
)
from epvf.value.advantages import Discount, Steps, advantages, strides
from epvf.value.targets import spearman
from epvf.value.v_state_theta import (
    ADVANTAGES,
    Advantage,
    AdvantageModel,
    StepBatch,
    init_network,
    network,
)

Coordinates: TypeAlias = Literal["standardised", "raw"]

LARGEST = 2**31 - 1
"""Steps of an iteration, which JAX indexes with 32 bits."""

FORGETTING = 0.05
"""How much of a running mean each iteration replaces."""

ADVANTAGE_LIMIT = 20.0
"""Standardised advantages are clipped to this many deviations."""

NOISE_PACE = 0.1
RATE_PACE = 0.2
"""Largest relative changes an iteration of the noise's size and of θ's learning rate."""

MAX_RATE = 5.0
"""Largest factor on θ's learning rate."""

MAX_DIVERGENCE = 4.0
"""In units of what is wanted: on minibatches where the change of θ is larger already, θ stays."""

MAX_GRADIENT = 1.0
"""Longer gradients are shortened to this norm: no minibatch is to spoil Adam's moments."""


@dataclass(frozen=True)
class PSVFConfig:
    """Search by V(s, θ); θ's optimizer, weight clip and decay are those of `policy_update`.

    Attributes:
        horizon: H, env steps of each policy per iteration. Environments go on where they stood.
        discount: gamma, of rewards an env step later.
        final_discount: the same at the end of the schedule (François-Lavet et al. 2015): what pays
            soon is found first, what lasts is asked for later. How far ahead it looks, 1 / (1 -
            gamma) env steps, grows geometrically. None: `discount`.
        gae_lambda: how much of a step's advantage comes from later rewards rather than from v.
        advantage: A(s, z). `importance`: of each step itself, weighted by how much likelier the new
            policy is to take it. `linear`: a slope over the policy's outputs that a network tells.
        trust: how far A is believed. Of `importance`: the weights' distance from 1; of `linear`:
            the variance of the prior on the outputs' change, in units of their noise.
        hidden_sizes: of v and of A's network.
        learning_rate: of both, with Adam.
        stride: env steps that are learned from as if they were one: cheaper, but less is learned.
        epochs: passes over an iteration's strides.
        fraction: of the strides that a pass takes, others each time: cheaper, but less is learned.
        minibatches: parts of a pass, one gradient step of V and of θ each.
        noise: deviation of the policies' outputs that the population's noise is scaled to.
        final_noise: the same at the end of the schedule, reached linearly; None: `noise`.
        divergence: mean |z|²/2 of an iteration's change of θ that its learning rate is adapted to,
            as in Rudin et al. 2022, and beyond four times of which it does not go. None: the
            learning rate stays as scheduled, and nothing stops θ but `trust`.
        coordinates: in which θ's noise and steps are alike on all weights. `standardised`: those of
            a policy that reads standardised observations, so that they are alike on all inputs,
            whatever their units; the first population only measures these. `raw`: θ's own.
        bound_cost: of the squared distance of continuous actions' outputs from [-1, 1]. Far outside
            of it noise changes no action, and nothing is found out any more.
    """

    horizon: int = 32
    discount: OpenFraction = 0.99
    final_discount: OpenFraction | None = None
    gae_lambda: Fraction = 0.9
    advantage: Advantage = "importance"
    trust: float = 0.2
    hidden_sizes: tuple[int, ...] = (64, 64)
    learning_rate: float = 1e-3
    stride: int = 1
    epochs: int = 2
    fraction: float = 1.0
    minibatches: int = 8
    noise: float = 0.5
    final_noise: float | None = None
    divergence: float | None = 0.02
    coordinates: Coordinates = "standardised"
    bound_cost: NonNegative = 0.02


@dataclass(frozen=True)
class PSVFSettings:
    """What search by V(s, θ) reads.

    Attributes:
        name: of the method.
        perturbation, psvf, policy_update: the parts, each described in its own class.
    """

    name: str = "psvf"
    perturbation: PerturbationConfig = field(default_factory=PerturbationConfig)
    psvf: PSVFConfig = field(default_factory=PSVFConfig)
    policy_update: PolicyUpdateConfig = field(default_factory=PolicyUpdateConfig)


class PSVFState(NamedTuple):
    """All that one seed's learner remembers between iterations.

    Attributes:
        progress: what every method remembers.
        theta: `[P]` the centre.
        value: parameters of v and of A's network.
        value_opt, policy_opt: optimizer states of `value` and `theta`.
        scaler: of observations.
        reward_scale: v counts in units of it; a typical advantage's size.
        noise: factor on the configured perturbation.
        rate: factor on θ's learning rate.
        iterations: that had anything to learn from.
        envs: where the environments stand; None until they are reset.
        predicted_gain, step_norm: of the newest update.
    """

    progress: Progress
    theta: Float[Array, "P"]
    value: Any
    value_opt: Any
    policy_opt: Any
    scaler: Scaler
    reward_scale: Float[Array, ""]
    noise: Float[Array, ""]
    rate: Float[Array, ""]
    iterations: Int[Array, ""]
    envs: Envs | None
    predicted_gain: Float[Array, ""]
    step_norm: Float[Array, ""]


class _Updated(NamedTuple):
    """What the gradient steps of an iteration change."""

    theta: Float[Array, "P"]
    value: Any
    value_opt: Any
    policy_opt: Any


@dataclass(frozen=True)
class PSVFLearner(PolicySearch):
    """The statics of the method; every method of it is pure.

    Attributes:
        config: of V(s, θ) and its use.
        perturbation: shape of the noise on θ; its size is adapted.
        policy_update: θ's optimizer.
        fixed_length: env steps of every episode, where nothing ends one early; None elsewhere.
        initialised: whether the first θ is a given policy rather than a drawn one.
    """

    config: PSVFConfig
    perturbation: PerturbationConfig
    policy_update: PolicyUpdateConfig
    fixed_length: int | None = None
    initialised: bool = False

    @property
    def remedy(self) -> str:
        """What to change where an update came out non-finite."""
        return "Lower psvf.learning_rate or policy_update.learning_rate"

    @property
    def reads_policies(self) -> bool:
        """V(s, θ) reads what policies put out, not their weights."""
        return False

    @property
    def horizon(self) -> int:
        """Env steps of each policy per iteration."""
        return self.config.horizon

    @property
    def centre_metrics(self) -> tuple[str, ...]:
        """Names of what `record_centre` measures."""
        return (*super().centre_metrics, "eval/perturbed_return")

    def init_state(self, key: PRNGKey) -> PSVFState:
        """Everything as before the first iteration, but for the environments."""
        theta_key, value_key, advantage_key, base_key = jax.random.split(key, 4)
        theta = self.draw_policy(theta_key)
        theta = clip_weights(theta, self.policy_update.weight_clip)
        observation, *_, actions = self.policy.layer_sizes
        hidden, outputs = self.config.hidden_sizes, self._advantage.network_outputs(actions)
        value = {
            "v": init_network(value_key, (observation, *hidden, 1)),
            "advantage": init_network(advantage_key, (observation, *hidden, outputs))
            if outputs
            else [],
        }
        zero, one = jnp.zeros(()), jnp.ones(())
        return PSVFState(
            progress=begin(base_key, theta),
            theta=theta,
            value=value,
            value_opt=self._value_optimizer().init(value),
            policy_opt=self._policy_optimizer().init(theta),
            scaler=Scaler(jnp.zeros(observation), jnp.ones(observation)),
            reward_scale=one,
            noise=one,
            rate=one,
            iterations=jnp.zeros((), jnp.int32),
            envs=None,
            predicted_gain=zero + jnp.nan,
            step_norm=zero,
        )

    def start_from(self, state: PSVFState, theta: Float[Array, "P"]) -> PSVFState:
        """The first state with the centre at θ."""
        theta = clip_weights(theta, self.policy_update.weight_clip)
        return state._replace(theta=theta, progress=state.progress._replace(best_theta=theta))

    def propose(self, state: PSVFState, iteration: Int[Array, ""]) -> Population:
        """The iteration's perturbed policies `[N, P]`."""
        return drawn(self.population(state, iteration))

    def population(self, state: PSVFState, iteration: Int[Array, ""]) -> Rescaled:
        """The same, not drawn yet."""
        key = self.keys(state, iteration).perturbation
        return self._around(state, key, self.num_envs)

    def centre(self, state: PSVFState) -> jax.Array:
        """The centre θ `[P]`."""
        return state.theta

    def centre_cloud(self, state: PSVFState, iteration: Int[Array, ""]) -> Population:
        """Copies of the unperturbed θ, then as many perturbed policies: `[2 E, P]`."""
        key = self.keys(state, iteration).perturbed_cloud
        others = self.perturbed(state, key, self.eval_episodes)
        return jnp.concatenate([super().centre_cloud(state, iteration), others])

    def record_centre(self, state: PSVFState, evaluation: Evaluation) -> tuple[PSVFState, Metrics]:
        """As for every method; and how perturbed policies did that were left to play to the end."""
        num = self.eval_episodes
        others = evaluation.returns[num:]
        centre = jax.tree.map(itemgetter(slice(num)), evaluation)
        state, metrics = super().record_centre(state, centre)
        return state, metrics | {"eval/perturbed_return": others.mean()}

    def learn(
        self,
        state: PSVFState,
        iteration: Int[Array, ""],
        thetas: Population | Undrawn,
        evaluation: Segment,
    ) -> tuple[PSVFState, Metrics]:
        """The update after `thetas [N, P]`, which `propose` gave at this state, have explored."""
        # what tells policies apart is a small difference of large outputs
        with jax.default_matmul_precision("highest"):
            return self._learn(state, iteration, thetas, evaluation)

    def _learn(
        self,
        state: PSVFState,
        iteration: Int[Array, ""],
        thetas: Population | Undrawn,
        segment: Segment,
    ) -> tuple[PSVFState, Metrics]:
        finite = jnp.isfinite(segment.rewards).all(axis=1)
        state = state._replace(progress=keep_nonfinite(state.progress, thetas, finite))
        state = self._rescale(state, segment, finite)
        steps, deviation, metrics = self.step_batch(state, segment, finite)
        updated, losses = self._gradient_steps(
            state, steps, self.keys(state, iteration).batches, deviation
        )
        # a minibatch's worth of steps tells how far θ went
        some = steps.take(slice(None, None, self.config.minibatches))
        divergence = _divergence(self.offsets(updated.theta, some, deviation), some)
        gain = self.predicted_gain(updated.value, some, deviation, updated.theta)
        gain -= self.predicted_gain(updated.value, some, deviation, state.theta)
        updated = self._begin(state, updated)
        healthy = _finite((updated.theta, updated.value)) & finite.any()
        learned = state._replace(
            **updated._asdict(),
            noise=self._next_noise(state, iteration, deviation),
            rate=self._next_rate(state, divergence),
            predicted_gain=gain,
            step_norm=jnp.linalg.norm(updated.theta - state.theta),
        )
        chosen = jax.tree.map(lambda new, old: jnp.where(healthy, new, old), learned, state)
        state = chosen._replace(
            envs=self._staggered(state, segment.envs),
            iterations=state.iterations + finite.any(),
            # without a single finite rollout there is nothing to learn, but nothing broke either
            progress=state.progress._replace(
                healthy=state.progress.healthy & (healthy | ~finite.any())
            ),
        )
        bound = self.policy_update.weight_clip
        clipped = jnp.zeros(()) if bound is None else (jnp.abs(state.theta) >= bound).mean()
        return state, metrics | _episode_metrics(segment, finite) | {
            "loss/value": losses.mean(),
            "policy/step_norm": state.step_norm,
            "policy/predicted_gain": state.predicted_gain,
            "policy/clipped_fraction": clipped,
            "policy/divergence": divergence,
            "perturbation/output_deviation": deviation.mean(),
            "rollout/nonfinite": (~finite).sum(),
            "healthy": state.progress.healthy,
        }

    def perturbed(self, state: PSVFState, key: PRNGKey, num: int) -> Population:
        """Policies `[num, P]` with noise of its present size around θ."""
        return drawn(self._around(state, key, num))

    def _around(self, state: PSVFState, key: PRNGKey, num: int) -> Rescaled:
        centre = self.inward(state.scaler, state.theta)[None]
        inner = perturbed(self.perturbation, key, centre, num)
        scaler = None if self.config.coordinates == "raw" else state.scaler
        return Rescaled(inner, state.noise, scaler, self.policy)

    def inward(self, scaler: Scaler, thetas: Float[Array, "*N P"]) -> jax.Array:
        """θ in the coordinates of noise and steps."""
        if self.config.coordinates == "raw":
            return jnp.asarray(thetas)
        return coordinates.standardised(self.policy, scaler, thetas)

    def outward(self, scaler: Scaler, thetas: Float[Array, "*N P"]) -> jax.Array:
        """θ as the policy has it."""
        if self.config.coordinates == "raw":
            return jnp.asarray(thetas)
        return coordinates.raw(self.policy, scaler, thetas)

    def _rescale(self, state: PSVFState, segment: Segment, finite: Mask) -> PSVFState:
        """Takes the observations and rewards of sound rollouts into the running statistics."""
        pace = jnp.where(state.iterations == 0, 1.0, FORGETTING) * finite.any()
        some, weight = segment.observations[:, ::4], finite.astype(jnp.float32)
        mean = _mean(some.mean(axis=1), weight)
        squares = ((some - mean[None, None]) ** 2).mean(axis=1)
        now = Scaler(mean, jnp.maximum(jnp.sqrt(_mean(squares, weight)), 1e-3))
        # of as many steps as an advantage looks ahead
        steps = 1.0 / (1.0 - self._discount(state) * self.config.gae_lambda)
        rewards = (_finite_or_zero(segment.rewards) ** 2).mean(axis=1)
        size = jnp.sqrt(_mean(rewards, weight)) * steps
        mix = lambda old, new: (1.0 - pace) * old + pace * new  # noqa: E731
        return state._replace(
            scaler=jax.tree.map(mix, state.scaler, now),
            reward_scale=mix(state.reward_scale, jnp.maximum(size, 1e-3)),
        )

    def _discount(self, state: PSVFState) -> Discount:
        """Gamma of this iteration."""
        first, last = self.config.discount, self.config.final_discount
        if last is None:
            return first
        done = jnp.minimum(state.iterations / max(self.iterations - 1, 1), 1.0)
        # geometric: the share of what comes later falls by the same factor in each iteration
        return 1.0 - (1.0 - first) ** (1.0 - done) * (1.0 - last) ** done

    def step_batch(
        self, state: PSVFState, segment: Segment, finite: Mask
    ) -> tuple[StepBatch, jax.Array, Metrics]:
        """Strides of a segment as V reads them, the outputs' deviation, and V's rank correlation.

        That compares what V said of the policies in their first states with what they earned from
        there, and v of where they ended.
        """
        seen = segment.observations[:, :: self.config.stride]
        values = network(state.value["v"], state.scaler(seen))[..., 0]
        rewards = _finite_or_zero(segment.rewards) / state.reward_scale
        steps = Steps(rewards, segment.terminated, segment.truncated)
        steps = strides(steps, self.config.stride, self._discount(state))
        discount = self._discount(state) ** self.config.stride
        raw = advantages(steps, values, discount, self.config.gae_lambda**self.config.stride)
        earned = advantages(steps, values, discount, decay=1.0) + values[:, :-1]
        visited = seen[:, :-1].reshape(-1, seen.shape[-1])
        centre = self.outputs(state.theta, visited)
        theirs = segment.outputs[:, :: self.config.stride].reshape(centre.shape)
        weight = jnp.repeat(finite.astype(jnp.float32), raw.shape[1])
        offsets = jnp.where(weight[:, None] > 0, theirs - centre, 0.0)
        deviation = jnp.sqrt(_mean(offsets**2, weight)) + 1e-6
        flat = raw.ravel()
        spread = jnp.sqrt(_mean((flat - _mean(flat, weight)) ** 2, weight))
        standardised = (flat - _mean(flat, weight)) / (spread + 1e-8)
        batch = StepBatch(
            observations=visited,
            centre=centre,
            offsets=offsets / deviation[None],
            advantages=jnp.clip(standardised, -ADVANTAGE_LIMIT, ADVANTAGE_LIMIT),
            targets=flat + values[:, :-1].ravel(),
            weight=weight,
            scaler=state.scaler,
        )
        first = batch.take(slice(None, None, raw.shape[1]))
        model, parameters = self._advantage, state.value["advantage"]
        predicted = model.predict(parameters, first.inputs, first.offsets)
        predicted = values[:, 0] + predicted * spread
        metrics = {"value/spearman": spearman(predicted, earned[:, 0], finite)}
        return batch, deviation, metrics

    def _gradient_steps(
        self, state: PSVFState, steps: StepBatch, key: PRNGKey, deviation: Array
    ) -> tuple[_Updated, jax.Array]:
        """Gradient steps of V and θ on minibatches of the steps; losses of v `[steps]`."""

        def step(now: _Updated, rows: Int[Array, "B"]) -> tuple[_Updated, jax.Array]:
            batch = steps.take(rows)
            value, value_opt, loss = self.value_step(now.value, now.value_opt, batch)
            now = now._replace(value=value, value_opt=value_opt)
            return self._policy_step(now, batch, deviation, state.rate), loss

        start = _Updated(
            self.inward(steps.scaler, state.theta), state.value, state.value_opt, state.policy_opt
        )
        updated, losses = jax.lax.scan(step, start, self.rows(key))
        return updated._replace(theta=self.outward(steps.scaler, updated.theta)), losses

    def _begin(self, state: PSVFState, updated: _Updated) -> _Updated:
        """After the first population, which measured the observations, θ begins in their units.

        A θ that was given acts on observations as they are: it stays.
        """
        if self.config.coordinates == "raw":
            return updated
        theta = state.theta if self.initialised else self.outward(state.scaler, state.theta)
        begun = updated._replace(theta=theta, policy_opt=state.policy_opt)
        return jax.tree.map(partial(jnp.where, state.iterations == 0), begun, updated)

    def _staggered(self, state: PSVFState, envs: Envs) -> Envs:
        """After the first population, episodes of one length go on as if begun at different times.

        Otherwise all environments would be at the same time of their episodes for ever, and every
        population would meet another part of them. Their first episodes end
        the earlier, with less return than their length, as it is counted, would have.
        """
        if self.fixed_length is None:
            return envs
        left = max(self.fixed_length - self.config.horizon, 1)
        ages = jnp.arange(self.num_envs, dtype=envs.steps.dtype) * left // self.num_envs
        return envs._replace(steps=envs.steps + jnp.where(state.iterations == 0, ages, 0))

    def value_step(
        self, value: Any, optimizer: Any, batch: StepBatch
    ) -> tuple[Any, Any, jax.Array]:
        """V and its optimizer's state after a gradient step, and the loss of v before."""

        def loss(value: Any) -> tuple[jax.Array, jax.Array]:
            errors = (network(value["v"], batch.inputs)[:, 0] - batch.targets) ** 2
            of_v = _mean(errors, batch.weight)
            predicted = self._advantage.predict(value["advantage"], batch.inputs, batch.offsets)
            return of_v + _mean((predicted - batch.advantages) ** 2, batch.weight), of_v

        gradient, of_v = jax.grad(loss, has_aux=True)(value)
        updates, optimizer = self._value_optimizer().update(gradient, optimizer, value)
        return optax.apply_updates(value, updates), optimizer, of_v

    def _policy_step(
        self, now: _Updated, batch: StepBatch, deviation: Array, rate: Array
    ) -> _Updated:
        """θ, in its coordinates, a step on, unless it went too far already."""
        wanted = self.config.divergence
        furthest = jnp.inf if wanted is None else MAX_DIVERGENCE * wanted

        def cost(theta: Array) -> tuple[jax.Array, jax.Array]:
            offsets = self.offsets(self.outward(batch.scaler, theta), batch, deviation)
            gain = self._gain(now.value, batch, offsets)
            price = self._price(batch.centre + offsets * deviation[None])
            return -_mean(gain - price, batch.weight), _divergence(offsets, batch)

        slope, divergence = jax.grad(cost, has_aux=True)(now.theta)
        updates, policy_opt = self._policy_optimizer().update(slope, now.policy_opt, now.theta)
        moved = self.outward(batch.scaler, now.theta + rate * updates)
        theta = self.inward(batch.scaler, clip_weights(moved, self.policy_update.weight_clip))
        near = divergence <= furthest
        theta, policy_opt = jax.tree.map(
            partial(jnp.where, near), (theta, policy_opt), (now.theta, now.policy_opt)
        )
        return now._replace(theta=theta, policy_opt=policy_opt)

    def rows(self, key: PRNGKey) -> Int[Array, "steps B"]:
        """Rows of each minibatch: a pass takes its fraction of the steps, in a new order.

        In turns each policy gives one of its steps, from a random one on. So a minibatch is spread
        over policies and times, and no more than a row of policies needs to be shuffled: sorting
        all steps would take a fifth of the learning.
        """
        num, steps = self.num_envs, self.config.horizon // self.config.stride
        epochs, parts = self.config.epochs, self.config.minibatches

        def order(key: PRNGKey) -> jax.Array:
            of_policies, of_turns, of_starts = jax.random.split(key, 3)
            policies = jax.random.permutation(of_policies, num)
            turns = jax.random.permutation(of_turns, steps)
            starts = jax.random.randint(of_starts, (num,), 0, steps)
            taken = (turns[:, None] + starts[None]) % steps
            return (policies[None] * steps + taken).ravel()

        orders = jax.vmap(order)(jax.random.split(key, epochs))
        size = int(num * steps * self.config.fraction) // parts
        return orders[:, : size * parts].reshape(epochs * parts, size)

    def outputs(self, theta: Float[Array, "P"], observations: Float[Array, "B O"]) -> jax.Array:
        """What a policy puts out at observations, before it becomes actions: `[B, A]`."""
        return jax.vmap(self.policy.logits, in_axes=(None, 0))(
            self.policy.unravel(theta), observations
        )

    def offsets(
        self, theta: Float[Array, "P"], batch: StepBatch, deviation: Float[Array, "A"]
    ) -> jax.Array:
        """z `[B, A]` of a policy at steps; see `v_state_theta`."""
        return (self.outputs(theta, batch.observations) - batch.centre) / deviation[None]

    def predicted_gain(
        self, value: Any, batch: StepBatch, deviation: Array, theta: Array
    ) -> jax.Array:
        """What V(s, θ) says of θ, on average over the steps, but for what all θ have alike."""
        gain = self._gain(value, batch, self.offsets(theta, batch, deviation))
        return _mean(gain, batch.weight)

    def _gain(self, value: Any, batch: StepBatch, offsets: Array) -> jax.Array:
        return self._advantage.gain(value["advantage"], batch, offsets, self.config.trust)

    def _price(self, outputs: Float[Array, "B A"]) -> jax.Array:
        """What outputs cost that an action cannot follow, `[B]`."""
        if self.policy.output == "argmax":
            return jnp.zeros(outputs.shape[0])
        beyond = jnp.maximum(jnp.abs(outputs) - 1.0, 0.0)
        return self.config.bound_cost * (beyond**2).sum(axis=-1)

    def _next_noise(
        self, state: PSVFState, iteration: Int[Array, ""], deviation: Array
    ) -> jax.Array:
        """Brings the outputs' deviation nearer to what is wanted (Plappert et al. 2018)."""
        first, last = self.config.noise, self.config.final_noise
        last = first if last is None else last
        wanted = optax.linear_schedule(first, last, max(self.iterations - 1, 1))
        change = jnp.clip(wanted(iteration) / deviation.mean(), 1.0 - NOISE_PACE, 1.0 + NOISE_PACE)
        return state.noise * change

    def _next_rate(self, state: PSVFState, divergence: jax.Array) -> jax.Array:
        wanted = self.config.divergence
        if wanted is None:
            return state.rate
        lower = jnp.where(divergence > 1.5 * wanted, 1.0 / (1.0 + RATE_PACE), 1.0)
        change = jnp.where(divergence < wanted / 1.5, 1.0 + RATE_PACE, lower)
        return jnp.minimum(state.rate * change, MAX_RATE)

    @property
    def _advantage(self) -> AdvantageModel:
        return ADVANTAGES[self.config.advantage]

    def _value_optimizer(self) -> optax.GradientTransformation:
        adam = optax.adam(self.config.learning_rate)
        return optax.chain(optax.clip_by_global_norm(MAX_GRADIENT), adam)

    def _policy_optimizer(self) -> optax.GradientTransformation:
        update = self.policy_update
        steps = self.iterations * self.config.epochs * self.config.minibatches - 1
        rate = decay(update.learning_rate, update.final_learning_rate, steps)
        optimizer = make_optimizer(update.optimizer, rate, update.weight_decay, self.perturbation)
        return optax.chain(optax.clip_by_global_norm(MAX_GRADIENT), optimizer)


def _episode_metrics(segment: Segment, finite: Mask) -> Metrics:
    """Of each environment the newest episode that ended, or the one it is in if none has."""
    envs = segment.envs
    ended = envs.finished_steps > 0
    # of rollouts none of which was finite there is nothing to tell
    returns = jnp.where(finite.any(), jnp.where(ended, envs.finished, envs.total), jnp.nan)
    lengths = jnp.where(ended, envs.finished_steps, envs.steps)
    return {
        "rollout/episode_return": returns.mean(),
        "rollout/episode_return_std": returns.std(),
        "rollout/episode_return_min": returns.min(),
        "rollout/episode_return_max": returns.max(),
        "rollout/episode_length": lengths.astype(jnp.float32).mean(),
        # 0: all of these returns are of episodes under way
        ENDED: ended.astype(jnp.float32).mean(),
        "rollout/steps": count_steps(jnp.asarray([segment.rewards.size], jnp.int32)),
    }


def _mean(rows: Float[Array, "B *X"], weight: Float[Array, "B"]) -> jax.Array:
    """Of rows by their weight; a row of weight 0 may hold anything, also what is not finite."""
    expanded = weight.reshape(-1, *[1] * (rows.ndim - 1))
    weighted = jnp.where(expanded > 0.0, expanded * rows, 0.0)
    return weighted.sum(axis=0) / jnp.maximum(weight.sum(), 1.0)


def _divergence(offsets: Float[Array, "B A"], batch: StepBatch) -> jax.Array:
    """Mean |z|²/2: the KL divergence of unit normal noise so far apart."""
    return _mean(0.5 * (offsets**2).sum(axis=-1), batch.weight)


def _finite_or_zero(rewards: Float[Array, "N H"]) -> jax.Array:
    return jnp.where(jnp.isfinite(rewards), rewards, 0.0)


def _finite(tree: Any) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def build(parts: Parts) -> PSVFLearner:
    """The learner of a configuration whose settings are `PSVFSettings`."""
    own, spec = parts.config.method, parts.spec
    return PSVFLearner(
        **common(parts),
        config=own.psvf,
        perturbation=own.perturbation,
        policy_update=own.policy_update,
        fixed_length=None if spec.terminates else spec.episode_length,
        initialised=parts.initialised,
    )


def check(config: Plan) -> None:
    """Raises a `UserError` where settings contradict each other or the rest."""
    own, psvf = config.method, config.method.psvf
    check_pairs(own.perturbation, config.num_envs)
    check_decay("policy_update", "learning_rate", own.policy_update)
    check_decay("psvf", "noise", psvf)
    if psvf.final_discount is not None and psvf.final_discount < psvf.discount:
        raise UserError(
            f"psvf.final_discount {psvf.final_discount} is below psvf.discount {psvf.discount}, "
            "but gamma grows; none: it stays"
        )
    if psvf.fraction > 1:
        raise UserError(f"psvf.fraction is {psvf.fraction}; it must be at most 1")
    if config.num_envs * psvf.horizon > LARGEST:
        raise UserError(f"num_envs times psvf.horizon is too large; the largest is {LARGEST}")
    if psvf.horizon % psvf.stride:
        raise UserError(
            f"psvf.horizon {psvf.horizon} is not a multiple of psvf.stride {psvf.stride}"
        )
    strides = int(config.num_envs * psvf.horizon // psvf.stride * psvf.fraction)
    if psvf.minibatches > strides:
        raise UserError(
            f"psvf.minibatches {psvf.minibatches} are more than the {strides} strides of a pass "
            "(num_envs times psvf.horizon / psvf.stride times psvf.fraction)"
        )
    if own.policy_update.optimizer == "normalised":
        raise UserError("method 'psvf' needs policy_update.optimizer adam or sgd")


METHOD = Method(
    settings=PSVFSettings,
    summary="V(s, θ): a value function of states and policies, learned from every step",
    build=build,
    check=check,
    unread=frozenset(
        {
            "policy.num_centres",
            "policy_update.steps",
            "policy_update.gradient_at",
            "policy_update.max_change",
        }
    ),
    segment=lambda settings: settings.psvf.horizon,
)
