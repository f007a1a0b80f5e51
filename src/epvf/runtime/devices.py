"""Several devices, of one machine or many: seeds and rows of the population on a mesh of them.

    mesh [S, R]     S devices share out the seeds, R the policies of each seed

What is random of a policy follows from its row alone, so every device draws, rolls out and keeps
its own rows, and a rollout's result does not depend on how many devices there are. V and θ are on
all of them; sums over policies (V's loss, the directions of evolution strategies) are the only
thing that crosses. JAX's partitioner finds those by itself, once it is told where rows live.
"""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from epvf.errors import UserError
from epvf.runtime import hosts
from epvf.types import Array, Evaluate, Evaluation, PRNGKey, Segment

SEEDS, ROWS = "seeds", "rows"

DRAWN = 1024
"""Policies that a device draws at a time of a population that it writes."""

Spread: TypeAlias = Callable[..., Any]
"""A function whose arrays have a leading axis over rows, computed where these live."""


def mesh_of(asked: str, num_seeds: int, num_envs: int, centres: int = 1) -> Mesh | None:
    """The devices that share a run; None: one does it all.

    As many of them as can share the seeds do: those need nothing of each other. The rest shares
    the policies of each seed.

    Args:
        asked: how many of each process, or `all`.
        num_seeds: M, trained side by side.
        num_envs: N, policies of each.
        centres: of which N stays a multiple, where others are named that fit.

    Raises:
        UserError: if there are not as many devices, or they cannot share the policies out evenly.
    """
    there = _chosen(asked)
    num = len(there)
    if num == 1:
        return None
    seeds = math.gcd(num, num_seeds)
    rows = num // seeds
    if num_envs % rows:
        least = math.lcm(rows, 2 * centres)
        below = num_envs // least * least
        fitting = " or ".join(str(n) for n in (below, below + least) if n)
        raise UserError(
            f"num_envs {num_envs} cannot be shared out among {rows} devices; use {fitting}, or "
            f"other --devices"
        )
    return Mesh(np.array(there).reshape(seeds, rows), (SEEDS, ROWS))


def _chosen(asked: str) -> list[jax.Device]:
    """As many devices of each process, by process."""
    there = jax.devices() if hosts.several() else jax.local_devices()
    each: dict[int, list[jax.Device]] = {}
    for device in there:
        each.setdefault(device.process_index, []).append(device)
    least = min(map(len, each.values()))
    num = least if asked == "all" else _number(asked)
    if num > least:
        where = "for each process" if hosts.several() else "here"
        kind = there[0].platform
        raise UserError(f"devices is {num}, but there are {least} of kind {kind} {where}")
    return [device for process in sorted(each) for device in each[process][:num]]


def _number(asked: str) -> int:
    if not asked.isdecimal() or int(asked) < 1:
        raise UserError(f"devices must be a number of at least 1, or all, not {asked!r}")
    return int(asked)


def state_shardings(mesh: Mesh, state: Any, num_envs: int) -> Any:
    """Where the arrays `[M, ...]` of a method's state live.

    Those of environments and of the replay buffer have rows `[M, N, ...]`, which are shared out if
    that works out evenly; all others are whole on every device of their seeds.
    """
    rows = mesh.shape[ROWS]
    buffer = getattr(state, "buffer", None)
    sizes = {"envs": num_envs, "buffer": 0 if buffer is None else buffer.returns.shape[1]}

    def place(path: Any, leaf: Any) -> NamedSharding:
        size = sizes.get(getattr(path[0], "name", ""))
        spread = size is not None and leaf.ndim > 1 and leaf.shape[1] == size and size % rows == 0
        return NamedSharding(mesh, PartitionSpec(SEEDS, ROWS) if spread else PartitionSpec(SEEDS))

    return jax.tree_util.tree_map_with_path(place, state)


def put(tree: Any, shardings: Any) -> Any:
    """The arrays where they belong; of several processes, each has all of what is not there yet."""
    return jax.tree.map(_put, tree, shardings)


def _put(array: Any, sharding: NamedSharding) -> Array:
    if sharding.is_fully_addressable or not getattr(array, "is_fully_addressable", True):
        return jax.device_put(array, sharding)
    here = np.asarray(array)
    return jax.make_array_from_callback(here.shape, sharding, lambda index: here[index])


