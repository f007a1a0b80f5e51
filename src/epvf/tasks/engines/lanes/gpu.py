"""Tasks on a GPU: kernels that are called within JAX's own programs.

One launch runs whole episodes of a population, or a segment. Calls can be traced, jitted and
vmapped, so that whole iterations compile into one program; a vmap becomes more environments of one
launch, each as it were alone.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jaxtyping import Float, Int

from epvf.policies.mlp import Policy
from epvf.tasks.base import Replay, Stepped, TaskSpec, check_policy, check_population, run_once
from epvf.tasks.engines.environment import Environment, State
from epvf.tasks.engines.lanes import kernel, ptx
from epvf.tasks.engines.lanes.graph import BOOL, DTYPES
from epvf.tasks.engines.lanes.program import Layout, Program
from epvf.tasks.engines.lanes.scalarise import kind_of
from epvf.tasks.engines.rollout import JaxTask
from epvf.tasks.engines.segments import started
from epvf.types import Array, Envs, Evaluate, Evaluation, Population, PRNGKey, Segment

TARGET = "__gpu$xla.gpu.ptx"
"""What XLA calls its own way to launch a kernel that it is given as PTX."""

WARPS = ((4096, 8), (8192, 4))
"""Up to so many environments, so many warps share a block's work; beyond, 2, and more blocks fit.

On an H200 (132 multiprocessors), the Ant with 34-64-64-8, million env steps/s of 4,096 and 16,384
environments: 23.0 and 24.1 with 8 warps, 21.4 and 39.9 with 4, 18.0 and 60.1 with 2.
"""
MANY_WARPS = 2

_BARE_STEPS = 100

Source = Callable[[Program, Policy, str, int], str]
"""Where a kernel's PTX comes from: program, policy, name and warps."""


def num_warps(num: int) -> int:
    """How many warps share a block's work, of so many environments."""
    return next((warps for most, warps in WARPS if num <= most), MANY_WARPS)


@dataclass(frozen=True)
class GpuTask:
    """A program of lanes on the threads of a GPU.

    Attributes:
        program: what is run.
        spec: the task's numbers.
        warps: that share a block's work; as many as suit the number of environments if not given.
        source: of PTX.
    """

    program: Program
    spec: TaskSpec
    warps: int | None = None
    source: Source = ptx.source

    @property
    def environment(self) -> Environment:
        """Its functions, for those who step it themselves."""
        return self.program.environment

    def evaluator(self, policy: Policy) -> Evaluate:
        """`Evaluate` for policies of this architecture; see `Task.evaluator`."""
        check_policy(self.spec, policy)
        return GpuEvaluator(self, policy)

    def explorer(self, policy: Policy, horizon: int) -> "GpuExplorer":
        """`Explore` for policies of this architecture; see `ExplorableTask.explorer`."""
        check_policy(self.spec, policy)
        return GpuExplorer(self, policy, horizon)

    def warm_up(self, policy: Policy, horizon: int | None) -> None:
        """Compiles what training with this architecture needs; see `run_once`."""
        run_once(self, policy, horizon)

    def replay(self, actions: Float[Array, "T N action"]) -> Replay:
        """See `ReplayableTask.replay`; not a kernel, but XLA's program of the same step."""
        return JaxTask(self.spec, self.environment).replay(actions)

    def bare_stepper(self, policy: Policy, thetas: Population) -> Callable[[], Stepped]:
        """See `Task.bare_stepper`; the policies are linear, each with a random constant action."""
        check_policy(self.spec, policy)
        check_population(policy, thetas)
        simple = Policy((policy.layer_sizes[0], policy.layer_sizes[-1]), output=policy.output)
        actions = np.random.default_rng(0).uniform(-1.0, 1.0, (len(thetas), simple.shapes[0][1]))
        constant = np.zeros((len(thetas), simple.num_parameters), np.float32)
        constant[:, -actions.shape[1] :] = actions
        num_steps = min(self.spec.episode_length, _BARE_STEPS)
        explore = GpuExplorer(self, simple, num_steps)
        key, given = jax.random.key(0), jnp.asarray(constant)
        envs = explore.reset(key, len(thetas))

        def run() -> Stepped:
            start = time.perf_counter()
            jax.block_until_ready(explore(key, given, envs).rewards)
            return Stepped(num_steps * len(thetas), time.perf_counter() - start)

        run()  # compiles
        return run


