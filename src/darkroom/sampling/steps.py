"""What samplers have in common: the contract, and the split of a step into a fall and fresh noise.

A sampler is a generator of steps over `denoise(x, sigma)`, all it sees of a model. Progress, preview and
cancel belong to whoever iterates it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from darkroom.sampling.extra_args import ExtraArgs
from darkroom.sampling.noise import NoiseSource


@dataclass(frozen=True)
class Denoised:
    """A model's answer: x0 with guidance (b, c, h, w), and without it where it was computed."""

    x0: Tensor
    uncond: Tensor | None = None


Denoise = Callable[[Tensor, float], Denoised]
"""(x (b, c, h, w), sigma > 0) -> the clean latent that x seems to come from."""


@dataclass(frozen=True)
class Step:
    """A step that was just taken.

    index: from 1 to steps. sigma: the noise level it ended at. x0: the clean latent it saw, for previews.
    x: the state after it; the last step's x is the result.
    """

    index: int
    steps: int
    sigma: float
    x: Tensor
    x0: Tensor


@dataclass(frozen=True)
class SampleOptions:
    """Choices beyond the schedule.

    eta: share of fresh noise, see `default_eta`. is_flow: the prediction's.
    """

    eta: float = 0.0
    is_flow: bool = False
    extra: ExtraArgs = field(default_factory=ExtraArgs)


Sampler = Callable[[Denoise, Tensor, Tensor, NoiseSource, SampleOptions], Iterator[Step]]
"""(denoise, x (b, c, h, w) at sigmas[0], sigmas (steps + 1,) on the CPU, noise, options) -> steps."""


class Ancestral(NamedTuple):
    """A step down to `down`, then x * `scale` + noise * `up`, which together end at the step's own level."""

    down: float
    up: float
    scale: float


def ancestral(sigma: float, sigma_next: float, options: SampleOptions) -> Ancestral:
    """The split for the prediction at hand; eta 0 adds no noise."""
    split = _ancestral_flow if options.is_flow else ancestral_exploding
    return split(sigma, sigma_next, options.eta)


def ancestral_exploding(sigma: float, sigma_next: float, eta: float) -> Ancestral:
    """k-diffusion's get_ancestral_step."""
    variance = sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2
    up = min(sigma_next, max(eta, 0.0) * math.sqrt(max(variance, 0.0)))
    return Ancestral(math.sqrt(max(sigma_next**2 - up**2, 0.0)), up, 1.0)


def _ancestral_flow(sigma: float, sigma_next: float, eta: float) -> Ancestral:
    """The same on a straight path (ComfyUI's rectified-flow rule); eta above 1 counts as 1."""
    if eta <= 0 or sigma_next <= 0:
        return Ancestral(sigma_next, 0.0, 1.0)
    down = sigma_next * (1 + (sigma_next / sigma - 1) * min(eta, 1.0))
    if down >= 1:
        return Ancestral(sigma_next, 0.0, 1.0)
    scale = (1 - sigma_next) / (1 - down)
    share = min(max(down / sigma_next * scale, -1.0), 1.0)
    return Ancestral(down, sigma_next * math.sqrt(1 - share**2), scale)


def renoise(x: Tensor, split: Ancestral, noise: NoiseSource) -> Tensor:
    """The second half of an ancestral step; draws only where noise is to be added."""
    if split.up <= 0:
        return x
    return x * split.scale + noise.next(x) * split.up


def blend(x: Tensor, x0: Tensor, keep: float) -> Tensor:
    """x * keep + x0 * (1 - keep): the exact path when x0 stays as it is."""
    return torch.lerp(x0, x, keep)


def pairs(sigmas: Tensor) -> list[tuple[float, float]]:
    """(sigma, sigma_next) of each step, as floats so that no step waits for a device."""
    levels = sigmas.tolist()
    return list(itertools.pairwise(levels))
