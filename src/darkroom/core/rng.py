"""Random generators whose numbers do not depend on the device: a seed gives the same picture everywhere.

All of them draw on the CPU, in float32. Checked against stable-diffusion.cpp's rng headers.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from darkroom.api.names import RngType

Uint64Array = NDArray[np.uint64]
FloatArray = NDArray[np.float32]


class Rng(Protocol):
    """A stream of standard normal numbers."""

    def seed(self, seed: int) -> None:
        """Start over with `seed`, any integer; generators use its low 64 or 32 bits."""

    def randn(self, shape: tuple[int, ...]) -> Tensor:
        """The next numbers of N(0, 1), float32 on the CPU. What they are depends on how calls are split."""


def make_rng(kind: RngType, seed: int = 0) -> Rng:
    """A generator of the named kind, seeded."""
    kinds: dict[RngType, type[Rng]] = {
        RngType.CUDA: PhiloxRng,
        RngType.CPU: TorchRng,
        RngType.STD_DEFAULT: MinstdRng,
    }
    rng = kinds[kind]()
    rng.seed(seed)
    return rng


class PhiloxRng:
    """torch's `randn` on a CUDA device, as A1111's "GPU" noise source imitates it.

    Philox4x32-10 (Salmon et al. 2011, doi:10.1145/2063384.2063405) with the seed as key. The counter of
    element i in call number k is (k, 0, i, 0). The first two output words make one normal number.
    """

    def __init__(self) -> None:
        self.seed(0)

    def seed(self, seed: int) -> None:
        """Key the generator with the low 64 bits of `seed` and count calls from 0."""
        self._key = (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF)
        self._calls = 0

    def randn(self, shape: tuple[int, ...]) -> Tensor:
        """One call: `math.prod(shape)` normal numbers."""
        n = math.prod(shape)
        counter = np.zeros((4, n), dtype=np.uint64)
        counter[0] = self._calls & 0xFFFFFFFF
        counter[2] = np.arange(n, dtype=np.uint64)
        self._calls += 1
        words = philox4x32(counter, self._key)
        return torch.from_numpy(_box_muller(words[0], words[1])).reshape(shape)


_PHILOX_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_PHILOX_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW32 = np.uint64(0xFFFFFFFF)
_SHIFT32 = np.uint64(32)


def philox4x32(counter: Uint64Array, key: tuple[int, int], rounds: int = 10) -> Uint64Array:
    """Philox4x32 of counters (4, n), each entry below 2**32; returns words of the same shape and range."""
    c0, c1, c2, c3 = counter
    for i in range(rounds):
        k0, k1 = (np.uint64(k + i * weyl & 0xFFFFFFFF) for k, weyl in zip(key, _PHILOX_WEYL, strict=True))
        product0, product1 = c0 * _PHILOX_MULTIPLIERS[0], c2 * _PHILOX_MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            product1 >> _SHIFT32 ^ c1 ^ k0,
            product1 & _LOW32,
            product0 >> _SHIFT32 ^ c3 ^ k1,
            product0 & _LOW32,
        )
    return np.stack([c0, c1, c2, c3])


def _box_muller(x: Uint64Array, y: Uint64Array) -> FloatArray:
    """The sine half of Box-Muller, with curand's float32 constants: 2**-32 and 2 pi 2**-32."""
    to_unit = np.float32(2.3283064e-10)
    to_angle = to_unit * np.float32(6.2831855)
    u = x.astype(np.float32) * to_unit + to_unit / np.float32(2)
    angle = y.astype(np.float32) * to_angle + to_angle / np.float32(2)
    radius = np.sqrt(-2.0 * np.log(u, dtype=np.float64)).astype(np.float32)
    normal: FloatArray = (radius * np.sin(angle, dtype=np.float64)).astype(np.float32)
    return normal


class TorchRng:
    """torch's own generator on the CPU (MT19937): what ComfyUI and diffusers' CPU generators draw."""

    def __init__(self) -> None:
        self._generator = torch.Generator("cpu")

    def seed(self, seed: int) -> None:
        """Seed with the low 32 bits, all that MT19937 takes."""
        self._generator.manual_seed(seed & 0xFFFFFFFF)

    def randn(self, shape: tuple[int, ...]) -> Tensor:
        """The next numbers of `torch.randn`."""
        return torch.randn(shape, generator=self._generator, dtype=torch.float32)


_MINSTD_MODULUS = 2**31 - 1
_MINSTD_MULTIPLIER = 16807
_MINSTD_BLOCK = 1 << 15


class MinstdRng:
    """libstdc++'s `default_random_engine` (minstd_rand0) with a new `normal_distribution<float>` each call.

    The distribution is Marsaglia's polar method: pairs of uniforms are drawn until one falls into the unit
    circle, its y gives the first number and its x the second. An odd call drops its last x.
    """

    def __init__(self) -> None:
        self.seed(0)

    def seed(self, seed: int) -> None:
        """Seed with the low 32 bits; a multiple of 2**31 - 1 counts as 1."""
        self._state = (seed & 0xFFFFFFFF) % _MINSTD_MODULUS or 1

    def randn(self, shape: tuple[int, ...]) -> Tensor:
        """One call: `math.prod(shape)` normal numbers."""
        n = math.prod(shape)
        pairs_needed = (n + 1) // 2
        accepted: list[FloatArray] = []
        while pairs_needed > 0:
            states = self._peek(pairs_needed)
            normals, used = _polar(states, pairs_needed)
            self._state = int(states[2 * used - 1])
            accepted.append(normals)
            pairs_needed -= len(normals)
        flat = np.concatenate(accepted).reshape(-1)[:n] if accepted else np.empty(0, dtype=np.float32)
        return torch.from_numpy(flat).reshape(shape)

    def _peek(self, pairs: int) -> Uint64Array:
        """The coming states, an even number and about as many as `pairs` accepted pairs take (4/pi each)."""
        powers = _minstd_powers()[: min(_MINSTD_BLOCK, 2 * (pairs + pairs // 3 + 8))]
        return np.uint64(self._state) * powers % np.uint64(_MINSTD_MODULUS)


@lru_cache(maxsize=1)
def _minstd_powers() -> Uint64Array:
    """multiplier**k modulo 2**31 - 1 for k from 1: the k-th next state is the present one times this."""
    powers = np.empty(_MINSTD_BLOCK, dtype=np.uint64)
    powers[0] = _MINSTD_MULTIPLIER
    filled = 1
    while filled < _MINSTD_BLOCK:
        powers[filled : 2 * filled] = powers[:filled] * powers[filled - 1] % np.uint64(_MINSTD_MODULUS)
        filled *= 2
    return powers


def _polar(states: Uint64Array, wanted: int) -> tuple[FloatArray, int]:
    """Up to `wanted` accepted pairs (n, 2) of normal numbers, and how many pairs of states that used up."""
    # generate_canonical<float, 24>: (state - 1) / range, where the range rounds to 2**31 as a float.
    uniform = (states - np.uint64(1)).astype(np.float32) / np.float32(2**31)
    uniform = np.minimum(uniform, np.nextafter(np.float32(1), np.float32(0)))
    x, y = (np.float32(2) * uniform - np.float32(1)).reshape(-1, 2).T
    square = x * x + y * y
    hits = np.flatnonzero((square <= 1) & (square != 0))[:wanted]
    used = int(hits[-1]) + 1 if len(hits) == wanted else len(x)
    x, y, square = x[hits], y[hits], square[hits]
    log = np.log(square, dtype=np.float64).astype(np.float32)
    scale = np.sqrt(np.float32(-2) * log / square)
    return np.stack([y * scale, x * scale], axis=1), used
