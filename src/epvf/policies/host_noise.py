"""Populations drawn by the host's threads: `jax.random`'s own numbers, several times faster.

XLA draws a population on a CPU in a loop of small steps over all of it. Here a thread takes a row
after the other and goes through it in blocks that stay in its nearest cache, in loops that LLVM
turns into SIMD code. The generator is threefry2x32 (Salmon et al. 2011, "Parallel random numbers:
as easy as 1, 2, 3") as JAX counts it; normals are the inverse error function (Giles 2010,
"Approximating the erfinv function") of uniforms, as XLA has it.

Uniform noise is that of `population[rows]` to the bit, Gaussian noise within `ULPS`.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast

import jax
import numpy as np
from jaxtyping import Float, Int, UInt32
from numba import njit

from epvf.policies.noise import PerturbationConfig
from epvf.policies.population import Perturbed, Rescaled, Undrawn

_Function = TypeVar("_Function", bound=Callable[..., Any])

ULPS = 4
"""By how many units in the last place a normal may differ from XLA's."""

ALIGNMENT = 64
"""Bytes: JAX takes arrays that begin at multiples of it without copying them."""

_BLOCK = 1024
_LEAST = 1 << 16  # numbers that are worth a thread

_u32, _f32 = np.uint32, np.float32
_ROOT = np.int32(0x3F3504F3)  # bits of √½


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
    inner = population.inner if isinstance(population, Rescaled) else population
    jobs, around = _jobs(inner, rows), _around(inner)
    change = _change(population)
    gaussian, bound = inner.config.noise == "gaussian", _bound(inner.config)

    def fill(part: slice) -> None:
        some = _Jobs(*(column[part] for column in jobs))
        _fill(out[part], some, around, change, gaussian, bound)

    _in_parts(fill, shape, num_threads)
    return out


