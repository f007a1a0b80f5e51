"""What the two loops, on the host and compiled, have in common."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from epvf.config.schema import Config
from epvf.methods.base import PolicySearch, State
from epvf.methods.metrics import total_steps
from epvf.training.prepare import Setup, scout_steps
from epvf.training.state import TrainState
from epvf.types import Array, Explore, Population, PRNGKey

Announce: TypeAlias = Callable[[str], None]
Metrics: TypeAlias = dict[str, np.ndarray]


class Timing(NamedTuple):
    """Seconds of the rollouts of each iteration, and the wall clock after each."""

    rollout: np.ndarray
    wall: np.ndarray


Step: TypeAlias = tuple[TrainState, Metrics, Timing]


def most_steps(setup: Setup) -> int:
    """Most env steps of a seed in an iteration, but for measuring the centre."""
    scouted = setup.search.num_scouts * scout_steps(setup.task.spec)
    return setup.config.num_envs * longest_segment(setup) + scouted


def visited_by(scout: Explore, key: PRNGKey, policies: Population) -> Array:
    """What policies `[K, P]` see from the start on: `[K * steps, observation]`.

    `key` is that of the population's rollouts, of which this one is made.
    """
    reset_key, key = jax.random.split(jax.random.fold_in(key, 1))
    segment = scout(key, policies, scout.reset(reset_key, policies.shape[0]))
    seen = segment.observations[:, :-1]
    return seen.reshape(-1, seen.shape[-1])


def longest_segment(setup: Setup) -> int:
    """Most env steps that an environment takes in an iteration."""
    return setup.search.horizon or setup.task.spec.episode_length


def evaluation_due(config: Config, iteration: Any, last: Any) -> Any:
    """Whether the centre is measured at this iteration; `last`: it may be the run's last.

    Both are numbers, or traced ones.
    """
    return (iteration % config.eval.interval == 0) | (iteration == config.iterations - 1) | last


def unmeasured(config: Config, search: PolicySearch) -> dict[str, jax.Array]:
    """The centre's metrics of an iteration that does not measure it."""
    return dict.fromkeys(search.centre_metrics, jnp.full(config.num_seeds, jnp.nan))


def advance(
    state: TrainState, learners: State, metrics: Metrics, num: int, seconds: float
) -> TrainState:
    """The state after `num` iterations."""
    steps = total_steps(metrics["rollout/steps"])
    return TrainState(
        learners,
        state.iteration + num,
        state.env_steps + steps.sum(axis=0),
        state.wall_time + seconds,
    )


def split_seeds(tree: Any, num_seeds: int) -> Any:
    """Arrays `[M N, ...]` as `[M, N, ...]`."""
    return jax.tree.map(lambda x: x.reshape(num_seeds, -1, *x.shape[1:]), tree)


def compile_announced(
    what: str,
    function: Any,
    arguments: tuple[Any, ...],
    announce: Announce,
    options: dict[str, Any] | None = None,
) -> Any:
    """The compiled function; compilation is announced, since nothing is seen of it otherwise."""
    announce(f"compiling {what} ...")
    begin = time.perf_counter()
    program = function.lower(*arguments).compile(compiler_options=options)
    announce(f"compiled {what} in {time.perf_counter() - begin:.1f} s")
    return program
