"""Evolution strategies as learners of the same loop: evosax's ask and tell, with returns negated.

evosax (Lange 2022) is loaded only when one of its strategies is asked for. It minimises; here
returns are maximised.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Bool, Float, Int, UInt32

from epvf.errors import UserError
from epvf.methods.base import Metrics, PolicySearch, keep_nonfinite, rollout_metrics
from epvf.methods.optimizers import Optimizer, decay
from epvf.types import Array, Evaluation, Mask, Population, PRNGKey, Returns

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
    elite_ratio: float = 0.5


class Strategy(NamedTuple):
    """A strategy of evosax and its parameters."""

    algorithm: Any
    params: Any


class EvolutionState(NamedTuple):
    """All that one seed's strategy remembers between iterations; see `search.State`.

    Attributes:
        strategy: evosax's state of the strategy.
    """

    key: UInt32[Array, "2"]
    strategy: Any
    best_theta: Float[Array, "P"]
    best_return: Float[Array, ""]
    last_return: Float[Array, ""]
    nonfinite_theta: Float[Array, "P"]
    healthy: Bool[Array, ""]


@dataclass(frozen=True)
class EvolutionLearner(PolicySearch):
    """An evolution strategy in the place of EPVF's learner; the leader is the strategy's mean.

    Attributes:
        strategy: what draws populations and learns from their returns.
    """

    strategy: Strategy

    @property
    def remedy(self) -> str:
        """What to change where an update came out non-finite."""
        return "Lower evolution.learning_rate or evolution.std"

    def init_state(self, key: PRNGKey) -> EvolutionState:
        """Everything as before the first iteration; the mean is θ of EPVF with the same key."""
        mean_key, strategy_key, base_key = jax.random.split(key, 3)
        mean = self.policy.init(jax.random.split(mean_key, 1)[0], self.init, self.init_scale)
        algorithm, params = self.strategy
        zero = jnp.zeros(())
        with _evosax_arithmetic():
            strategy = _strong(algorithm.init(strategy_key, mean, params))
        return EvolutionState(
            key=jax.random.key_data(base_key),
            strategy=strategy,
            best_theta=mean,
            best_return=zero - jnp.inf,
            last_return=zero + jnp.nan,
            nonfinite_theta=jnp.zeros_like(mean),
            healthy=jnp.ones((), dtype=jnp.bool_),
        )

    def propose(self, state: EvolutionState, iteration: Int[Array, ""]) -> Population:
        """The population `[N, P]` that the strategy asks to evaluate."""
        return self._ask(state, iteration)[0]

    def leader(self, state: EvolutionState) -> jax.Array:
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
        state = keep_nonfinite(state, thetas, finite)
        before = state.strategy
        after = self._tell(state, iteration, thetas, _fitness(evaluation.returns, finite))
        healthy = jnp.isfinite(after.mean).all()
        # There is nothing to learn from a population without a single finite return.
        learned = jax.tree.map(
            lambda new, old: jnp.where(healthy & finite.any(), new, old), after, before
        )
        state = state._replace(strategy=learned, healthy=state.healthy & healthy)
        nan = jnp.full((), jnp.nan)
        return state, rollout_metrics(evaluation, finite) | {
            "value/spearman": nan,
            "policy/predicted_gain": nan,
            "loss/value": nan,
            "policy/clipped_fraction": jnp.zeros(()),
            "policy/step_norm": jnp.linalg.norm(learned.mean - before.mean),
            "healthy": state.healthy,
        }

    def _ask(self, state: EvolutionState, iteration: Int[Array, ""]) -> tuple[Population, Any]:
        key = self.keys(state, iteration)[0]
        algorithm, params = self.strategy
        with _evosax_arithmetic():
            return algorithm.ask(key, state.strategy, params)

    def _tell(
        self, state: EvolutionState, iteration: Int[Array, ""], thetas: Population, fitness: Array
    ) -> Any:
        # What asking changed in the state is worked out again: `propose` hands back policies only.
        asked = self._ask(state, iteration)[1]
        key = self.keys(state, iteration)[3]
        algorithm, params = self.strategy
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
    algorithm = strategies.Open_ES(
        **request.sizes, optimizer=_optimizer(request), std_schedule=_std_schedule(request)
    )
    return Strategy(algorithm, algorithm.default_params)


def _pgpe(strategies: Any, request: _Request) -> Strategy:
    _check_pairs(request)
    algorithm = strategies.PGPE(**request.sizes, optimizer=_optimizer(request))
    params = algorithm.default_params
    config = request.config
    return Strategy(algorithm, params.replace(std_init=config.std, std_lr=config.std_learning_rate))


def _ars(strategies: Any, request: _Request) -> Strategy:
    _check_pairs(request)
    algorithm = strategies.ARS(
        **request.sizes, optimizer=_optimizer(request), std_schedule=_std_schedule(request)
    )
    algorithm.elite_ratio = request.config.elite_ratio
    return Strategy(algorithm, algorithm.default_params)


def _cmaes(strategies: Any, request: _Request) -> Strategy:
    size = request.solution.shape[0]
    if size > MAX_DENSE:
        raise UserError(
            f"method 'cmaes' has a dense covariance, and this policy has {size} parameters; use "
            f"method 'sepcmaes', or a policy of at most {MAX_DENSE} (policy.hidden_sizes)"
        )
    return _adapting(strategies.CMA_ES, request)


def _sepcmaes(strategies: Any, request: _Request) -> Strategy:
    return _adapting(strategies.Sep_CMA_ES, request)


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
