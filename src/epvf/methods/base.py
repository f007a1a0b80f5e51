"""What a method is, and what every method that searches by populations shares.

    propose: state -> Θ[N, P]        learn: (state, Θ, R) -> state

Training knows methods by `Method` and `PolicySearch` alone, and batches the latter over seeds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int, UInt32

from epvf.errors import UserError
from epvf.methods.metrics import Metrics
from epvf.policies.activations import Activation
from epvf.policies.mlp import Init, Output, Policy
from epvf.policies.noise import jitter
from epvf.policies.population import Perturbed, Undrawn
from epvf.tasks.base import TaskSpec
from epvf.types import Array, Evaluation, Mask, NonNegative, Population, PRNGKey, Starts

State: TypeAlias = Any
"""A method's state: a NamedTuple of arrays with a field `progress`, and with a `horizon` a field
`envs`, where the environments stand."""


@dataclass(frozen=True)
class PolicyConfig:
    """The policies' architecture and start.

    Attributes:
        hidden_sizes: widths of the MLP; empty for a linear policy.
        activation: after every hidden layer.
        output: `argmax` for discrete tasks, `clip` or `tanh` for continuous ones.
        init: distribution of the initial weights.
        init_scale: multiplies the initial weights.
        last_layer_scale: multiplies those of the last layer besides. Small: whatever they see, the
            first policies do about nothing (Andrychowicz et al. 2021, section 3.2).
        num_centres: C, policies improved side by side.
    """

    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: Activation = "tanh"
    output: Output = "clip"
    init: Init = "lecun_normal"
    init_scale: NonNegative = 1.0
    last_layer_scale: NonNegative = 1.0
    num_centres: int = 1


class Plan(Protocol):
    """As much of a configuration as methods know of: what a run asks of any of them."""

    @property
    def policy(self) -> PolicyConfig: ...
    @property
    def method(self) -> Any: ...
    @property
    def num_envs(self) -> int: ...
    @property
    def iterations(self) -> int: ...
    @property
    def schedule_iterations(self) -> int | None: ...
    @property
    def eval(self) -> Any: ...
    @property
    def seed(self) -> int: ...


class Parts(NamedTuple):
    """What a method is built from.

    Attributes:
        config: of the run; `config.method` holds the method's own settings.
        spec: of the task.
        policy: architecture of the policies.
        initialised: whether the run starts from a given θ rather than from a drawn one.
        mesh: devices that share the run; None: one does it all.
    """

    config: Plan
    spec: TaskSpec
    policy: Policy
    initialised: bool = False
    mesh: Mesh | None = None


def _fits_all(spec: TaskSpec, config: Plan) -> str | None:
    return None


def _no_contradiction(config: Plan) -> None:
    return None


def _whole_episode(settings: Any) -> int | None:
    return None


class Method(NamedTuple):
    """All that anyone may know of a method: it is one module and one line of the registry.

    Attributes:
        settings: frozen dataclass of groups (or plain fields): becomes `Config.method`, and its
            groups the options of this method. Its first field is `name`.
        summary: what it is, in a line.
        build: of a population search, pure functions over pytrees.
        train: of agents that step environments themselves; see `methods.agents`.
        unread: dotted fields, or whole groups, of a configuration that the method does not read.
        unfit: why the method cannot learn a task, in words, or None.
        check: raises a `UserError` where a configuration contradicts itself.
        segment: env steps that an environment takes in an iteration; None: a whole episode.
        resumable: whether an interrupted run can go on.
        needs: extra that has to be installed, or None.
    """

    settings: type
    summary: str
    build: "Callable[[Parts], PolicySearch] | None" = None
    train: Callable[..., None] | None = None
    unread: frozenset[str] = frozenset()
    unfit: Callable[[TaskSpec, Plan], str | None] = _fits_all
    check: Callable[[Plan], None] = _no_contradiction
    segment: Callable[[Any], int | None] = _whole_episode
    resumable: bool = True
    needs: str | None = None


class Progress(NamedTuple):
    """What every method remembers of a seed.

    Attributes:
        key: the seed's base key; each iteration folds its number in.
        best_theta: the unperturbed policy with the best evaluation so far.
        best_return: its evaluation; -inf before the first.
        last_return: the newest evaluation; NaN before the first.
        nonfinite_theta: the newest policy whose return was not finite; zero before the first.
        healthy: False once an update came out non-finite; that update was not applied.
    """

    key: UInt32[Array, "2"]
    best_theta: Float[Array, "P"]
    best_return: Float[Array, ""]
    last_return: Float[Array, ""]
    nonfinite_theta: Float[Array, "P"]
    healthy: Bool[Array, ""]


class Keys(NamedTuple):
    """What an iteration draws, each from a key of its own.

    Attributes:
        perturbation: the population's noise.
        cloud: the jitter of the centre's copies.
        rollouts: where the population's episodes start.
        batches: of V's updates; in evolution strategies, what they draw when they are told.
        evaluation: where the cloud's episodes start, if it is not rolled out with the population.
        perturbed_cloud: perturbed policies that are evaluated beside the centre's copies.
    """

    perturbation: PRNGKey
    cloud: PRNGKey
    rollouts: PRNGKey
    batches: PRNGKey
    evaluation: PRNGKey
    perturbed_cloud: PRNGKey


def begin(key: PRNGKey, theta: Float[Array, "P"]) -> Progress:
    """Before the first iteration, at θ."""
    zero = jnp.zeros(())
    return Progress(
        key=jax.random.key_data(key),
        best_theta=jnp.asarray(theta),
        best_return=zero - jnp.inf,
        last_return=zero + jnp.nan,
        nonfinite_theta=jnp.zeros_like(theta),
        healthy=jnp.ones((), dtype=jnp.bool_),
    )


def common(parts: Parts) -> dict[str, Any]:
    """What every `PolicySearch` has."""
    config, spec = parts.config, parts.spec
    return {
        "policy": parts.policy,
        "num_envs": config.num_envs,
        "iterations": config.schedule_iterations or config.iterations,
        "init": config.policy.init,
        "init_scale": config.policy.init_scale,
        "last_layer_scale": config.policy.last_layer_scale,
        "eval_episodes": config.eval.episodes,
        "eval_jitter": config.eval.jitter if spec.deterministic_reset else 0.0,
    }


def check_decay(group: str, name: str, values: Any) -> None:
    """Raises a `UserError` where a schedule of `values` would rise."""
    first, final = getattr(values, name), getattr(values, f"final_{name}")
    if final is not None and final > first:
        raise UserError(
            f"{group}.final_{name} {final} is above {group}.{name} {first}; the schedule only "
            "decays"
        )


@dataclass(frozen=True)
class PolicySearch:
    """The statics of a method; every method of it is pure.

    Attributes:
        policy: architecture of the policies.
        num_envs: N, policies rolled out per iteration.
        iterations: over which schedules run; those of the run, unless told otherwise.
        init, init_scale, last_layer_scale: how the first policies are drawn.
        eval_episodes: copies of the centre that `centre_cloud` makes for measuring it.
        eval_jitter: relative jitter of their weights.
    """

    policy: Policy
    num_envs: int
    iterations: int
    init: Init
    init_scale: float
    last_layer_scale: float
    eval_episodes: int
    eval_jitter: float

    @property
    def remedy(self) -> str:
        """What to change where an update came out non-finite."""
        raise NotImplementedError

    @property
    def reads_policies(self) -> bool:
        """Whether `learn` reads all policies; otherwise it takes them undrawn as well as drawn."""
        return True

    @property
    def horizon(self) -> int | None:
        """Env steps of a policy where it takes over running environments (`Explore`).

        None: its whole episode is evaluated.
        """
        return None

    @property
    def num_scouts(self) -> int:
        """Policies of each population that run once more so that `learn` is told what they saw.

        `Evaluation.visited` are their observations; 0: None.
        """
        return 0

    @property
    def learns_per_weight(self) -> bool:
        """Whether what `learn` does with a weight follows from that weight of all policies.

        Several devices then have the policies of `learn` by weights, all rows of some: sums over
        policies are those of one device.
        """
        return False

    @property
    def centre_metrics(self) -> tuple[str, ...]:
        """Names of what `record_centre` measures."""
        return ("eval/episode_return", "policy/realized_gain")

    def draw_policy(self, key: PRNGKey) -> jax.Array:
        """A first policy `[P]`."""
        return self.policy.init(key, self.init, self.init_scale, self.last_layer_scale)

    def init_state(self, key: PRNGKey) -> State:
        """Everything as before the first iteration."""
        raise NotImplementedError

    def start_from(self, state: State, theta: Float[Array, "P"]) -> State:
        """The first state with θ in the place of the policy that was drawn.

        Raises:
            UserError: if the method draws all its policies.
        """
        raise UserError("this method does not start from a given policy; leave out --init")

    def propose(self, state: State, iteration: Int[Array, ""]) -> Population | Perturbed:
        """The iteration's policies `[N, P]`, drawn or not yet."""
        raise NotImplementedError

    def population(self, state: State, iteration: Int[Array, ""]) -> Population | Undrawn:
        """The policies of `propose`, not drawn yet where the method can say how to.

        So that others may draw them: see `policies.host_noise`.
        """
        return self.propose(state, iteration)

    def centre(self, state: State) -> jax.Array:
        """The policy `[P]` to measure and keep."""
        raise NotImplementedError

    def learn(
        self,
        state: State,
        iteration: Int[Array, ""],
        thetas: Population | Undrawn,
        evaluation: Any,
    ) -> tuple[State, Metrics]:
        """The update after the rollouts of `thetas [N, P]`, which `propose` gave at this state.

        `evaluation` is an `Evaluation`, or with a `horizon` a `Segment`.
        """
        raise NotImplementedError

    def empty_starts(self, num: int) -> Starts:
        """Room for `num` start states; None where the method does not read them."""
        return None

    def read_starts(self, starts: Starts) -> Starts:
        """What the method reads of the start states that a task tells."""
        return None

    def keys(self, state: State, iteration: Int[Array, ""]) -> Keys:
        """The iteration's keys, each of one use."""
        base = jax.random.wrap_key_data(state.progress.key)
        folded = jax.random.fold_in(base, iteration)
        return Keys(*jax.random.split(folded, len(Keys._fields)))

    def centre_cloud(self, state: State, iteration: Int[Array, ""]) -> Population:
        """`eval_episodes` copies of the unperturbed centre `[E, P]`, for measuring it."""
        key = self.keys(state, iteration).cloud
        return jitter(key, self.centre(state), self.eval_episodes, self.eval_jitter)

    def record_centre(self, state: State, evaluation: Evaluation) -> tuple[State, Metrics]:
        """Remembers how the centre's cloud did, and the centre itself if it is the best so far."""
        mean, progress = evaluation.returns.mean(), state.progress
        # A θ any of whose copies turned non-finite is not to be recommended.
        better = jnp.isfinite(mean) & (mean > progress.best_return)
        metrics = {
            "eval/episode_return": mean,
            "policy/realized_gain": mean - progress.last_return,
        }
        progress = progress._replace(
            best_theta=jnp.where(better, self.centre(state), progress.best_theta),
            best_return=jnp.where(better, mean, progress.best_return),
            last_return=mean,
        )
        return state._replace(progress=progress), metrics


def keep_nonfinite(progress: Progress, thetas: Population | Undrawn, finite: Mask) -> Progress:
    """Remembers one of the policies whose return was not finite, where there are any."""
    newest = thetas[jnp.argmin(finite)[None]][0]
    kept = jnp.where(finite.all(), progress.nonfinite_theta, newest)
    return progress._replace(nonfinite_theta=kept)