@dataclass(frozen=True)
class GpuEvaluator:
    """`Evaluate` as one launch."""

    task: GpuTask
    policy: Policy

    def __call__(self, key: PRNGKey, thetas: Population) -> Evaluation:
        """Evaluates the population; `key` decides where episodes start, if that is random.

        A θ that is not finite is not run: its return is NaN and its length 0. A reward or a state
        that is not finite ends the episode, with a return of NaN.
        """
        check_population(self.policy, thetas)
        evaluation: Evaluation = self._run(key, thetas)
        return evaluation

    @partial(jax.jit, static_argnums=0)
    def _run(self, key: PRNGKey, thetas: Population) -> Evaluation:
        task, num = self.task, thetas.shape[0]
        keys = jax.random.split(key, 1 if task.spec.deterministic_reset else num)
        states = jax.vmap(task.environment.reset)(keys)
        seen = jax.vmap(task.environment.observe)(states)
        ready = jnp.isfinite(thetas).all(axis=1)
        returns, lengths = self._launch(thetas, rows(states), ready)
        return Evaluation(
            returns, lengths, jnp.broadcast_to(seen, (num, seen.shape[1])).astype(jnp.float32)
        )

    def _launch(self, thetas: Array, starts: Array, ready: Array) -> Any:
        """Returns and lengths `[N]`, of `[N, P]`, `[S, state]` and `[N]`."""

        @custom_vmap
        def launch(thetas: Array, starts: Array, ready: Array) -> Any:
            num = len(thetas)
            sizes = np.array([num, len(starts), self.task.spec.episode_length], np.int32)
            floats, ints = (jax.ShapeDtypeStruct((num,), d) for d in (jnp.float32, jnp.int32))
            given = (thetas.T, starts.T, ready.astype(jnp.int32), jnp.asarray(sizes))
            return tuple(_call(self.task, self.policy, "episodes", num, given, (floats, ints)))

        @launch.def_vmap
        def together(size: int, batched: Any, thetas: Array, starts: Array, ready: Array) -> Any:
            thetas, ready = (
                x if there else jnp.broadcast_to(x, (size, *x.shape))
                for x, there in zip((thetas, ready), batched[::2], strict=True)
            )
            num = thetas.shape[1]
            if self.task.spec.deterministic_reset:
                starts = starts[0] if batched[1] else starts
            elif batched[1]:
                starts = starts.reshape(size * num, -1)
            else:
                starts = jnp.tile(starts, (size, 1))
            out = launch(thetas.reshape(size * num, -1), starts, ready.reshape(-1))
            return tuple(x.reshape(size, num) for x in out), (True, True)

        return launch(thetas, starts, ready)


