"""`Evaluate` for environments written in JAX: sums and start states leave it, no trajectory.

Source: Bohlinger & Peters 2025, section 2: every environment of an iteration runs its own policy.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from epvf.policies.mlp import Policy
from epvf.policies.population import Perturbed
from epvf.runtime.compilation import compiled
from epvf.tasks.base import Replay, Stepped, TaskSpec, check_actions, check_policy, check_population
from epvf.tasks.engines.environment import Environment, State
from epvf.tasks.engines.segments import JaxExplorer
from epvf.types import Array, Evaluate, Evaluation, Population, RowKeys

SEGMENT = 20
"""Steps between looks at which policies are done, where others wait for their slots."""

NARROWING = 4
"""How many times fewer slots serve the last policies, once none waits any more."""

_BARE_STEPS = 100


@dataclass(frozen=True)
class JaxTask:
    """A task on a JAX environment. `Evaluate` can be traced, jitted and vmapped over seeds.

    Attributes:
        spec: its numbers.
        environment: its functions.
        num_slots: environments that run side by side while policies wait; None: no policy waits.
    """

    spec: TaskSpec
    environment: Environment
    num_slots: int | None = None

    rows_apart: ClassVar[bool] = True
    """Whether some rows can be asked for, by their keys."""

    def evaluator(self, policy: Policy) -> Evaluate:
        """`Evaluate` for policies of this architecture; see `Task.evaluator`."""
        check_policy(self.spec, policy)
        length = self.spec.episode_length
        return evaluator(self.environment, policy, length, self.num_slots)

    def explorer(self, policy: Policy, horizon: int) -> JaxExplorer:
        """`Explore` for policies of this architecture; see `ExplorableTask.explorer`."""
        check_policy(self.spec, policy)
        return JaxExplorer(self.environment, policy, self.spec.episode_length, horizon)

    def replay(self, actions: Float[Array, "T N action"]) -> Replay:
        """Open-loop rollouts from the reset state; see `ReplayableTask.replay`."""
        actions = jnp.asarray(actions, jnp.float32)
        check_actions(self.spec, actions)
        return _replay(self.environment, actions)

    def bare_stepper(self, policy: Policy, thetas: Population | Perturbed) -> Callable[[], Stepped]:
        """Steps as many environments with random actions; see `Task.bare_stepper`."""
        check_policy(self.spec, policy)
        check_population(policy, thetas)
        num_steps = min(self.spec.episode_length, _BARE_STEPS)
        actions = _random_actions(self.spec, (num_steps, thetas.shape[0]))

        def run() -> Stepped:
            start = time.perf_counter()
            jax.block_until_ready(_bare(self.environment, actions))
            return Stepped(actions.shape[0] * actions.shape[1], time.perf_counter() - start)

        run()  # compiles
        return run


class _Slots(NamedTuple):
    """Simulations side by side, each with the policy that runs in it.

    Attributes:
        thetas: `[W, P]`.
        state: of the environments.
        owner: `[W]` whose policy it is: a row of the population, or its size for nobody's.
        steps: `[W]` steps taken.
        total: `[W]` rewards so far.
        excess: `[W]` by how much rounding has made them too large (Kahan 1965): float32 alone would
            no longer count beyond 2^24.
        running: `[W]`.
    """

    thetas: Population | Perturbed
    state: State
    owner: Int[jax.Array, "W"]
    steps: Int[jax.Array, "W"]
    total: Float[jax.Array, "W"]
    excess: Float[jax.Array, "W"]
    running: Bool[jax.Array, "W"]


class _Results(NamedTuple):
    returns: Float[jax.Array, "N"]
    lengths: Int[jax.Array, "N"]


def evaluator(
    environment: Environment, policy: Policy, episode_length: int, num_slots: int | None = None
) -> Evaluate:
    """`Evaluate` that runs policies side by side until the last one is done.

    A policy is done when its episode terminates, after `episode_length` steps, or when a reward is
    not finite, which makes its return non-finite. A θ that is not finite is done from the start:
    its return is NaN and its length 0.

    With fewer slots than policies the others wait in a queue: every `SEGMENT` steps, slots whose
    policy is done take the next one, so that finished policies cost next to nothing. When none
    waits and few are left, these go on in `NARROWING` times fewer slots.
    """

    def evaluate(key: RowKeys, thetas: Population | Perturbed) -> Evaluation:
        check_population(policy, thetas)
        width = min(thetas.shape[0], num_slots or thetas.shape[0])
        # float32 products on accelerators too, not TF32
        with jax.default_matmul_precision("highest"):
            return _run(environment, policy, episode_length, width, key, thetas)

    return evaluate


@compiled(static_argnums=(0, 1, 2, 3))
def _run(
    environment: Environment,
    policy: Policy,
    episode_length: int,
    width: int,
    key: RowKeys,
    thetas: Population | Perturbed,
) -> Evaluation:
    num = thetas.shape[0]
    keys = key if key.ndim else jax.random.split(key, num)
    starts = jax.vmap(lambda k: environment.observe(environment.reset(k)))(keys)
    run = partial(_run_segment, environment, policy, episode_length)
    load = partial(_load, environment, keys, thetas)
    slots = load(jnp.arange(width))
    if width == num:
        slots = run(slots, episode_length)
        return Evaluation(slots.total, slots.steps, starts)
    narrow = max(1, width // NARROWING)

    def crowded(carry: tuple[_Slots, Any, _Results]) -> Bool[jax.Array, ""]:
        slots, waiting, _ = carry
        return (waiting < num) | (slots.running.sum() > narrow)

    def advance(carry: tuple[_Slots, Any, _Results]) -> tuple[_Slots, Any, _Results]:
        slots, waiting, results = carry
        slots, results = go_on((slots, results))
        return *_refill(load, slots, waiting, num), results

    def go_on(carry: tuple[_Slots, _Results]) -> tuple[_Slots, _Results]:
        slots, results = carry
        slots = run(slots, SEGMENT)
        return slots, _report(slots, results)

    nothing = _Results(jnp.full(num, jnp.nan), jnp.zeros(num, jnp.int32))
    queue = (slots, jnp.asarray(width), nothing)
    slots, _, results = jax.lax.while_loop(crowded, advance, queue)
    left = jax.tree.map(itemgetter(jnp.argsort(~slots.running)[:narrow]), slots)
    results = jax.lax.while_loop(lambda last: last[0].running.any(), go_on, (left, results))[1]
    return Evaluation(*results, starts)


def _load(
    environment: Environment,
    keys: jax.Array,
    thetas: Population | Perturbed,
    owner: Int[jax.Array, "W"],
) -> _Slots:
    """Slots in which these rows of the population start; those past its end stay empty."""
    rows = thetas[jnp.minimum(owner, len(keys) - 1)]
    finite = jnp.isfinite(rows).all(axis=-1)
    return _Slots(
        thetas=rows,
        state=jax.vmap(environment.reset)(keys[jnp.minimum(owner, len(keys) - 1)]),
        owner=owner,
        steps=jnp.zeros(len(owner), jnp.int32),
        total=jnp.where(finite, 0.0, jnp.nan),
        excess=jnp.zeros(len(owner)),
        running=finite & (owner < len(keys)),
    )


def _run_segment(
    environment: Environment, policy: Policy, episode_length: int, slots: _Slots, num_steps: int
) -> _Slots:
    """Takes `num_steps` steps, or fewer if all policies are done before."""
    layers = policy.unravel(slots.thetas)

    def running(carry: tuple[Any, Any]) -> Bool[jax.Array, ""]:
        return (carry[0] < num_steps) & carry[1].running.any()

    def advance(carry: tuple[Any, Any]) -> tuple[Any, Any]:
        step, now = carry
        observations = jax.vmap(environment.observe)(now.state)
        actions = jax.vmap(policy.apply)(layers, observations)
        state, rewards, terminated = jax.vmap(environment.step)(now.state, actions)
        added = rewards - now.excess
        total = now.total + added
        steps = now.steps + now.running
        over = terminated | ~jnp.isfinite(rewards) | (steps >= episode_length)
        now = now._replace(
            state=state,
            steps=steps,
            total=jnp.where(now.running, total, now.total),
            excess=jnp.where(now.running, (total - now.total) - added, now.excess),
            running=now.running & ~over,
        )
        return step + 1, now

    # the policies do not change on the way, so the loop need not carry them
    moving = slots._replace(thetas=None)
    moved = jax.lax.while_loop(running, advance, (jnp.zeros((), jnp.int32), moving))[1]
    return moved._replace(thetas=slots.thetas)


def _report(slots: _Slots, results: _Results) -> _Results:
    """Writes down what became of policies that are done."""
    num = len(results.returns)
    owner = jnp.where(slots.running, num, slots.owner)
    return _Results(
        results.returns.at[owner].set(slots.total, mode="drop"),
        results.lengths.at[owner].set(slots.steps, mode="drop"),
    )


def _refill(
    load: Callable[[Any], _Slots], slots: _Slots, waiting: Int[jax.Array, ""], num: int
) -> tuple[_Slots, jax.Array]:
    """Starts the policies from row `waiting` on where others are done; returns who is next."""
    idle = ~slots.running
    fresh = load(jnp.minimum(waiting + jnp.cumsum(idle) - 1, num))

    def choose(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(idle.reshape(-1, *[1] * (old.ndim - 1)), new, old)

    return jax.tree.map(choose, fresh, slots), jnp.minimum(waiting + idle.sum(), num)


@compiled(static_argnums=0)
def _replay(environment: Environment, actions: Float[jax.Array, "T N action"]) -> Replay:
    num_envs = actions.shape[1]
    states = _reset_all(environment, num_envs)

    def advance(carry: tuple[State, Any, Any], action: Any) -> tuple[Any, Any]:
        state, observation, done = carry
        state, reward, terminated = jax.vmap(environment.step)(state, action)
        observed = jax.vmap(environment.observe)(state)
        observation = jnp.where(done[:, None], observation, observed)
        reward = jnp.where(done, 0.0, reward)
        done |= terminated | ~jnp.isfinite(reward)
        return (state, observation, done), Replay(observation, reward, done)

    first = (states, jax.vmap(environment.observe)(states), jnp.zeros(num_envs, bool))
    return jax.lax.scan(advance, first, actions)[1]


@partial(jax.jit, static_argnums=0)  # as without this library: the compiler's own options
def _bare(environment: Environment, actions: Any) -> State:
    def advance(states: State, action: Any) -> tuple[State, None]:
        return jax.vmap(environment.step)(states, action)[0], None

    return jax.lax.scan(advance, _reset_all(environment, actions.shape[1]), actions)[0]


def _reset_all(environment: Environment, num_envs: int) -> State:
    return jax.vmap(environment.reset)(jax.random.split(jax.random.key(0), num_envs))


def _random_actions(spec: TaskSpec, shape: tuple[int, int]) -> jax.Array:
    key = jax.random.key(0)
    if spec.discrete:
        return jax.random.randint(key, shape, 0, spec.action_size)
    return jax.random.uniform(key, (*shape, spec.action_size), minval=-1.0, maxval=1.0)
