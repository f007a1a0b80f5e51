"""The loops of `host_noise`: random words, numbers and policies of them, as compiled code.

The width of numbers is written out: numba's sums and shifts of 32-bit integers are of 64 bits,
which LLVM takes back only where the result is cut off again. Every loop reads and writes arrays of
its own, since LLVM asks at run time whether they overlap, and has few things in it, so that it
becomes SIMD code. They hold neither Python nor its lock.
"""

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
from jaxtyping import Float, Int, UInt32
from numba import njit

from epvf.runtime.kept import kept

_Function = TypeVar("_Function", bound=Callable[..., Any])

_BLOCK = 1024
_u32, _f32 = np.uint32, np.float32
_ROOT = np.int32(0x3F3504F3)  # bits of √½


class Jobs(NamedTuple):
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


class Around(NamedTuple):
    """Centres `[C, P]` of all populations, and how far noise of size 1 goes."""

    centres: Float[np.ndarray, "C P"]
    scales: Float[np.ndarray, "C P"]


class Change(NamedTuple):
    """What becomes of policies around each centre after their noise; see `Rescaled`.

    Attributes:
        rescaled: whether anything does.
        sizes: `[C]` of the noise.
        means, deviations: `[C, observation]`, or `[C, 0]` in raw coordinates.
        width: outputs of the first layer.
    """

    rescaled: bool
    sizes: Float[np.ndarray, "C"]
    means: Float[np.ndarray, "C observation"]
    deviations: Float[np.ndarray, "C observation"]
    width: int


class Source(NamedTuple):
    """Policies `[k + E, P]` of which the first k are drawn when they are asked for.

    Attributes:
        jobs: of those that are drawn.
        around, change, gaussian, bound: how they are.
        rest: `[E, P]` those that are there already.
    """

    jobs: Jobs
    around: Around
    change: Change
    gaussian: bool
    bound: np.float32
    rest: Float[np.ndarray, "E P"]

    @property
    def num(self) -> int:
        """Policies in all."""
        return len(self.jobs.numbers) + len(self.rest)


class Blocks(NamedTuple):
    """Room for the numbers of a block, of what each step of drawing makes of them."""

    bits: UInt32[np.ndarray, "block"]
    uniforms: Float[np.ndarray, "block"]
    rests: Float[np.ndarray, "block"]
    exponents: Float[np.ndarray, "block"]
    mantissas: Int[np.ndarray, "block"]
    noise: Float[np.ndarray, "block"]


def version() -> str:
    """A digest of this file: numba does not see that it changed where others call its loops."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]


_compiler: Any = partial(njit, nogil=True, error_model="numpy")


def _exact(function: _Function) -> _Function:
    """Compiled, every operation rounded on its own."""
    return cast(_Function, _compiler(function))


def _fused(function: _Function) -> _Function:
    """Compiled as by XLA: products are fused into sums where the processor can."""
    return cast(_Function, _compiler(fastmath={"contract"})(function))


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
def open_uniforms(bits: Any, uniforms: Any, rests: Any) -> None:
    """Words as numbers u in (-1, 1), and 1 - u².

    In the tails 1 - u² is little but the rounding of u²: it must not be fused.
    """
    least = _f32(-1.0 + 2.0**-24)
    for i in range(len(bits)):
        u = _f32(np.int32(bits[i] >> _u32(9))) * _f32(2.0**-22) + least
        uniforms[i] = u
        rests[i] = _f32(1.0) - u * u


@_exact
def split(words: Any, exponents: Any, mantissas: Any) -> None:
    """Bits of positive numbers as m 2^e, m in [√½, √2): e as float32, and the bits of m."""
    for i in range(len(words)):
        # so that the exponent changes at √½, not at 1
        shifted = np.int32(words[i] - _ROOT)
        exponents[i] = _f32(np.int32(shifted >> np.int32(23)))
        mantissas[i] = np.int32(np.int32(shifted & np.int32(0x007FFFFF)) + _ROOT)


@_fused
def normals(uniforms: Any, exponents: Any, mantissas: Any, normals: Any) -> None:
    """√2 erf⁻¹(u); exponents and mantissas are of 1 - u², see `_split`.

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
        normals[i] = _f32(1.41421356) * (q * uniforms[i])


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


def blocks() -> Blocks:
    """Room for one thread to draw in."""
    kinds = (np.uint32, np.float32, np.float32, np.float32, np.int32, np.float32)
    return Blocks(*(np.empty(_BLOCK, kind) for kind in kinds))


@partial(_compiler, inline="never")
def draw(theta: Any, row: int, source: Any, blocks: Any) -> None:
    """The policy of a row, which must be one of those that are drawn, into `theta [P]`."""
    jobs, change, noise = source.jobs, source.change, blocks.noise
    number = jobs.centres[row]
    centre, scale = source.around.centres[number], source.around.scales[number]
    first, second = _threefry(jobs.keys[row, 0], jobs.keys[row, 1], _u32(0), jobs.numbers[row])
    for start in range(0, len(theta), _BLOCK):
        _bits(first, second, start, blocks.bits)
        if source.gaussian:
            open_uniforms(blocks.bits, blocks.uniforms, blocks.rests)
            split(blocks.rests.view(np.int32), blocks.exponents, blocks.mantissas)
            normals(blocks.uniforms, blocks.exponents, blocks.mantissas.view(np.float32), noise)
        else:
            _uniforms(blocks.bits, noise)
        part = slice(start, min(start + _BLOCK, len(theta)))
        _perturb(theta[part], noise, jobs.signs[row], centre[part], scale[part], source.bound)
    if change.rescaled:
        _resize(theta, centre, change.sizes[number])
        if change.width:
            _to_raw(theta, change.means[number], change.deviations[number], change.width)
        _clip(theta, source.bound)


@kept
def fill(out: Any, first: int, source: Any, blocks: Any) -> None:
    """Rows `first ...` of those that are drawn; a thread's part of `draw_rows`."""
    for k in range(len(out)):
        draw(out[k], first + k, source, blocks)