@dataclass(frozen=True)
class GpuExplorer:
    """`Explore` as one launch; environments' states are those of the other engines of JAX."""

    task: GpuTask
    policy: Policy
    horizon: int

    def reset(self, key: PRNGKey, num: int) -> Envs:
        """See `Explore.reset`."""
        environment = self.task.environment
        return started(jax.vmap(environment.reset)(jax.random.split(key, num)), num)

    def __call__(self, key: PRNGKey, thetas: Population, envs: Envs) -> Segment:
        """See `Explore`; after each end of an episode, `key` decides where the next one starts."""
        check_population(self.policy, thetas)
        segment: Segment = self._run(key, thetas, envs)
        return segment

    @partial(jax.jit, static_argnums=0)
    def _run(self, key: PRNGKey, thetas: Population, envs: Envs) -> Segment:
        task, program, num = self.task, self.task.program, thetas.shape[0]
        once = task.spec.deterministic_reset
        keys = jax.random.split(key, 1 if once else (self.horizon, num)).reshape(-1)
        fresh = rows(jax.vmap(task.environment.reset)(keys))
        if not once:
            fresh = fresh.reshape(self.horizon, num, -1)
        made = self._launch(thetas, rows(envs.state), envs.steps, envs.total, fresh)
        observations, outputs, rewards, flags, after, steps, total, finished, length = made
        over = length > 0
        now = Envs(
            states(program.layout, after),
            steps,
            total,
            jnp.where(over, finished, envs.finished),
            jnp.where(over, length, envs.finished_steps),
        )
        terminated, truncated = flags == kernel.TERMINATED, flags == kernel.TRUNCATED
        return Segment(observations, outputs, rewards, terminated, truncated, now)

    def _launch(self, *given: Array) -> Any:
        """All that a segment makes, with environments first.

        Of theta `[N, P]`, states `[N, state]`, steps and totals `[N]`, and fresh states, `[1,
        state]` or `[H, N, state]`.
        """

        @custom_vmap
        def launch(thetas: Array, before: Array, steps: Array, totals: Array, fresh: Array) -> Any:
            return self._one(thetas, before, steps, totals, fresh)

        @launch.def_vmap
        def together(size: int, batched: Any, *given: Array) -> Any:
            each = [
                x if there else jnp.broadcast_to(x, (size, *x.shape))
                for x, there in zip(given[:-1], batched[:-1], strict=True)
            ]
            num = each[0].shape[1]
            fresh = self._fresh_of_all(given[-1], batched[-1], size, num)
            out = launch(*(x.reshape(size * num, *x.shape[2:]) for x in each), fresh)
            out = tuple(x.reshape(size, num, *x.shape[1:]) for x in out)
            return out, (True,) * len(out)

        return launch(*given)

    def _fresh_of_all(self, fresh: Array, batched: bool, size: int, num: int) -> Array:
        """First states of the environments of all seeds."""
        if self.task.spec.deterministic_reset:
            return fresh[0] if batched else fresh
        if not batched:
            return jnp.tile(fresh, (1, size, 1))
        return jnp.swapaxes(fresh, 0, 1).reshape(self.horizon, size * num, -1)

    def _one(self, thetas: Array, before: Array, steps: Array, totals: Array, fresh: Array) -> Any:
        num, size = before.shape
        horizon, spec = self.horizon, self.task.spec
        fresh = fresh.reshape(-1, size)
        sizes = np.array([num, len(fresh), spec.episode_length, horizon], np.int32)
        results = [
            jax.ShapeDtypeStruct(shape, kind)
            for shape, kind in (
                ((horizon + 1, spec.observation_size, num), jnp.float32),
                ((horizon, spec.action_size, num), jnp.float32),
                ((horizon, num), jnp.float32),
                ((horizon, num), jnp.int32),
                ((size, num), jnp.int32),
                ((num,), jnp.int32),
                ((num,), jnp.float32),
                ((num,), jnp.float32),
                ((num,), jnp.int32),
            )
        ]
        given = (
            thetas.T,
            before.T,
            steps.astype(jnp.int32),
            totals.astype(jnp.float32),
            fresh.T,
            jnp.asarray(sizes),
        )
        made = _call(self.task, self.policy, "segment", num, given, results)
        # environments come last in a kernel's arrays
        return tuple(jnp.moveaxis(x, -1, 0) for x in made)


def _call(
    task: GpuTask, policy: Policy, name: str, num: int, given: Any, results: Any
) -> list[jax.Array]:
    """Launches a kernel within a program of JAX; arrays and results as its own."""
    warps = task.warps or num_warps(num)
    blocks = -(-num // kernel.LANES)
    room = kernel.num_rows(task.program, policy) * kernel.LANES
    outside = room * 4 > kernel.SHARED_BYTES
    scratch = jax.ShapeDtypeStruct((blocks * room if outside else 1,), jnp.int32)
    call = jax.ffi.ffi_call(TARGET, [*results, scratch])
    made = call(
        *given,
        name=name,
        kernel_type="ptx",
        kernel_data=task.source(task.program, policy, name, warps),
        grid_x=np.int32(blocks),
        grid_y=np.int32(1),
        grid_z=np.int32(1),
        block_x=np.int32(warps * kernel.LANES),
        block_y=np.int32(1),
        block_z=np.int32(1),
        shared_mem_bytes=np.int32(0),
    )
    return list(made[:-1])


def rows(states: State) -> Int[jax.Array, "N state"]:
    """The bits of states with a leading axis, a row each; as `Layout.pack`, but traceable."""
    columns = []
    for array in jax.tree.leaves(states):
        kind = kind_of(array.dtype)
        own = array.astype(jnp.int32 if kind == BOOL else DTYPES[kind])
        bits = jax.lax.bitcast_convert_type(own, jnp.int32)
        columns.append(bits.reshape(bits.shape[0], -1))
    return jnp.concatenate(columns, axis=1)


def states(layout: Layout, bits: Int[jax.Array, "N state"]) -> State:
    """States from the bits of their rows; as `Layout.unpack`, but traceable."""
    arrays, start = [], 0
    for leaf in layout.leaves:
        size = int(np.prod(leaf.shape, dtype=int))
        part, kind = bits[:, start : start + size], kind_of(leaf.dtype)
        own = part != 0 if kind == BOOL else jax.lax.bitcast_convert_type(part, DTYPES[kind])
        arrays.append(own.astype(leaf.dtype).reshape(bits.shape[0], *leaf.shape))
        start += size
    return jax.tree.unflatten(layout.tree, arrays)
