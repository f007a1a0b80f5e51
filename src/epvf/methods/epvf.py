"""Algorithm 1 as pure functions: propose a population, learn from its returns.

    propose: θ -> Θ[N, P]        learn: (Θ, R) -> buffer -> V -> θ

Nothing here knows a simulator, a file or a seed axis; `train` batches these functions over seeds.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Float, Int

from epvf.errors import UserError
from epvf.methods import replay
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
from epvf.methods.metrics import Metrics, rollout_metrics
from epvf.methods.optimizers import Optimizer, PolicyOptimizer, decay, make_optimizer
from epvf.methods.replay import Buffer, BufferConfig
from epvf.policies.noise import PerturbationConfig, clip_weights
from epvf.policies.population import Perturbed, drawn, map_rows, perturbed, sum_rows
from epvf.runtime.devices import is_apart, sum_of_rows, with_columns_apart, with_rows_apart
from epvf.types import Array, Evaluation, NonNegative, Population, PRNGKey, Returns, Starts
from epvf.value.factory import make_value
from epvf.value.linear_fit import Line, es_line, ridge_line
from epvf.value.representations import RepresentationConfig
from epvf.value.targets import TargetConfig, spearman, transform
from epvf.value.v_theta import Frame, ValueConfig, ValueFunction

Fit: TypeAlias = Literal["gradient", "ridge", "es"]
SCOUTED, MOST_SCOUTS = 64, 16
"""Where V asks in visited states, of so many policies one tells which it meets, and at most so many
do: few, since they step for as long as an episode can be, also where episodes end soon."""

GradientAt: TypeAlias = Literal["theta", "population"]

Count: TypeAlias = Float[Array, ""] | None
"""Rows of a batch that are valid; None: those of the rows at hand, which are all of it."""

OverBatch: TypeAlias = Callable[..., Any]
"""`(function, *whole)`: the sum over a batch of `function(pairs, count, *whole)`, which is asked of
some of its pairs at a time, with targets for returns, or of all of them."""


@dataclass(frozen=True)
class ValueUpdateConfig:
    """How V is fitted (the K steps of Algorithm 1).

    Attributes:
        fit: `gradient`: by K gradient steps from where V is (the paper). In closed form, for a
            linear V and over the whole buffer: `ridge`: regression with a penalty; `es`: the
            evolution-strategies estimate, mean(target * feature). Both forget what V was.
        ridge: of `ridge`, the penalty on V's squared slope against the mean squared error. With
            standardised inputs, 1 halves the slope of a direction that the buffer determines.
        steps: K, gradient steps per iteration.
        batch_size: N, pairs per step. Equal to the buffer's size: each step takes the whole buffer.
        learning_rate: of V.
        optimizer: of V. `sgd` shortens a step that would raise the loss on its own batch.
        weight_decay: decoupled, of V's parameters.
    """

    fit: Fit = "gradient"
    ridge: float = 1.0
    steps: int = 10
    batch_size: int = 4096
    learning_rate: float = 1e-3
    optimizer: Optimizer = "adam"
    weight_decay: NonNegative = 0.0


@dataclass(frozen=True)
class PolicyUpdateConfig:
    """How θ climbs V (the L steps of Algorithm 1).

    Attributes:
        steps: L, gradient steps per iteration.
        learning_rate: at the first step.
        final_learning_rate: at the last step of the run, reached exponentially; None: constant.
        optimizer: of θ. `normalised`: along the gradient in units of the noise, s²∇V with s the
            noise's deviation per weight, by `learning_rate` times the length of a typical
            perturbation. Weights that V knows nothing of then stay where they are, while Adam
            moves every weight at nearly the same rate.
        gradient_at: `theta`: ∇V at θ (the paper). `population`: ∇V averaged over θ plus the
            perturbations that were just rolled out, the gradient of a smoothed V.
        max_change: how far from where it began an iteration may take what V sees of θ: a step that
            leads further is not taken. None: anywhere. For `kernel`, whose V knows nothing far
            from stored policies: 1 is about the distance of these from each other's mean.
        weight_clip: θ is clipped to [-weight_clip, weight_clip] after each step; None: never.
        weight_decay: decoupled, of θ; the paper's alternative to clipping.
    """

    steps: int = 10
    learning_rate: float = 1e-3
    final_learning_rate: float | None = None
    optimizer: PolicyOptimizer = "adam"
    gradient_at: GradientAt = "theta"
    max_change: float | None = None
    weight_clip: float | None = None
    weight_decay: NonNegative = 0.0


@dataclass(frozen=True)
class EPVFSettings:
    """What search by V(θ) reads.

    Attributes:
        name: of the method.
        perturbation, buffer, representation, value, target, value_update, policy_update: the parts,
            each described in its own class.
    """

    name: str = "epvf"
    perturbation: PerturbationConfig = field(default_factory=PerturbationConfig)
    buffer: BufferConfig = field(default_factory=BufferConfig)
    representation: RepresentationConfig = field(default_factory=RepresentationConfig)
    value: ValueConfig = field(default_factory=ValueConfig)
    target: TargetConfig = field(default_factory=TargetConfig)
    value_update: ValueUpdateConfig = field(default_factory=ValueUpdateConfig)
    policy_update: PolicyUpdateConfig = field(default_factory=PolicyUpdateConfig)


class LearnerState(NamedTuple):
    """All that one seed's learner remembers between iterations.

    Attributes:
        progress: what every method remembers.
        centres: `[C, P]` the policies θ that are improved.
        value: φ, the parameters of V.
        value_opt: optimizer state of φ.
        policy_opt: optimizer state of the centres.
        buffer: the newest (θ, return) pairs.
        predicted_gain: what V promised of the last update, in units of the value targets.
        step_norm: length of the last update.
    """

    progress: Progress
    centres: Float[Array, "C P"]
    value: Any
    value_opt: Any
    policy_opt: Any
    buffer: Buffer
    predicted_gain: Float[Array, ""]
    step_norm: Float[Array, ""]


@dataclass(frozen=True)
class Learner(PolicySearch):
    """The statics of the algorithm; every method is pure.

    Attributes:
        value: V.
        perturbation, targets, value_update, policy_update: the configuration of each part.
        num_centres: C, policies improved side by side.
        buffer_size: pairs that the buffer holds.
        draw_again: whether populations are not stored but drawn again, in parts, where they are
            read.
        mesh: devices that share rollouts and buffer; None: one does it all.
    """

    value: ValueFunction
    perturbation: PerturbationConfig
    targets: TargetConfig
    value_update: ValueUpdateConfig
    policy_update: PolicyUpdateConfig
    num_centres: int
    buffer_size: int
    draw_again: bool
    mesh: Mesh | None = None

    @property
    def num_scouts(self) -> int:
        """Some policies where V sees actions in states that policies met."""
        if not self.value.representation.reads_visited:
            return 0
        return min(MOST_SCOUTS, max(1, self.num_envs // SCOUTED))

    @property
    def remedy(self) -> str:
        """What to change where an update came out non-finite."""
        return (
            "Lower a learning rate (value_update, policy_update), or use target.transform "
            "centred_ranks"
        )

    def init_state(self, key: PRNGKey) -> LearnerState:
        """Everything as before the first iteration."""
        centres_key, value_key, base_key = jax.random.split(key, 3)
        centres = jax.vmap(self.draw_policy)(jax.random.split(centres_key, self.num_centres))
        centres = clip_weights(centres, self.policy_update.weight_clip)
        value = self.value.init(value_key)
        zero = jnp.zeros(())
        return LearnerState(
            progress=begin(base_key, centres[0]),
            centres=centres,
            value=value,
            value_opt=self._value_optimizer().init(value),
            policy_opt=self._policy_optimizer().init(centres),
            buffer=self._empty_buffer(base_key, centres),
            predicted_gain=zero + jnp.nan,
            step_norm=zero,
        )

    def start_from(self, state: LearnerState, theta: Float[Array, "P"]) -> LearnerState:
        """The first state with all centres at θ."""
        centres = jnp.broadcast_to(theta[None, :], state.centres.shape)
        centres = clip_weights(centres, self.policy_update.weight_clip)
        progress = state.progress._replace(best_theta=centres[0])
        return state._replace(centres=centres, progress=progress)

    def propose(self, state: LearnerState, iteration: Int[Array, ""]) -> Population | Perturbed:
        """The iteration's perturbed policies `[N, P]`; not drawn yet with `draw_again`."""
        population = self.population(state, iteration)
        return population if self.draw_again else drawn(population)

    def population(self, state: LearnerState, iteration: Int[Array, ""]) -> Perturbed:
        """The same, not drawn yet."""
        key = self.keys(state, iteration).perturbation
        return perturbed(self.perturbation, key, state.centres, self.num_envs)

    def centre(self, state: LearnerState) -> jax.Array:
        """The policy `[P]` to measure and keep: of several centres the one that V ranks first."""
        if self.num_centres == 1:
            return state.centres[0]
        ranked = self.value.expected(state.value, state.centres, self.frame(state))
        return state.centres[jnp.argmax(ranked)]

    def frame(self, state: LearnerState) -> Frame:
        """How V sees policies, and start states, at this state."""
        return self.value.frame(state.centres, state.buffer.starts, state.buffer.valid)

    def empty_starts(self, num: int) -> Starts:
        """Room for `num` start states, as V reads them."""
        return self.value.empty_starts(num)

    def read_starts(self, starts: Starts) -> Starts:
        """What V reads of the start states that a task tells."""
        return self.value.read_starts(starts)

    def learn(
        self,
        state: LearnerState,
        iteration: Int[Array, ""],
        thetas: Population | Perturbed,
        evaluation: Evaluation,
    ) -> tuple[LearnerState, Metrics]:
        """One iteration of Algorithm 1 after the rollouts: store, fit V, climb V, clip.

        `thetas [N, P]` is what `propose` gave for this state and iteration.
        """
        starts = self.value.read_starts(evaluation.starts)
        finite = jnp.isfinite(evaluation.returns)
        buffer = self._stored(state, iteration, thetas, evaluation.returns, starts)
        state = state._replace(buffer=buffer)
        state = state._replace(progress=keep_nonfinite(state.progress, thetas, finite))
        frame = self.frame(state)
        metrics = rollout_metrics(evaluation, finite)
        metrics["value/spearman"] = spearman(
            self._predict(state.value, thetas, frame, starts), evaluation.returns, finite
        )
        metrics["policy/predicted_gain"] = state.predicted_gain
        batch_key = self.keys(state, iteration).batches
        filled = (iteration + 1) * self.num_envs
        state = self._refreshed(state, batch_key, filled, evaluation.visited)
        updated, loss = self.update_value(state, batch_key, filled, frame)
        updated = self.update_policy(updated, thetas, frame, starts)
        state = _keep_if_finite(state, updated, loss)
        metrics["loss/value"] = loss
        metrics["policy/clipped_fraction"] = self._clipped_fraction(state.centres)
        metrics["policy/step_norm"] = state.step_norm
        metrics["healthy"] = state.progress.healthy
        return state, metrics

    def update_value(
        self, state: LearnerState, key: PRNGKey, filled: Int[Array, ""], frame: Frame
    ) -> tuple[LearnerState, jax.Array]:
        """Fits V to the buffer in the configured way.

        Returns:
            The state with φ updated, and the mean squared error: over the K steps, or after a fit
            in closed form.
        """
        return _FITS[self.value_update.fit](self, state, key, filled, frame)

    def descend_value(
        self, state: LearnerState, key: PRNGKey, filled: Int[Array, ""], frame: Frame
    ) -> tuple[LearnerState, jax.Array]:
        """K steps on the mean squared error of V over batches from the buffer."""
        stored = state.buffer
        targets = transform(self.targets, stored.returns, stored.valid)
        stored = stored._replace(returns=targets)
        optimizer = self._value_optimizer()

        def step(carry: tuple[Any, Any], step_key: PRNGKey) -> tuple[tuple[Any, Any], jax.Array]:
            value, opt = carry
            over_batch = self._batch(step_key, stored, filled)
            loss, gradient = over_batch(self._loss_and_gradient, value, frame)
            if self.value_update.optimizer == "sgd":
                curvature = over_batch(self._curvature, value, frame, gradient)
                gradient = self._shortened(gradient, curvature)
            updates, opt = optimizer.update(gradient, opt, value)
            return (optax.apply_updates(value, updates), opt), loss

        keys = jax.random.split(key, self.value_update.steps)
        (value, opt), losses = jax.lax.scan(step, (state.value, state.value_opt), keys)
        return state._replace(value=value, value_opt=opt), losses.mean()

    def _loss_and_gradient(
        self, pairs: Buffer, count: Count, value: Any, frame: Frame
    ) -> tuple[jax.Array, Any]:
        loss = jax.value_and_grad(self.value_loss)
        return loss(value, pairs.thetas, pairs.returns, pairs.valid, frame, pairs.starts, count)

    def _curvature(
        self, pairs: Buffer, count: Count, value: Any, frame: Frame, gradient: Any
    ) -> jax.Array:
        """Of the loss along its gradient: that of Gauss and Newton, exact for a linear V."""

        def bent(thetas: Population, valid: Array, starts: Starts) -> jax.Array:
            predict = lambda value: self.value(value, thetas, frame, starts)  # noqa: E731
            _, along = jax.jvp(predict, (value,), (gradient,))
            return (valid.astype(jnp.float32) * along**2).sum()

        count = _rows_of(pairs.valid) if count is None else count
        return 2.0 * sum_rows(bent, pairs.thetas, (pairs.valid, pairs.starts)) / count

    def _shortened(self, gradient: Any, curvature: jax.Array) -> Any:
        """The gradient, or as much of it as leads to the least loss on the batch along it.

        The latter where the learning rate would lead to more loss than there is: with more weights
        than policies, or policies of several centres, the loss bends faster than a rate that was
        found for others allows.
        """
        length = sum(jnp.vdot(part, part) for part in jax.tree.leaves(gradient))
        lowest = length / jnp.maximum(curvature, jnp.finfo(jnp.float32).tiny)
        rate = self.value_update.learning_rate
        kept = jnp.where(rate > 2.0 * lowest, lowest / rate, 1.0)
        return jax.tree.map(lambda part: kept * part, gradient)

    def value_loss(
        self,
        value: Any,
        thetas: Population | Perturbed,
        targets: Returns,
        valid: Array,
        frame: Frame,
        starts: Starts = None,
        count: Count = None,
    ) -> jax.Array:
        """Mean squared error over the valid rows (the loss of Algorithm 1).

        Of a part of the rows: what they add to the mean over `count` of them.
        """

        def error(thetas: Population, targets: Returns, valid: Array, starts: Starts) -> jax.Array:
            predictions = self.value(value, thetas, frame, starts)
            if predictions.shape != targets.shape:
                raise ValueError(f"V predicts {predictions.shape} but targets are {targets.shape}")
            return (valid.astype(jnp.float32) * (predictions - targets) ** 2).sum()

        count = _rows_of(valid) if count is None else count
        return sum_rows(error, thetas, (targets, valid, starts)) / count

    def update_policy(
        self,
        state: LearnerState,
        thetas: Population | Perturbed,
        frame: Frame,
        starts: Starts = None,
    ) -> LearnerState:
        """L steps of gradient ascent on V, each followed by the weight clip.

        `thetas [N, P]` is the population that was rolled out around the state's centres; its
        offsets are what the gradient is averaged over with `gradient_at="population"`. Each of
        them then keeps the start state that it met, so that one mean is over both.
        """
        start = state.centres
        num_centres = start.shape[0]
        optimizer = self._policy_optimizer()

        def objective(centres: Float[Array, "C P"]) -> jax.Array:
            # Summed over centres: each one's gradient does not depend on how many there are.
            if self.policy_update.gradient_at == "theta":
                return self.value.expected(state.value, centres, frame).sum()
            shift = centres - start

            def moved(thetas: Population, starts: Starts) -> jax.Array:
                groups = thetas.reshape(num_centres, -1, start.shape[1])
                cloud = (groups + shift[:, None, :]).reshape(thetas.shape)
                return self.value(state.value, cloud, frame, starts).sum()

            return sum_rows(moved, thetas, (starts,)) * (num_centres / thetas.shape[0])

        within_reach = self._reach(state, frame)

        def step(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], None]:
            centres, opt = carry
            updates, opt = optimizer.update(-jax.grad(objective)(centres), opt, centres)
            moved = clip_weights(centres + updates, self.policy_update.weight_clip)
            return (within_reach(centres, moved), opt), None

        (centres, opt), _ = jax.lax.scan(
            step, (start, state.policy_opt), length=self.policy_update.steps
        )
        both = self.value.expected(state.value, jnp.concatenate([start, centres]), frame)
        return state._replace(
            centres=centres,
            policy_opt=opt,
            predicted_gain=(both[num_centres:] - both[:num_centres]).mean(),
            step_norm=jnp.linalg.norm(centres - start, axis=-1).mean(),
        )

    def _reach(
        self, state: LearnerState, frame: Frame
    ) -> Callable[[jax.Array, jax.Array], jax.Array]:
        """Of each centre `(here, there)`: where a step leads, or `here` if that leads too far."""
        bound, starts = self.policy_update.max_change, state.buffer.starts
        if bound is None:
            return lambda here, there: there
        sample = None if starts is None else starts[: state.centres.shape[0]]
        seen = lambda centres: self.value.features(state.value, centres, frame, sample)  # noqa: E731
        begin = seen(state.centres)

        def within(here: jax.Array, there: jax.Array) -> jax.Array:
            change = jnp.linalg.norm(seen(there) - begin, axis=-1)
            return jnp.where((change <= bound)[:, None], there, here)

        return within

    def _stored(
        self,
        state: LearnerState,
        iteration: Int[Array, ""],
        thetas: Population | Perturbed,
        returns: Returns,
        starts: Starts,
    ) -> Buffer:
        """The buffer with this iteration's pairs."""
        added, mesh = iteration * self.num_envs, self._keepers
        if mesh is None or self.buffer_size == self.num_envs:
            return replay.add(state.buffer, added, thetas, returns, starts)
        population = self.population(state, iteration)
        return replay.add_apart(mesh, state.buffer, added, population, returns, starts)

    @property
    def _keepers(self) -> Mesh | None:
        """Devices that have a part each of the buffer's policies; None where that is not so."""
        shared = is_apart(self.mesh, self.buffer_size) and not self.draw_again
        return self.mesh if shared else None

    def _batch(self, key: PRNGKey, stored: Buffer, filled: Int[Array, ""]) -> OverBatch:
        """How functions are summed over a batch of what is stored."""
        size = self.value_update.batch_size
        if size == self.buffer_size:
            # Rows not yet filled are not valid and weigh nothing.
            return lambda function, *whole: function(stored, None, *whole)
        rows = replay.sample(key, filled, self.buffer_size, size)
        if (mesh := self._keepers) is not None:
            count = _rows_of(stored.valid[rows])
            return partial(_over_parts, mesh, stored, rows, count)
        pairs = replay.take(stored, with_rows_apart(self.mesh, rows))
        return lambda function, *whole: function(pairs, None, *whole)

    def _refreshed(
        self,
        state: LearnerState,
        key: PRNGKey,
        filled: Int[Array, ""],
        visited: Float[Array, "V observation"] | None,
    ) -> LearnerState:
        """The state whose V sees policies as this iteration does; see `Representation.refresh`."""
        num = self.value.representation.num_landmarks
        if num == 0 and not self.value.representation.reads_visited:
            return state
        rows_key, key = jax.random.split(jax.random.fold_in(key, 1))
        rows = replay.sample(rows_key, filled, self.buffer_size, num)
        thetas = state.buffer.thetas[rows]
        return state._replace(value=self.value.refresh(state.value, key, thetas, visited))

    def _predict(
        self, value: Any, thetas: Population | Perturbed, frame: Frame, starts: Starts
    ) -> jax.Array:
        """V of every policy `[N]`."""
        predict = lambda thetas, starts: self.value(value, thetas, frame, starts)  # noqa: E731
        return map_rows(predict, thetas, (starts,))

    def _empty_buffer(self, key: PRNGKey, centres: Float[Array, "C P"]) -> Buffer:
        size, starts = self.buffer_size, self.value.empty_starts(self.buffer_size)
        if not self.draw_again:
            return replay.empty(size, self.policy.num_parameters, starts)
        population = perturbed(self.perturbation, key, centres, self.num_envs)
        return replay.empty_seeds(size, population, starts)

    def _clipped_fraction(self, centres: Float[Array, "C P"]) -> jax.Array:
        bound = self.policy_update.weight_clip
        return jnp.zeros(()) if bound is None else (jnp.abs(centres) >= bound).mean()

    def _value_optimizer(self) -> optax.GradientTransformation:
        update = self.value_update
        return make_optimizer(
            update.optimizer, update.learning_rate, update.weight_decay, self.perturbation
        )

    def _policy_optimizer(self) -> optax.GradientTransformation:
        update = self.policy_update
        steps = self.iterations * update.steps - 1
        rate = decay(update.learning_rate, update.final_learning_rate, steps)
        return make_optimizer(update.optimizer, rate, update.weight_decay, self.perturbation)


