"""Evolution strategies as learners of the same loop: evosax's ask and tell, with returns negated.

evosax (Lange 2022) is loaded only when one of its strategies is asked for. It minimises; here
returns are maximised.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple, TypeAlias

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
from epvf.methods.metrics import Metrics, rollout_metrics
from epvf.methods.optimizers import Optimizer, decay
from epvf.types import Array, Evaluation, Fraction, Mask, Population, PRNGKey, Returns

Draw: TypeAlias = Callable[[PRNGKey], jax.Array]

MAX_DENSE = 2048
"""Parameters up to which `cmaes` is allowed: its covariance is dense, and is decomposed in every
iteration at a cost that grows with the cube."""


@dataclass(frozen=True)
class EvolutionConfig:
    """The evolution strategies among the methods; each reads what it has use for.

    The population is `num_envs`; `openes`, `pgpe` and `ars` draw it in mirrored pairs around the
    mean, which starts where EPVF's policy starts. `randomsearch` draws policies as `policy.init`
    says, and reads nothing of this.

    Attributes:
        std: deviation of the Gaussian noise; where it adapts (`pgpe`, `cmaes`, `sepcmaes`) at the
            start.
        final_std: of `openes` and `ars`: at the last iteration, reached exponentially; None:
            constant.
        optimizer: of the mean, for `openes`, `pgpe` and `ars`.
        learning_rate: of the mean, for the same three.
        final_learning_rate: at the last iteration, reached exponentially; None: constant.
        std_learning_rate: of the deviation of `pgpe`, which changes by at most a fifth a time.
        elite_ratio: of `ars`: the fraction of directions, the best ones, that it steps along.
    """

    std: float = 0.05
    final_std: float | None = None
    optimizer: Optimizer = "adam"
    learning_rate: float = 1e-2
    final_learning_rate: float | None = None
    std_learning_rate: float = 0.1
    elite_ratio: Fraction = 0.5

    def __post_init__(self) -> None:
        if not self.elite_ratio:
            raise UserError("evolution.elite_ratio is 0; it must be greater than 0")


@dataclass(frozen=True)
class EvolutionSettings:
    """What an evolution strategy reads.

    Attributes:
        name: of the method.
        evolution: its hyperparameters.
    """

    name: str = "openes"
    evolution: EvolutionConfig = field(default_factory=EvolutionConfig)


class Strategy(NamedTuple):
    """A strategy of evosax and its parameters.

    Attributes:
        algorithm, params: evosax's.
        per_weight: whether what it learns of a weight follows from the returns and that weight of
            all policies, but for a few sums over weights.
    """

    algorithm: Any
    params: Any
    per_weight: bool = False


class EvolutionState(NamedTuple):
    """All that one seed's strategy remembers between iterations.

    Attributes:
        progress: what every method remembers.
        strategy: evosax's state of the strategy.
    """

    progress: Progress
    strategy: Any


@dataclass(frozen=True)
class EvolutionLearner(PolicySearch):
    """An evolution strategy in the place of EPVF's learner; the centre is the strategy's mean.

    Attributes:
        strategy: what draws populations and learns from their returns.
    """

    strategy: Strategy

    @property
    def remedy(self) -> str:
        """What to change where an update came out non-finite."""
        return "Lower evolution.learning_rate or evolution.std"

    @property
    def learns_per_weight(self) -> bool:
        """See `PolicySearch`."""
        return self.strategy.per_weight

    def init_state(self, key: PRNGKey) -> EvolutionState:
        """Everything as before the first iteration; the mean is θ of EPVF with the same key."""
        mean_key, strategy_key, base_key = jax.random.split(key, 3)
        mean = self.draw_policy(jax.random.split(mean_key, 1)[0])
        algorithm, params, _ = self.strategy
        with _evosax_arithmetic():
            strategy = _strong(algorithm.init(strategy_key, mean, params))
        return EvolutionState(progress=begin(base_key, mean), strategy=strategy)

    def start_from(self, state: EvolutionState, theta: Float[Array, "P"]) -> EvolutionState:
        """The first state with the mean at θ."""
        strategy = state.strategy.replace(mean=theta)
        return EvolutionState(state.progress._replace(best_theta=theta), strategy)

    def propose(self, state: EvolutionState, iteration: Int[Array, ""]) -> Population:
        """The population `[N, P]` that the strategy asks to evaluate."""
        return self._ask(state, iteration)[0]

    def centre(self, state: EvolutionState) -> jax.Array:
        """The strategy's mean `[P]`; of `randomsearch` the best policy so far."""
        return state.strategy.mean

    def learn(
        self,
        state: EvolutionState,
        iteration: Int[Array, ""],
        thetas: Population,
        evaluation: Evaluation,
    ) -> tuple[EvolutionState, Metrics]:
        """Tells the strategy how its population did."""
        finite = jnp.isfinite(evaluation.returns)
        progress = keep_nonfinite(state.progress, thetas, finite)
        before = state.strategy
        after = self._tell(state, iteration, thetas, _fitness(evaluation.returns, finite))
        healthy = jnp.isfinite(after.mean).all()
        # There is nothing to learn from a population without a single finite return.
        learned = jax.tree.map(
            lambda new, old: jnp.where(healthy & finite.any(), new, old), after, before
        )
        progress = progress._replace(healthy=progress.healthy & healthy)
        state = state._replace(strategy=learned, progress=progress)
        nan = jnp.full((), jnp.nan)
        return state, rollout_metrics(evaluation, finite) | {
            "value/spearman": nan,
            "policy/predicted_gain": nan,
            "loss/value": nan,
            "policy/clipped_fraction": jnp.zeros(()),
            "policy/step_norm": jnp.linalg.norm(learned.mean - before.mean),
            "healthy": progress.healthy,
        }

    def _ask(self, state: EvolutionState, iteration: Int[Array, ""]) -> tuple[Population, Any]:
        key = self.keys(state, iteration).perturbation
        algorithm, params, _ = self.strategy
        with _evosax_arithmetic():
            return algorithm.ask(key, state.strategy, params)

    def _tell(
        self, state: EvolutionState, iteration: Int[Array, ""], thetas: Population, fitness: Array
    ) -> Any:
        # What asking changed in the state is worked out again: `propose` hands back policies only.
        asked = self._ask(state, iteration)[1]
        key = self.keys(state, iteration).batches
        algorithm, params, _ = self.strategy
        with _evosax_arithmetic():
            return _strong(algorithm.tell(key, thetas, fitness, asked, params)[0])


