"""Populations drawn by the host's threads: `jax.random`'s own numbers, several times faster.

XLA draws a population on a CPU in a loop of small steps over all of it. Here a thread takes a row
after the other and goes through it in blocks that stay in its nearest cache, in loops that LLVM
turns into SIMD code. The generator is threefry2x32 (Salmon et al. 2011, "Parallel random numbers:
as easy as 1, 2, 3") as JAX counts it; normals are the inverse error function (Giles 2010,
"Approximating the erfinv function") of uniforms, as XLA has it.

Uniform noise is that of `population[rows]` to the bit, Gaussian noise within `ULPS`. What is so
small that XLA takes it for zero (below 1.2e-38) stays what it is.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int, UInt32

from epvf.policies import noise_loops as loops
from epvf.policies.noise import PerturbationConfig
from epvf.policies.noise_loops import Around, Change, Jobs, Source
from epvf.policies.population import Perturbed, Recipe, Rescaled, Some, Undrawn

ULPS = 4
"""By how many units in the last place a normal may differ from XLA's."""

ALIGNMENT = 64
"""Bytes: JAX takes arrays that begin at multiples of it without copying them."""

_LEAST = 1 << 16  # numbers that are worth a thread

_f32 = np.float32


def reproducible() -> bool:
    """Whether JAX draws as these threads do: by default threefry2x32, partitionable, float32."""
    config: Any = jax.config
    return bool(
        config.jax_default_prng_impl == "threefry2x32"
        and config.jax_threefry_partitionable
        and not config.jax_enable_x64
    )


def draw(
    population: Undrawn, num_threads: int, out: Float[np.ndarray, "N P"] | None = None
) -> Float[np.ndarray, "N P"]:
    """All policies of a population, as `drawn(population)` has them.

    Args:
        population: of numpy arrays, or of JAX arrays.
        num_threads: of the host, at most.
        out: C-contiguous room for them; allocated if not given.

    Raises:
        ValueError: if `out` is no room for them.
    """
    return draw_rows(population, np.arange(population.shape[0]), num_threads, out)


def draw_rows(
    population: Undrawn,
    rows: Int[np.ndarray, "k"],
    num_threads: int,
    out: Float[np.ndarray, "k P"] | None = None,
) -> Float[np.ndarray, "k P"]:
    """The policies `[k, P]` of these rows, as `population[rows]` has them; see `draw`."""
    shape = (len(rows), population.shape[1])
    out = room(shape) if out is None else out
    if out.shape != shape or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise ValueError(f"{shape} policies need C-contiguous float32, not {out.shape} {out.dtype}")
    found = _source(_alone(population), (rows,))

    def fill(part: slice) -> None:
        loops.fill(out[part], part.start, found, loops.blocks())

    _in_parts(fill, shape, num_threads)
    return out


def draw_recipe(
    recipe: Recipe, rows: Int[np.ndarray, "k"], num_threads: int
) -> Float[np.ndarray, "k P"]:
    """The policies of these rows of a recipe, in ascending order; see `draw`."""
    *drawn, there = _apart(recipe, rows)
    found = [
        draw_rows(population, own, num_threads)
        for population, own in zip(recipe.seeds, drawn, strict=True)
        if len(own)
    ]
    if len(there) or not found:
        found.append(recipe.rest[there])
    return found[0] if len(found) == 1 else np.concatenate(found)


def _apart(recipe: Recipe, rows: Int[np.ndarray, "k"]) -> list[Int[np.ndarray, "_"]]:
    """Rows of a recipe as those of each of its populations, and of what is there already."""
    firsts = np.cumsum([0, *(population.shape[0] for population in recipe.seeds)])
    ends = [*firsts[1:].tolist(), recipe.shape[0]]
    return [
        rows[(rows >= first) & (rows < end)] - first
        for first, end in zip(firsts.tolist(), ends, strict=True)
    ]


def source(policies: Float[np.ndarray, "N P"] | Undrawn | Recipe | Some) -> Source:
    """Policies for loops that take up one after the other, and draw it then; see `Source`."""
    if isinstance(policies, Some):
        *drawn, there = _apart(*policies)
        recipe = policies.recipe
        return _source(recipe._replace(rest=recipe.rest[there]), drawn)
    if isinstance(policies, Perturbed | Rescaled):
        policies = _alone(policies)
    if isinstance(policies, Recipe):
        return _source(policies, [np.arange(each.shape[0]) for each in policies.seeds])
    nobody = Perturbed(
        np.zeros((1, 1, policies.shape[1]), np.float32),
        np.zeros((1, 2), np.uint32),
        1,
        PerturbationConfig(),
    )
    return _source(Recipe((nobody,), policies), (np.zeros(0, np.int64),))