def everywhere(mesh: Mesh) -> NamedSharding:
    """For arrays that every device has whole."""
    return NamedSharding(mesh, PartitionSpec())


def at_hand() -> SingleDeviceSharding:
    """For arrays that one device has, whatever had them before."""
    return SingleDeviceSharding(jax.local_devices()[0])


def is_apart(mesh: Mesh | None, num: int) -> bool:
    """Whether several devices have a part each of so many rows."""
    return mesh is not None and mesh.shape[ROWS] > 1 and num % mesh.shape[ROWS] == 0


def with_rows_apart(mesh: Mesh | None, tree: Any) -> Any:
    """The arrays `[N, ...]` of one seed, each row where it is rolled out; within a program."""
    if mesh is None:
        return tree
    rows = mesh.shape[ROWS]

    def place(x: Array) -> Array:
        if x.ndim and x.shape[0] % rows == 0:
            return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(ROWS)))
        return x

    return jax.tree.map(place, tree)


def with_columns_apart(mesh: Mesh | None, table: Array) -> Array:
    """An array `[N, F]` of one seed, all rows of some columns on each device."""
    if mesh is None or mesh.shape[ROWS] == 1:
        return table
    columns = NamedSharding(mesh, PartitionSpec(None, ROWS))
    return jax.lax.with_sharding_constraint(table, columns)


def with_weights_apart(
    mesh: Mesh, thetas: Array, draw: Callable[[Any], Array], state: Any
) -> Array:
    """The policies `[N, P]` of one seed, all rows of some weights on each device.

    They are drawn there once more, so that nothing of them is sent.

    Args:
        mesh: of the devices.
        thetas: the same policies by rows.
        draw: what they are drawn by, from `state`.
        state: arrays.
    """
    if mesh.shape[ROWS] == 1:
        return thetas
    # without the barrier XLA finds that they are drawn twice, and sends them
    return with_columns_apart(mesh, draw(jax.lax.optimization_barrier(state)))