def _over_parts(
    mesh: Mesh,
    stored: Buffer,
    rows: Int[Array, "B"],
    count: jax.Array,
    function: Callable[..., Any],
    *whole: Any,
) -> Any:
    """An `OverBatch` of rows of which each device has some."""

    def part(pairs: Buffer, counted: Array, count: jax.Array, *whole: Any) -> Any:
        return function(pairs._replace(valid=pairs.valid & counted), count, *whole)

    return sum_of_rows(mesh, stored, rows, part, count, *whole)


def _rows_of(valid: Array) -> jax.Array:
    """How many rows count, and at least one, to divide by."""
    return jnp.maximum(valid.astype(jnp.float32).sum(), 1.0)


def _fit_line(
    line: Callable[..., Line],
    learner: Learner,
    state: LearnerState,
    key: PRNGKey,
    filled: Int[Array, ""],
    frame: Frame,
) -> tuple[LearnerState, jax.Array]:
    """A linear V fitted to the whole buffer at once; see `Learner.update_value`."""
    stored, value = state.buffer, learner.value
    targets = transform(learner.targets, stored.returns, stored.valid)
    features = map_rows(
        lambda thetas, starts: value.features(state.value, thetas, frame, starts),
        stored.thetas,
        (stored.starts,),
    )
    penalty, by_feature = learner.value_update.ridge, partial(with_columns_apart, learner.mesh)
    slope, intercept = line(features, targets, stored.valid, penalty, by_feature)
    fitted = value.with_line(state.value, slope, intercept)
    errors = features @ slope + intercept - targets
    loss = jnp.where(stored.valid, errors**2, 0.0).sum() / _rows_of(stored.valid)
    return state._replace(value=fitted), loss