def make_strategy(
    name: str,
    config: EvolutionConfig,
    population_size: int,
    num_parameters: int,
    iterations: int,
    draw: Draw,
) -> Strategy:
    """A strategy by its name in `STRATEGIES`.

    Args:
        name: of the strategy.
        config: its hyperparameters.
        population_size: N.
        num_parameters: P, the length of θ.
        iterations: length of the run, for the schedules.
        draw: a key to a policy `[P]`, for `randomsearch`.

    Raises:
        UserError: if evosax is not installed, or the strategy does not fit these sizes.
    """
    strategies = _evosax(name)
    solution = jnp.zeros(num_parameters)
    request = _Request(name, config, population_size, solution, iterations, draw)
    return STRATEGIES[name](strategies, request)


class _Request(NamedTuple):
    """What a strategy is made from."""

    name: str
    config: EvolutionConfig
    population_size: int
    solution: jax.Array
    iterations: int
    draw: Draw

    @property
    def sizes(self) -> dict[str, Any]:
        return {"population_size": self.population_size, "solution": self.solution}


def _openes(strategies: Any, request: _Request) -> Strategy:
    _check_pairs(request)
    algorithm = _mirrored(strategies.Open_ES)(
        **request.sizes, optimizer=_optimizer(request), std_schedule=_std_schedule(request)
    )
    return Strategy(algorithm, algorithm.default_params, per_weight=True)


def _pgpe(strategies: Any, request: _Request) -> Strategy:
    _check_pairs(request)
    algorithm = _mirrored(strategies.PGPE)(**request.sizes, optimizer=_optimizer(request))
    config = request.config
    params = algorithm.default_params.replace(std_init=config.std, std_lr=config.std_learning_rate)
    return Strategy(algorithm, params, per_weight=True)


def _ars(strategies: Any, request: _Request) -> Strategy:
    _check_pairs(request)
    algorithm = _mirrored(strategies.ARS)(
        **request.sizes, optimizer=_optimizer(request), std_schedule=_std_schedule(request)
    )
    algorithm.elite_ratio = request.config.elite_ratio
    return Strategy(algorithm, algorithm.default_params, per_weight=True)


def _cmaes(strategies: Any, request: _Request) -> Strategy:
    size = request.solution.shape[0]
    if size > MAX_DENSE:
        raise UserError(
            f"method 'cmaes' has a dense covariance, and this policy has {size} parameters; use "
            f"method 'sepcmaes', or a policy of at most {MAX_DENSE} (policy.hidden_sizes)"
        )
    return _adapting(_symmetric(strategies.CMA_ES), request)


def _sepcmaes(strategies: Any, request: _Request) -> Strategy:
    return _adapting(strategies.Sep_CMA_ES, request)._replace(per_weight=True)


def _adapting(kind: Any, request: _Request) -> Strategy:
    """CMA-ES of either kind."""
    if request.population_size < 4:
        raise UserError(
            f"method {request.name!r} needs num_envs of at least 4, not {request.population_size}"
        )
    algorithm = kind(**request.sizes)
    std = jnp.asarray(request.config.std, jnp.float32)
    return Strategy(algorithm, algorithm.default_params.replace(std_init=std))


def _randomsearch(strategies: Any, request: _Request) -> Strategy:
    algorithm = strategies.RandomSearch(**request.sizes, sampling_fn=request.draw)
    return Strategy(algorithm, algorithm.default_params)