def draw_into(mesh: Mesh, rooms: Array, population: Any, rows: Array) -> Array:
    """Policies `[S, P]`, some of them drawn anew by the devices that have them.

    So that a population is written where a replay buffer keeps it, though others roll it out, and
    nothing of it is sent.

    Args:
        mesh: of the devices, whose rows share out S evenly.
        rooms: `[S, P]`, each device a part of the rows.
        population: that is not drawn.
        rows: `[S]` of the population, which take these places; negative: what is there stays.
    """
    each = rooms.shape[0] // mesh.shape[ROWS]
    size = min(DRAWN, each)

    def part(rooms: Array, rows: Array, population: Any) -> Array:
        def some(i: Array, rooms: Array) -> Array:
            first = jnp.minimum(i * size, each - size)
            wanted = jax.lax.dynamic_slice_in_dim(rows, first, size)
            old = jax.lax.dynamic_slice_in_dim(rooms, first, size)
            drawn = lambda old: jnp.where(  # noqa: E731
                (wanted >= 0)[:, None], population[jnp.maximum(wanted, 0)], old
            )
            new = jax.lax.cond((wanted >= 0).any(), drawn, lambda old: old, old)
            return jax.lax.dynamic_update_slice_in_dim(rooms, new, first, axis=0)

        return jax.lax.fori_loop(0, -(-each // size), some, rooms)

    apart = PartitionSpec(ROWS)
    return jax.shard_map(
        part,
        mesh=mesh,
        in_specs=(apart, apart, PartitionSpec()),
        out_specs=apart,
        check_vma=False,
    )(rooms, rows, population)


def sum_of_rows(
    mesh: Mesh, stored: Any, rows: Array, function: Callable[..., Any], *whole: Any
) -> Any:
    """The sum over some rows of arrays `[S, ...]`, each row read by the device that has it.

    What crosses devices is the sum. A device reads its rows in parts of about an even share of all
    of them, however many it has.

    Args:
        mesh: of the devices, whose rows share out S evenly.
        stored: arrays `[S, ...]`, each device a part of the rows.
        rows: `[B]` of them, in any order and any number of times.
        function: `(part, counted, *whole)` to arrays that are sums over the `[k, ...]` rows of the
            part for which `counted [k]`.
        whole: arrays that every device has.
    """
    shares, num = mesh.shape[ROWS], rows.shape[0]
    each = jax.tree.leaves(stored)[0].shape[0] // shares
    # four standard deviations above the mean: more parts than one are rare
    size = min(num, math.ceil(num / shares + 4.0 * math.sqrt(num / shares)))

    def part(stored: Any, rows: Array, *whole: Any) -> Any:
        own = rows - jax.lax.axis_index(ROWS) * each
        here = (own >= 0) & (own < each)
        own = own[jnp.argsort(~here, stable=True)]
        count = here.sum()

        def some(i: Array) -> Any:
            place = i * size + jnp.arange(size)
            taken = jnp.clip(own[jnp.minimum(place, num - 1)], 0, each - 1)
            return function(jax.tree.map(lambda x: x[taken], stored), place < count, *whole)

        sums = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(some, count))
        _, sums = jax.lax.while_loop(
            lambda carry: carry[0] * size < count,
            lambda carry: (carry[0] + 1, jax.tree.map(jnp.add, carry[1], some(carry[0]))),
            (jnp.zeros((), jnp.int32), sums),
        )
        return jax.lax.psum(sums, ROWS)

    apart = PartitionSpec(ROWS)
    return jax.shard_map(
        part,
        mesh=mesh,
        in_specs=(apart, PartitionSpec()) + (PartitionSpec(),) * len(whole),
        out_specs=PartitionSpec(),
        check_vma=False,
    )(stored, rows, *whole)


def spread_evaluate(mesh: Mesh, evaluate: Evaluate, apart: bool) -> Evaluate:
    """`Evaluate` by all devices of a seed, each for its rows.

    Args:
        mesh: of the devices.
        evaluate: of one of them.
        apart: whether it takes the keys of rows in the place of one key, so that it can be asked
            for some of the rows. If not, JAX's partitioner is left alone with it.
    """
    rows = mesh.shape[ROWS]

    def spread(key: PRNGKey, thetas: Any) -> Evaluation:
        num = thetas.shape[0]
        if not apart or num % rows:
            return evaluate(key, thetas)
        return _on_rows(mesh, evaluate, jax.random.split(key, num), 0, thetas)

    return spread


def spread_explore(mesh: Mesh, explore: Any, horizon: int, apart: bool) -> Callable[..., Segment]:
    """`Explore` by all devices of a seed, each for its rows; see `spread_evaluate`."""

    def spread(key: PRNGKey, thetas: Any, envs: Any) -> Segment:
        if not apart:
            segment: Segment = explore(key, thetas, envs)
            return segment
        keys = jax.random.split(key, (horizon, thetas.shape[0]))
        return _on_rows(mesh, explore, keys, 1, thetas, envs)

    return spread


def _on_rows(mesh: Mesh, function: Spread, keys: Array, axis: int, thetas: Any, *rest: Any) -> Any:
    """`function(keys, thetas, *rest)`, of each device's rows of everything.

    Args:
        mesh: of the devices.
        function: of keys, policies `[n, P]` and arrays `[n, ...]`, for any rows.
        keys: of all rows, which are its axis `axis`.
        axis: of the rows in `keys`.
        thetas: `[N, P]`, or a population that is not drawn: each device draws its own rows.
        rest: arrays `[N, ...]`.
    """
    each = thetas.shape[0] // mesh.shape[ROWS]
    stored = hasattr(thetas, "dtype")

    def part(keys: Array, thetas: Any, *rest: Any) -> Any:
        if not stored:
            thetas = thetas[jax.lax.axis_index(ROWS) * each + jnp.arange(each)]
        return function(keys, thetas, *rest)

    apart = PartitionSpec(ROWS)
    return jax.shard_map(
        part,
        mesh=mesh,
        in_specs=(PartitionSpec(*[None] * axis, ROWS), apart if stored else PartitionSpec())
        + (apart,) * len(rest),
        out_specs=apart,
        check_vma=False,  # loops in engines carry zeros that are alike everywhere at first
    )(keys, thetas, *rest)


def over_seeds(mesh: Mesh | None, function: Callable[..., Any], **how: Any) -> Callable[..., Any]:
    """`jax.vmap` over seeds that devices may share out."""
    return jax.vmap(function, **how, spmd_axis_name=None if mesh is None else SEEDS)


def placed(mesh: Mesh | None, function: Callable[..., Any], shardings: Any) -> Callable[..., Any]:
    """`jax.jit` whose results lie where they belong from the start."""
    return jax.jit(function) if mesh is None else jax.jit(function, out_shardings=shardings)