_FITS: dict[Fit, Callable[..., tuple[LearnerState, jax.Array]]] = {
    "gradient": Learner.descend_value,
    "ridge": partial(_fit_line, ridge_line),
    "es": partial(_fit_line, es_line),
}


def _keep_if_finite(old: LearnerState, new: LearnerState, loss: jax.Array) -> LearnerState:
    """The updated state, or the old one marked unhealthy where the update is not finite."""
    leaves = jax.tree.leaves((new.value, new.centres, loss))
    finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()
    # The buffer is the same in both: only what the update touched is chosen between.
    names = ("value", "value_opt", "policy_opt", "centres", "predicted_gain", "step_norm")
    chosen = {
        name: jax.tree.map(
            lambda a, b: jnp.where(finite, a, b), getattr(new, name), getattr(old, name)
        )
        for name in names
    }
    healthy = old.progress.healthy & finite
    return old._replace(**chosen, progress=old.progress._replace(healthy=healthy))


def build(parts: Parts) -> Learner:
    """The learner of a configuration whose settings are `EPVFSettings`."""
    return learner(parts, parts.config.method, parts.config.policy.num_centres)


def learner(parts: Parts, own: EPVFSettings, num_centres: int) -> Learner:
    """The learner of these settings, which need not be those of the configuration."""
    return Learner(
        **common(parts),
        value=make_value(
            parts.policy,
            own.value,
            own.representation,
            own.perturbation,
            parts.spec.deterministic_reset,
        ),
        perturbation=own.perturbation,
        targets=own.target,
        value_update=own.value_update,
        policy_update=own.policy_update,
        num_centres=num_centres,
        buffer_size=_buffer_capacity(parts.config, own),
        draw_again=own.buffer.store == "seeds",
        mesh=parts.mesh,
    )


