"""What a task is: a name, sizes, and a way to turn policies into returns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jaxtyping import Bool, Float

from epvf.errors import UserError
from epvf.policies.mlp import Policy
from epvf.policies.population import Recipe, Undrawn
from epvf.types import (
    Array,
    Envs,
    Evaluate,
    Evaluation,
    Explore,
    Population,
    PRNGKey,
    RowKeys,
    Segment,
)


@dataclass(frozen=True)
class TaskSpec:
    """The numbers that a policy and the training loop need of a task.

    Example:
        >>> import epvf
        >>> spec = epvf.make("cartpole").spec
        >>> spec.observation_size, spec.action_size, spec.discrete, spec.episode_length
        (4, 2, True, 500)

    Attributes:
        name: as given on the command line.
        backend: the engine that steps it: `jax`, `native`, `mjx` or `warp`.
        observation_size: length of an observation.
        action_size: length of an action; the number of actions where `discrete`.
        discrete: whether an action is an index.
        episode_length: longest episode, in env steps.
        terminates: whether an episode can end before that.
        deterministic_reset: whether every episode starts in the same state, so that the return
            of θ must be averaged over a cloud of jittered copies rather than over resets.
        traceable: whether `Evaluate` can be traced by JAX, so that whole iterations compile into
            one program; otherwise it is called from the host with numpy arrays.
        draws: whether `Evaluate` also takes a population that is not drawn yet (`Perturbed`), so
            that its policies need not all exist at a time.
        step_seconds: of the task's time that an env step takes; None: nobody tells.
    """

    name: str
    backend: str
    observation_size: int
    action_size: int
    discrete: bool
    episode_length: int
    deterministic_reset: bool
    traceable: bool
    terminates: bool = True
    draws: bool = False
    step_seconds: float | None = None


class Replay(NamedTuple):
    """What open-loop actions led to; `T` steps, `N` environments.

    Environments freeze when they terminate: from then on the observation repeats, the reward is 0
    and `terminated` stays true. A reward is non-finite where the physics was.

    Attributes:
        observation: `[T, N, observation]` after each step.
        reward: `[T, N]`.
        terminated: `[T, N]`.
    """

    observation: Float[Array, "T N observation"]
    reward: Float[Array, "T N"]
    terminated: Bool[Array, "T N"]


class Stepped(NamedTuple):
    """How many env steps were taken, all environments together, and in how many seconds."""

    steps: int
    seconds: float


class Task(Protocol):
    """All that training needs."""

    @property
    def spec(self) -> TaskSpec: ...

    def evaluator(self, policy: Policy) -> Evaluate:
        """`Evaluate` for policies of this architecture.

        Raises:
            UserError: if the policy's observation size, action size or output does not fit.
        """
        ...


class ExplorableTask(Task, Protocol):
    """A task whose environments can wait in the middle of an episode for other policies."""

    def explorer(self, policy: Policy, horizon: int) -> Explore:
        """`Explore` for policies of this architecture, `horizon` steps a call.

        Raises:
            UserError: if the policy's observation size, action size or output does not fit.
        """
        ...


def can_wait(task: Any) -> bool:
    """Whether a task, or what stands for one, is an `ExplorableTask`."""
    return getattr(task, "explorer", None) is not None


def explorer_of(task: Task, policy: Policy, horizon: int) -> Explore:
    """The task's `Explore`.

    Raises:
        UserError: if its environments cannot wait, or the policy does not fit.
    """
    if not can_wait(task):
        spec = task.spec
        raise UserError(
            f"the environments of task {spec.name!r} on backend {spec.backend!r} cannot wait in "
            "the middle of an episode, as method 'psvf' and probing_init 'visited' need; use "
            "another backend, method or representation"
        )
    explorable: Any = task
    explore: Explore = explorable.explorer(policy, horizon)
    return explore


class SteppableTask(Task, Protocol):
    """A task with an engine that can be timed alone."""

    def bare_stepper(self, policy: Policy, thetas: Population) -> Callable[[], Stepped]:
        """A function that steps the same environments with random actions, for `bench`.

        No policy is computed, nothing observed: what the engine alone can do.
        """
        ...


class ReplayableTask(SteppableTask, Protocol):
    """A task that resets deterministically and can step given actions from there."""

    def replay(self, actions: Float[Array, "T N action"]) -> Replay:
        """Steps `N` environments from the reset state through `T` given actions.

        Raises:
            UserError: if the task does not reset deterministically, or `actions` is not
                `[T, N, action_size]` with `T, N >= 1`.
        """
        ...


def run_once(task: Task, policy: Policy, horizon: int | None) -> None:
    """Runs one policy, so that what an engine compiles at its first call is compiled."""
    key = jax.random.key(0)
    thetas = np.zeros((1, policy.num_parameters), np.float32)
    jax.block_until_ready(task.evaluator(policy)(key, thetas).returns)
    if horizon is not None:
        explore = explorer_of(task, policy, horizon)
        explore(key, thetas, explore.reset(key, 1))


def checked(spec: TaskSpec, evaluate: Evaluate) -> Evaluate:
    """`Evaluate` whose answers are looked at: their shapes and kinds of numbers, traced or not.

    A return of shape `[N, 1]` would be broadcast against others into `[N, N]` without a word.
    Values are left alone: one that is not finite is masked where returns are read.

    The evaluation raises:
        UserError: if it is no `Evaluation`, returns are not `[N]` real numbers, lengths not `[N]`
            integers of 0 to the longest episode, or start states neither None nor
            `[N, observation_size]`.
    """

    def evaluate_checked(key: RowKeys, thetas: Population | Undrawn | Recipe) -> Evaluation:
        evaluation = evaluate(key, thetas)
        _check_evaluation(spec, thetas.shape[0], evaluation)
        return evaluation

    return evaluate_checked


def _check_evaluation(spec: TaskSpec, num: int, evaluation: Any) -> None:
    if not isinstance(evaluation, Evaluation):
        what = type(evaluation).__name__
        raise UserError(f"task {spec.name!r} returned {what}, but must return an Evaluation")
    wanted = [
        _Wanted("returns", evaluation.returns, (num,), "float"),
        _Wanted("lengths", evaluation.lengths, (num,), "integer"),
    ]
    if evaluation.starts is not None:
        wanted.append(_Wanted("starts", evaluation.starts, (num, spec.observation_size), "float"))
    _check_arrays(spec, num, wanted)
    if isinstance(evaluation.lengths, np.ndarray):  # of others nobody can know yet
        least, most = evaluation.lengths.min(), evaluation.lengths.max()
        if least < 0 or most > spec.episode_length:
            raise UserError(
                f"task {spec.name!r} returned lengths of {least} to {most} steps, but must return "
                f"0 to {spec.episode_length}, its longest episode"
            )


def checked_explore(spec: TaskSpec, explore: Explore, policy: Policy, horizon: int) -> Explore:
    """`Explore` whose segments are looked at like the answers of `checked`.

    Exploring raises:
        UserError: if it is no `Segment`, or a field is not of its shape and kind of numbers.
    """
    return _CheckedExplore(spec, explore, policy.layer_sizes[-1], horizon)


@dataclass(frozen=True)
class _CheckedExplore:
    spec: TaskSpec
    explore: Explore
    outputs: int
    horizon: int

    def reset(self, key: PRNGKey, num: int) -> Envs:
        """See `Explore.reset`."""
        return self.explore.reset(key, num)

    def __call__(self, key: PRNGKey, thetas: Population | Undrawn | Recipe, envs: Envs) -> Segment:
        """See `Explore`."""
        segment = self.explore(key, thetas, envs)
        _check_segment(self.spec, (thetas.shape[0], self.horizon, self.outputs), segment)
        return segment


def _check_segment(spec: TaskSpec, sizes: tuple[int, int, int], segment: Any) -> None:
    if not isinstance(segment, Segment):
        what = type(segment).__name__
        raise UserError(f"task {spec.name!r} returned {what}, but must return a Segment")
    num, steps, outputs = sizes
    seen, row = (num, steps + 1, spec.observation_size), (num, steps)
    wanted = [
        _Wanted("observations", segment.observations, seen, "float"),
        _Wanted("outputs", segment.outputs, (*row, outputs), "float"),
        _Wanted("rewards", segment.rewards, row, "float"),
        _Wanted("terminated", segment.terminated, row, "truth value"),
        _Wanted("truncated", segment.truncated, row, "truth value"),
    ]
    _check_arrays(spec, num, wanted)


class _Wanted(NamedTuple):
    """An array that a task returned, and what it must be."""

    name: str
    array: Any
    shape: tuple[int, ...]
    kind: str


_KINDS = {"float": "f", "integer": "iu", "truth value": "b"}
"""Kinds of numbers, and their letters in numpy."""


def _check_arrays(spec: TaskSpec, num: int, wanted: list[_Wanted]) -> None:
    for name, array, shape, kind in wanted:
        there, dtype = getattr(array, "shape", None), getattr(array, "dtype", None)
        if there is None or dtype is None:
            what = type(array).__name__
            raise UserError(
                f"task {spec.name!r} returned {name} as {what}, but they must be an array"
            )
        if tuple(there) != shape:
            raise UserError(
                f"task {spec.name!r} returned {name} of shape {list(there)} for {num} policies, "
                f"but must return {list(shape)}"
            )
        if np.dtype(dtype).kind not in _KINDS[kind]:
            raise UserError(
                f"task {spec.name!r} returned {name} of {dtype}, but must return {kind}s"
            )


def check_policy(spec: TaskSpec, policy: Policy) -> None:
    """Checks that a policy fits a task.

    Raises:
        UserError: if its observation size, action size or output does not fit.
    """
    sizes = (policy.layer_sizes[0], policy.layer_sizes[-1])
    expected = (spec.observation_size, spec.action_size)
    if sizes != expected:
        raise UserError(
            f"a policy from {sizes[0]} observations to {sizes[1]} actions does not fit task "
            f"{spec.name!r}, which has {expected[0]} observations and {expected[1]} actions"
        )
    outputs = ("argmax",) if spec.discrete else ("clip", "tanh")
    if policy.output not in outputs:
        kind = "discrete" if spec.discrete else "continuous"
        raise UserError(
            f"policy output {policy.output!r} does not fit the {kind} actions of task "
            f"{spec.name!r}; valid: {', '.join(outputs)}"
        )


def check_population(policy: Policy, thetas: Any) -> None:
    """Checks the shape of what should be a population, drawn or not, also on JAX tracers.

    Raises:
        UserError: if `thetas` is not `[N, P]` with `N >= 1` and `P` the policy's size.
    """
    expected = f"[N, P] with N >= 1 policies of P = {policy.num_parameters} parameters"
    shape = tuple(thetas.shape)
    if len(shape) != 2 or shape[0] < 1 or shape[1] != policy.num_parameters:
        raise UserError(f"thetas have shape {list(shape)}, but must be {expected}")


def check_actions(spec: TaskSpec, actions: Float[Array, "T N action"]) -> None:
    """Checks that a task can be replayed with these open-loop actions.

    Raises:
        UserError: if the task does not reset deterministically, or `actions` is not
            `[T, N, action_size]` with `T, N >= 1`.
    """
    if not spec.deterministic_reset:
        raise UserError(f"task {spec.name!r} cannot be replayed: it starts in random states")
    shape = tuple(actions.shape)
    if len(shape) != 3 or min(shape) < 1 or shape[2] != spec.action_size:
        raise UserError(
            f"actions have shape {list(shape)}, but must be [T, N, {spec.action_size}] "
            "with T, N >= 1"
        )