def room(shape: tuple[int, ...]) -> Float[np.ndarray, "*shape"]:
    """Uninitialised float32, C-contiguous, so aligned that JAX takes it as it is."""
    size = int(np.prod(shape))
    numbers = np.empty(size + ALIGNMENT // 4, np.float32)
    skipped = -numbers.ctypes.data % ALIGNMENT // 4
    return numbers[skipped : skipped + size].reshape(shape)


class _Jobs(NamedTuple):
    """What each row is drawn from.

    Attributes:
        keys: `[k, 2]` of its population.
        numbers: `[k]` uint32, folded into the key.
        centres: `[k]` the number of its centre.
        signs: `[k]` float32 of its noise.
    """

    keys: UInt32[np.ndarray, "k 2"]
    numbers: UInt32[np.ndarray, "k"]
    centres: Int[np.ndarray, "k"]
    signs: Float[np.ndarray, "k"]


class _Around(NamedTuple):
    """Centres `[C, P]` of all populations, and how far noise of size 1 goes."""

    centres: Float[np.ndarray, "C P"]
    scales: Float[np.ndarray, "C P"]


class _Change(NamedTuple):
    """What becomes of policies after their noise; see `Rescaled`.

    Attributes:
        rescaled: whether anything does.
        size: of the noise.
        mean, deviation: `[observation]`, or empty in raw coordinates.
        width: outputs of the first layer.
    """

    rescaled: bool
    size: np.float32
    mean: Float[np.ndarray, "observation"]
    deviation: Float[np.ndarray, "observation"]
    width: int


def _jobs(population: Perturbed, rows: Int[np.ndarray, "k"]) -> _Jobs:
    """As `Perturbed.__getitem__` counts."""
    generation, member = rows // population.num, rows % population.num
    num_centres = population.centres.shape[1]
    each = population.num // num_centres
    centre, copy = member // each, member % each
    pairs = each // 2 if population.config.antithetic else each
    signs = np.where(copy < pairs, _f32(1.0), _f32(-1.0))
    numbers = (centre * pairs + copy % pairs).astype(np.uint32)
    keys = np.asarray(population.keys, np.uint32)[generation]
    return _Jobs(keys, numbers, generation * num_centres + centre, signs)


def _around(population: Perturbed) -> _Around:
    # copies: what JAX gives is read-only, for which numba would compile once more
    centres = np.array(population.centres, np.float32)
    centres = centres.reshape(-1, centres.shape[-1])
    config = population.config
    if config.noise == "gaussian":
        return _Around(centres, np.full_like(centres, config.scale))
    return _Around(centres, _f32(config.scale) * np.maximum(np.abs(centres), _f32(config.floor)))


def _change(population: Undrawn) -> _Change:
    nothing = np.zeros(0, np.float32)
    if isinstance(population, Perturbed):
        return _Change(False, _f32(1.0), nothing, nothing, 0)
    size = _f32(population.size)
    if population.scaler is None:
        return _Change(True, size, nothing, nothing, 0)
    mean, deviation = (np.array(x, np.float32) for x in population.scaler)
    return _Change(True, size, mean, deviation, population.policy.layer_sizes[1])


def _bound(config: PerturbationConfig) -> np.float32:
    return _f32(np.inf if config.clip is None else config.clip)


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


# What is compiled. The width of numbers is written out, since numba's sums and shifts of 32-bit
# integers are of 64 bits, which LLVM takes back only where the result is cut off again.
_compiler: Any = partial(njit, nogil=True, error_model="numpy")


def _exact(function: _Function) -> _Function:
    """Compiled, every operation rounded on its own."""
    return cast(_Function, _compiler(function))


def _fused(function: _Function) -> _Function:
    """Compiled as by XLA: products are fused into sums where the processor can."""
    return cast(_Function, _compiler(fastmath={"contract"})(function))


def _kept(function: _Function) -> _Function:
    """Compiled as by `_exact`, and kept on disk."""
    return cast(_Function, _compiler(cache=True)(function))


@_exact
def _round(a: Any, b: Any, turn: int) -> Any:
    a = _u32(a + b)
    b = _u32(_u32(b << _u32(turn)) | _u32(b >> _u32(32 - turn)))
    return a, _u32(a ^ b)


@_exact
def _rounds_even(a: Any, b: Any) -> Any:
    a, b = _round(a, b, 13)
    a, b = _round(a, b, 15)
    a, b = _round(a, b, 26)
    return _round(a, b, 6)


@_exact
def _rounds_odd(a: Any, b: Any) -> Any:
    a, b = _round(a, b, 17)
    a, b = _round(a, b, 29)
    a, b = _round(a, b, 16)
    return _round(a, b, 24)


@_exact
def _threefry(first: Any, second: Any, a: Any, b: Any) -> Any:
    """The hash of the counter (a, b) under a key: two words of 32 bits."""
    third = _u32(first ^ second ^ _u32(0x1BD11BDA))
    a, b = _rounds_even(_u32(a + first), _u32(b + second))
    a, b = _rounds_odd(_u32(a + second), _u32(b + third + _u32(1)))
    a, b = _rounds_even(_u32(a + third), _u32(b + first + _u32(2)))
    a, b = _rounds_odd(_u32(a + first), _u32(b + second + _u32(3)))
    a, b = _rounds_even(_u32(a + second), _u32(b + third + _u32(4)))
    return _u32(a + third), _u32(b + first + _u32(5))


@_exact
def _bits(first: Any, second: Any, start: int, bits: Any) -> None:
    """Words `start ...` of what a key draws: `jax.random.bits`, fewer than 2^32 of them."""
    for i in range(len(bits)):
        a, b = _threefry(first, second, _u32(0), _u32(start + i))
        bits[i] = a ^ b


@_exact
def _uniforms(bits: Any, uniforms: Any) -> None:
    """Words as numbers in [-1, 1): `jax.random.uniform(minval=-1, maxval=1)`."""
    for i in range(len(bits)):
        # 23 bits of a number in [1, 2), less 1
        uniforms[i] = _f32(np.int32(bits[i] >> _u32(9))) * _f32(2.0**-22) - _f32(1.0)


@_exact
def _open_uniforms(bits: Any, uniforms: Any, rests: Any) -> None:
    """Words as numbers u in (-1, 1), and 1 - u².

    In the tails 1 - u² is little but the rounding of u²: it must not be fused.
    """
    least = _f32(-1.0 + 2.0**-24)
    for i in range(len(bits)):
        u = _f32(np.int32(bits[i] >> _u32(9))) * _f32(2.0**-22) + least
        uniforms[i] = u
        rests[i] = _f32(1.0) - u * u


@_exact
def _split(words: Any, exponents: Any, mantissas: Any) -> None:
    """Bits of positive numbers as m 2^e, m in [√½, √2): e as float32, and the bits of m."""
    for i in range(len(words)):
        # so that the exponent changes at √½, not at 1
        shifted = np.int32(words[i] - _ROOT)
        exponents[i] = _f32(np.int32(shifted >> np.int32(23)))
        mantissas[i] = np.int32(np.int32(shifted & np.int32(0x007FFFFF)) + _ROOT)


@_fused
def _normals(uniforms: Any, exponents: Any, mantissas: Any) -> None:
    """√2 erf⁻¹(u) in the place of u; the others are of 1 - u², see `_split`.

    The logarithm is Cephes' (Moshier), a polynomial in m - 1.
    """
    for i in range(len(uniforms)):
        x = mantissas[i] - _f32(1.0)
        z = x * x
        p = _f32(7.0376836292e-2)
        p = p * x + _f32(-1.1514610310e-1)
        p = p * x + _f32(1.1676998740e-1)
        p = p * x + _f32(-1.2420140846e-1)
        p = p * x + _f32(1.4249322787e-1)
        p = p * x + _f32(-1.6668057665e-1)
        p = p * x + _f32(2.0000714765e-1)
        p = p * x + _f32(-2.4999993993e-1)
        p = p * x + _f32(3.3333331174e-1)
        p = p * x * z + exponents[i] * _f32(-2.12194440e-4) - _f32(0.5) * z
        w = -(x + p + exponents[i] * _f32(0.693359375))
        near = w < _f32(5.0)
        v = w - _f32(2.5) if near else np.sqrt(w) - _f32(3.0)
        q = _f32(2.81022636e-08) if near else _f32(-0.000200214257)
        q = q * v + (_f32(3.43273939e-07) if near else _f32(0.000100950558))
        q = q * v + (_f32(-3.5233877e-06) if near else _f32(0.00134934322))
        q = q * v + (_f32(-4.39150654e-06) if near else _f32(-0.00367342844))
        q = q * v + (_f32(0.00021858087) if near else _f32(0.00573950773))
        q = q * v + (_f32(-0.00125372503) if near else _f32(-0.0076224613))
        q = q * v + (_f32(-0.00417768164) if near else _f32(0.00943887047))
        q = q * v + (_f32(0.246640727) if near else _f32(1.00167406))
        q = q * v + (_f32(1.50140941) if near else _f32(2.83297682))
        uniforms[i] = _f32(1.41421356) * (q * uniforms[i])


@_fused
def _perturb(out: Any, noise: Any, sign: Any, centre: Any, scale: Any, bound: Any) -> None:
    """`centre` plus noise in `scale`, clipped."""
    for i in range(len(out)):
        theta = centre[i] + scale[i] * (sign * noise[i])
        theta = bound if theta > bound else theta  # NaN stays
        out[i] = -bound if theta < -bound else theta


@_fused
def _resize(theta: Any, centre: Any, size: Any) -> None:
    for i in range(len(theta)):
        theta[i] = centre[i] + size * (theta[i] - centre[i])


@_fused
def _to_raw(theta: Any, mean: Any, deviation: Any, width: int) -> None:
    """The first layer, of standardised observations, as one of raw ones; see `scaling.raw`."""
    bias = theta[len(mean) * width : (len(mean) + 1) * width]
    shift = np.zeros(width, np.float32)
    for i in range(len(mean)):
        kernel = theta[i * width : (i + 1) * width]
        for j in range(width):
            kernel[j] /= deviation[i]
            shift[j] += mean[i] * kernel[j]
    for j in range(width):
        bias[j] -= shift[j]


@_exact
def _clip(theta: Any, bound: Any) -> None:
    for i in range(len(theta)):
        x = bound if theta[i] > bound else theta[i]
        theta[i] = -bound if x < -bound else x


@_kept
def _fill(out: Any, jobs: Any, around: Any, change: Any, gaussian: bool, bound: Any) -> None:
    """Rows of a population; a thread's part of `draw_rows`."""
    bits = np.empty(_BLOCK, np.uint32)
    noise, rests = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32)
    exponents, mantissas = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.int32)
    for row in range(len(out)):
        theta, centre = out[row], around.centres[jobs.centres[row]]
        scale = around.scales[jobs.centres[row]]
        first, second = _threefry(jobs.keys[row, 0], jobs.keys[row, 1], _u32(0), jobs.numbers[row])
        for start in range(0, len(theta), _BLOCK):
            _bits(first, second, start, bits)
            if gaussian:
                _open_uniforms(bits, noise, rests)
                # bits as numbers under other names: LLVM asks whether arrays overlap
                _split(rests.view(np.int32), exponents, mantissas)
                _normals(noise, exponents, mantissas.view(np.float32))
            else:
                _uniforms(bits, noise)
            part = slice(start, min(start + _BLOCK, len(theta)))
            _perturb(out[row, part], noise, jobs.signs[row], centre[part], scale[part], bound)
        if change.rescaled:
            _resize(theta, centre, change.size)
            if change.width:
                _to_raw(theta, change.mean, change.deviation, change.width)
            _clip(theta, bound)
