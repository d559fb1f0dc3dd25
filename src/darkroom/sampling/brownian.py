"""Brownian motion over noise levels that can be asked in any order: the same seed draws the same path.

stable-diffusion.cpp's tree, not torchsde's. The picture changes little with the number of steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from darkroom.core.rng import MinstdRng
from darkroom.sampling.noise import to_device_of

_MASK64 = 2**64 - 1
_DEPTH = 24


class BrownianNoise:
    """Unit-variance noise of intervals between sigma_min and sigma_max, one path for each image.

    shape: (c, h, w) of one image.
    """

    def __init__(
        self, seeds: Sequence[int], shape: tuple[int, ...], sigma_min: float, sigma_max: float
    ) -> None:
        self._paths = [BrownianPath(seed, shape, sigma_min, sigma_max) for seed in seeds]

    def between(self, sigma: float, sigma_next: float, like: Tensor) -> Tensor:
        """(W(sigma) - W(sigma_next)) / sqrt(sigma - sigma_next), shaped and placed like x (b, c, h, w)."""
        span = max(sigma - sigma_next, 1e-12)
        steps = torch.stack([path.at(sigma) - path.at(sigma_next) for path in self._paths])
        return to_device_of(like, steps / math.sqrt(span))


class BrownianPath:
    """W(t) on [start, end] with W(start) = 0, by bisection: each midpoint's bridge has a seed of its own."""

    def __init__(self, seed: int, shape: tuple[int, ...], start: float, end: float) -> None:
        self._shape = shape
        self._start, self._end = start, end
        self._root = _mix(seed, 0x9E3779B97F4A7C15)
        self._at_end = self._normal(_mix(seed, 0xBF58476D1CE4E5B9)) * math.sqrt(end - start)
        self._known: dict[float, Tensor] = {}

    def at(self, t: float) -> Tensor:
        """W(t), float32 on the CPU; t outside the interval counts as its end."""
        t = min(max(t, self._start), self._end)
        if t not in self._known:
            self._known[t] = self._bridge(t)
        return self._known[t]

    def _bridge(self, t: float) -> Tensor:
        low, high, seed = self._start, self._end, self._root
        at_low, at_high = torch.zeros(self._shape), self._at_end
        if t == low:
            return at_low
        if t == high:
            return at_high
        for _ in range(_DEPTH):
            if high - low < 1e-9:
                break
            middle = 0.5 * (low + high)
            deviation = math.sqrt((high - middle) * (middle - low) / (high - low))
            at_middle = 0.5 * (at_low + at_high) + deviation * self._normal(seed)
            if t == middle:
                return at_middle
            if t < middle:
                high, at_high, seed = middle, at_middle, _mix(seed, 1)
            else:
                low, at_low, seed = middle, at_middle, _mix(seed, 2)
        return torch.lerp(at_low, at_high, (t - low) / (high - low))

    def _normal(self, seed: int) -> Tensor:
        rng = MinstdRng()
        rng.seed(seed)
        return rng.randn(self._shape)


def _mix(value: int, salt: int) -> int:
    """splitmix64's finaliser of value + salt (Steele et al. 2014, doi:10.1145/2660193.2660195)."""
    z = value + salt & _MASK64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _MASK64
    z = (z ^ z >> 27) * 0x94D049BB133111EB & _MASK64
    return z ^ z >> 31