def room(shape: tuple[int, ...]) -> Float[np.ndarray, "*shape"]:
    """Uninitialised float32, C-contiguous, so aligned that JAX takes it as it is."""
    size = int(np.prod(shape))
    numbers = np.empty(size + ALIGNMENT // 4, np.float32)
    skipped = -numbers.ctypes.data % ALIGNMENT // 4
    return numbers[skipped : skipped + size].reshape(shape)


def normals(
    words: UInt32[np.ndarray, "n"],
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """The uniform numbers in (-1, 1) and the normal ones that are made of random words."""
    uniforms, rests, exponents, results = np.empty((4, len(words)), np.float32)
    mantissas = np.empty(len(words), np.int32)
    loops.open_uniforms(words, uniforms, rests)
    loops.split(rests.view(np.int32), exponents, mantissas)
    loops.normals(uniforms, exponents, mantissas.view(np.float32), results)
    return uniforms, results


def _alone(population: Undrawn) -> Recipe:
    return Recipe((population,), np.zeros((0, population.shape[1]), np.float32))


def _source(recipe: Recipe, rows: Sequence[Int[np.ndarray, "_"]]) -> Source:
    """Some rows of each population of a recipe; they all have the same kind of noise."""
    inner = [each.inner if isinstance(each, Rescaled) else each for each in recipe.seeds]
    around = [_around(each) for each in inner]
    firsts = np.cumsum([0, *(len(each.centres) for each in around)])
    jobs = [_jobs(*each) for each in zip(inner, rows, firsts[:-1].tolist(), strict=True)]
    config = inner[0].config
    return Source(
        Jobs(*map(np.concatenate, zip(*jobs, strict=True))),
        Around(*map(np.concatenate, zip(*around, strict=True))),
        _change(recipe.seeds, int(firsts[-1])),
        config.noise == "gaussian",
        _f32(np.inf if config.clip is None else config.clip),
        np.ascontiguousarray(recipe.rest, np.float32),
    )


def _jobs(population: Perturbed, rows: Int[np.ndarray, "k"], first: int) -> Jobs:
    """As `Perturbed.__getitem__` counts; `first` is the number of its first centre."""
    generation, member = rows // population.num, rows % population.num
    num_centres = population.centres.shape[1]
    each = population.num // num_centres
    centre, copy = member // each, member % each
    pairs = each // 2 if population.config.antithetic else each
    signs = np.where(copy < pairs, _f32(1.0), _f32(-1.0))
    numbers = (centre * pairs + copy % pairs).astype(np.uint32)
    keys = np.asarray(population.keys, np.uint32)[generation]
    return Jobs(keys, numbers, first + generation * num_centres + centre, signs)


def _around(population: Perturbed) -> Around:
    # copies: what JAX gives is read-only, for which numba would compile once more
    centres = np.array(population.centres, np.float32)
    centres = centres.reshape(-1, centres.shape[-1])
    config = population.config
    if config.noise == "gaussian":
        return Around(centres, np.full_like(centres, config.scale))
    return Around(centres, _f32(config.scale) * np.maximum(np.abs(centres), _f32(config.floor)))


def _change(populations: Sequence[Undrawn], num_centres: int) -> Change:
    rescaled = [each for each in populations if isinstance(each, Rescaled)]
    if not rescaled:
        nothing = np.zeros((num_centres, 0), np.float32)
        return Change(False, np.ones(num_centres, np.float32), nothing, nothing, 0)
    sizes = np.array([each.size for each in rescaled], np.float32)
    if rescaled[0].scaler is None:
        nothing = np.zeros((num_centres, 0), np.float32)
        return Change(True, sizes, nothing, nothing, 0)
    means, deviations = (
        np.stack(rows).astype(np.float32)
        for rows in zip(*(each.scaler for each in rescaled), strict=True)
    )
    return Change(True, sizes, means, deviations, rescaled[0].policy.layer_sizes[1])


def _in_parts(fill: Callable[[slice], None], shape: tuple[int, int], num_threads: int) -> None:
    """Calls `fill` with parts of the rows, on as many threads as are worth it."""
    num, size = shape
    workers = max(1, min(num_threads, num * size // _LEAST))
    if workers == 1:
        fill(slice(0, num))
        return
    # more parts than threads: none waits long for another that was held up, nor an interrupt
    each = max(1, min(-(-num // (4 * workers)), (16 * _LEAST) // size))
    parts = [slice(begin, min(begin + each, num)) for begin in range(0, num, each)]
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(fill, parts):
            pass