def check(config: Plan) -> None:
    """Raises a `UserError` where settings contradict each other or the rest."""
    own, n, centres = config.method, config.num_envs, config.policy.num_centres
    if own.value_update.batch_size > own.buffer.size:
        raise UserError(
            f"value_update.batch_size {own.value_update.batch_size} is larger than buffer.size "
            f"{own.buffer.size}; make the buffer at least as large as a batch"
        )
    if n % centres:
        raise UserError(
            f"num_envs {n} is not a multiple of policy.num_centres {centres}; every centre needs "
            "equally many perturbations"
        )
    if own.buffer.store == "seeds" and (centres > 1 or own.buffer.size % n):
        raise UserError(
            "buffer.store 'seeds' needs a single policy centre and a buffer.size that is a "
            f"multiple of num_envs {n}, not {centres} centres and size {own.buffer.size}"
        )
    check_pairs(own.perturbation, n // centres)
    check_decay("policy_update", "learning_rate", own.policy_update)
    if own.representation.name == "kernel" and own.value_update.fit != "ridge":
        raise UserError(
            "representation 'kernel' needs value_update.fit 'ridge', not "
            f"{own.value_update.fit!r}: it is another one each iteration, and V is fitted anew"
        )
    if own.value_update.fit != "gradient" and own.value.hidden_sizes:
        raise UserError(
            f"value_update.fit {own.value_update.fit!r} needs a linear V; use "
            "value.hidden_sizes none, or value_update.fit 'gradient'"
        )


def check_pairs(perturbation: PerturbationConfig, num: int) -> None:
    """Raises a `UserError` where `num` policies of a centre cannot be drawn in pairs."""
    if perturbation.antithetic and num % 2:
        raise UserError(
            f"perturbation.antithetic needs an even number of policies per centre, not {num}"
        )


def _buffer_capacity(config: Plan, own: EPVFSettings) -> int:
    """The buffer's size, or what the whole run can ever put into it if that is less."""
    ever = config.num_envs * config.iterations
    needed = max(own.value_update.batch_size, min(own.buffer.size, ever))
    # whole populations, where these are what is stored; the buffer's size is a multiple of them
    whole = -(-needed // config.num_envs) * config.num_envs
    return whole if own.buffer.store == "seeds" else needed


METHOD = Method(
    settings=EPVFSettings,
    summary="V(θ): a value function of policy parameters, regressed on returns (the paper)",
    build=build,
    check=check,
)