def _mirrored(kind: Any) -> Any:
    """A strategy whose mirrored pairs, the same numbers, can be drawn by devices apart.

    evosax joins both halves, which needs the first one whole on every device.
    """

    class Mirrored(kind):
        def _ask(self, key: PRNGKey, state: Any, params: Any) -> tuple[Population, Any]:
            half = jax.random.normal(key, (self.population_size // 2, self.num_dims))
            noise = jnp.asarray([1.0, -1.0])[:, None, None] * half[None]
            return state.mean + state.std * noise.reshape(-1, self.num_dims), state

    return Mirrored


def _symmetric(kind: Any) -> Any:
    """CMA-ES whose noise is that of the symmetric root of the covariance, B D Bᵀ z.

    evosax draws B D z, which has the same distribution. But the eigenvectors B of variances that
    are nearly alike, as all are at first, turn with the last digit of the covariance, and with
    them every policy: no other machine or number of devices would see the same run.
    """

    class Symmetric(kind):
        def _ask(self, key: PRNGKey, state: Any, params: Any) -> tuple[Population, Any]:
            _, state = super()._ask(key, state, params)
            noise = jax.random.normal(key, (self.population_size, self.num_dims))
            noise = ((noise @ state.B) * state.D) @ state.B.T
            return state.mean + state.std * noise, state

    return Symmetric


STRATEGIES: dict[str, Callable[[Any, _Request], Strategy]] = {
    "openes": _openes,
    "pgpe": _pgpe,
    "ars": _ars,
    "cmaes": _cmaes,
    "sepcmaes": _sepcmaes,
    "randomsearch": _randomsearch,
}


def _evosax(name: str) -> Any:
    try:
        return import_module("evosax.algorithms")
    except ImportError as error:
        raise UserError(f"method {name!r} needs evosax: pip install 'epvf[baselines]'") from error


def _evosax_arithmetic() -> Any:
    """evosax adds vectors to matrices; the library itself, and its tests, do not."""
    return jax.numpy_rank_promotion("allow")


def _check_pairs(request: _Request) -> None:
    if request.population_size % 2:
        raise UserError(
            f"method {request.name!r} draws mirrored pairs: num_envs must be even, not "
            f"{request.population_size}"
        )


def _optimizer(request: _Request) -> optax.GradientTransformation:
    config = request.config
    rate = decay(config.learning_rate, config.final_learning_rate, request.iterations - 1)
    return {"adam": optax.adam, "sgd": optax.sgd}[config.optimizer](rate)


def _std_schedule(request: _Request) -> Callable[[Any], Any]:
    config = request.config
    # evosax reads the schedule one iteration late: once at the start, then after each update.
    schedule = decay(config.std, config.final_std, request.iterations - 2)
    return lambda count: jnp.asarray(
        schedule(count) if callable(schedule) else schedule, jnp.float32
    )


def _fitness(returns: Returns, finite: Mask) -> jax.Array:
    """What evosax minimises; a return that is not finite counts as the worst that is."""
    cost = -returns
    worst = jnp.where(finite, cost, -jnp.inf).max()
    return jnp.where(finite, cost, jnp.where(finite.any(), worst, 0.0))


def _strong(tree: Any) -> Any:
    """The same arrays without JAX's weak types, which no checkpoint keeps."""

    def strong(leaf: Any) -> jax.Array:
        array = jnp.asarray(leaf)
        return jax.lax.convert_element_type(array, array.dtype)

    return jax.tree.map(strong, tree)


def build(parts: Parts) -> EvolutionLearner:
    """The strategy that the configuration names."""
    shared, config = common(parts), parts.config
    policy = parts.policy
    first = config.policy
    draw = partial(
        policy.init,
        init=first.init,
        scale=first.init_scale,
        last_scale=first.last_layer_scale,
    )
    strategy = make_strategy(
        config.method.name,
        config.method.evolution,
        config.num_envs,
        policy.num_parameters,
        shared["iterations"],
        draw,
    )
    return EvolutionLearner(**shared, strategy=strategy)


def check(config: Plan) -> None:
    """Raises a `UserError` where settings contradict each other."""
    for name in ("learning_rate", "std"):
        check_decay("evolution", name, config.method.evolution)


def _method(summary: str, *reads: str) -> Method:
    """A strategy that reads these fields of `EvolutionConfig`."""
    others = (item.name for item in fields(EvolutionConfig) if item.name not in reads)
    return Method(
        settings=EvolutionSettings,
        summary=summary,
        build=build,
        check=check,
        unread=frozenset({"policy.num_centres", *(f"evolution.{name}" for name in others)}),
        needs="baselines",
    )


_MEAN = ("std", "optimizer", "learning_rate", "final_learning_rate")

OPENES = _method("OpenES (Salimans et al. 2017), evosax", *_MEAN, "final_std")
PGPE = _method("PGPE (Sehnke et al. 2010), evosax", *_MEAN, "std_learning_rate")
ARS = _method("ARS (Mania et al. 2018), evosax", *_MEAN, "final_std", "elite_ratio")
CMAES = _method("CMA-ES with a dense covariance, evosax", "std")
SEPCMAES = _method("CMA-ES with a diagonal covariance, evosax", "std")
RANDOMSEARCH = _method("the best of policies drawn at random, evosax")
