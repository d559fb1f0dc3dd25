"""Samplers that draw no noise: solvers of the probability-flow ODE dx/dsigma = (x - x0) / sigma.

Formulas were checked against k-diffusion's sampling.py and stable-diffusion.cpp's denoiser.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from darkroom.sampling.extra_args import ExtraArgs
from darkroom.sampling.noise import NoiseSource
from darkroom.sampling.steps import Denoise, SampleOptions, Step, blend, pairs


def euler(
    denoise: Denoise, x: Tensor, sigmas: Tensor, noise: NoiseSource, options: SampleOptions
) -> Iterator[Step]:
    """Algorithm 2 of Karras et al. 2022 (arXiv:2206.00364), first order and without churn."""
    steps = pairs(sigmas)
    for i, (sigma, sigma_next) in enumerate(steps, 1):
        x0 = denoise(x, sigma).x0
        x = blend(x, x0, sigma_next / sigma)
        yield Step(i, len(steps), sigma_next, x, x0)


def heun(
    denoise: Denoise, x: Tensor, sigmas: Tensor, noise: NoiseSource, options: SampleOptions
) -> Iterator[Step]:
    """The same, second order: two evaluations a step, the last one a plain Euler step."""
    steps = pairs(sigmas)
    for i, (sigma, sigma_next) in enumerate(steps, 1):
        x0 = denoise(x, sigma).x0
        predicted = blend(x, x0, sigma_next / sigma)
        if sigma_next > 0:
            slope = (x - x0) / sigma
            corrected = (predicted - denoise(predicted, sigma_next).x0) / sigma_next
            x = x + (slope + corrected) * (0.5 * (sigma_next - sigma))
        else:
            x = predicted
        yield Step(i, len(steps), sigma_next, x, x0)


def dpm2(
    denoise: Denoise, x: Tensor, sigmas: Tensor, noise: NoiseSource, options: SampleOptions
) -> Iterator[Step]:
    """DPM-Solver-2 (Lu et al. 2022, arXiv:2206.00927): the slope at the midpoint in log sigma."""
    steps = pairs(sigmas)
    for i, (sigma, sigma_next) in enumerate(steps, 1):
        x0 = denoise(x, sigma).x0
        if sigma_next > 0:
            middle = math.sqrt(sigma * sigma_next)
            at_middle = blend(x, x0, middle / sigma)
            x = x + (at_middle - denoise(at_middle, middle).x0) * ((sigma_next - sigma) / middle)
        else:
            x = x0
        yield Step(i, len(steps), sigma_next, x, x0)


def dpmpp_2m(
    denoise: Denoise, x: Tensor, sigmas: Tensor, noise: NoiseSource, options: SampleOptions
) -> Iterator[Step]:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095)."""
    steps = pairs(sigmas)
    old_x0, h_last = x, 0.0
    for i, (sigma, sigma_next) in enumerate(steps, 1):
        x0 = denoise(x, sigma).x0
        target = x0
        h = math.log(sigma / sigma_next) if sigma_next > 0 else math.inf
        if h_last > 0 and 0 < h < math.inf:
            target = x0 + (x0 - old_x0) * (h / (2 * h_last))
        x = blend(x, target, sigma_next / sigma)
        old_x0, h_last = x0, h
        yield Step(i, len(steps), sigma_next, x, x0)


def dpmpp_2m_v2(
    denoise: Denoise, x: Tensor, sigmas: Tensor, noise: NoiseSource, options: SampleOptions
) -> Iterator[Step]:
    """stable-diffusion.cpp's modified DPM-Solver++(2M): the mean of two step widths drives the correction."""
    steps = pairs(sigmas)
    old_x0, h_last = x, 0.0
    for i, (sigma, sigma_next) in enumerate(steps, 1):
        x0 = denoise(x, sigma).x0
        h = math.log(sigma / sigma_next) if sigma_next > 0 else math.inf
        if h_last > 0 and 0 < h < math.inf:
            narrow, wide = sorted((h_last, h))
            target = x0 + (x0 - old_x0) * (narrow / (2 * wide))
            x = x * (sigma_next / sigma) - target * math.expm1(-(narrow + wide) / 2)
        else:
            x = blend(x, x0, sigma_next / sigma)
        old_x0, h_last = x0, h
        yield Step(i, len(steps), sigma_next, x, x0)


ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
"""Weights of the slopes by order, the newest slope first."""


def ipndm(
    denoise: Denoise, x: Tensor, sigmas: Tensor, noise: NoiseSource, options: SampleOptions
) -> Iterator[Step]:
    """iPNDM (Zhang and Chen 2022, arXiv:2204.13902): Adams-Bashforth up to order 4, as if steps were even."""
    steps = pairs(sigmas)
    slopes: list[Tensor] = []
    for i, (sigma, sigma_next) in enumerate(steps, 1):
        x0 = denoise(x, sigma).x0
        slopes = [(x - x0) / sigma, *slopes[:3]]
        x = x + _weighted(slopes, ADAMS_BASHFORTH[len(slopes) - 1]) * (sigma_next - sigma)
        yield Step(i, len(steps), sigma_next, x, x0)


def ipndm_v(
    denoise: Denoise, x: Tensor, sigmas: Tensor, noise: NoiseSource, options: SampleOptions
) -> Iterator[Step]:
    """iPNDM whose second-order step, the second of all, knows the true step widths."""
    steps = pairs(sigmas)
    slopes: list[Tensor] = []
    width_last = 0.0
    for i, (sigma, sigma_next) in enumerate(steps, 1):
        x0 = denoise(x, sigma).x0
        slopes = [(x - x0) / sigma, *slopes[:3]]
        width = sigma_next - sigma
        weights: Sequence[float] = ADAMS_BASHFORTH[len(slopes) - 1]
        if len(slopes) == 2 and width_last != 0:
            ratio = width / width_last
            weights = (1 + ratio / 2, -ratio / 2)
        x = x + _weighted(slopes, weights) * width
        width_last = width
        yield Step(i, len(steps), sigma_next, x, x0)


def lms(
    denoise: Denoise, x: Tensor, sigmas: Tensor, noise: NoiseSource, options: SampleOptions
) -> Iterator[Step]:
    """k-diffusion's linear multistep method with stable-diffusion.cpp's history shift.

    Extra args: lms_max_order (4), lms_divisions (1000) of the numeric integral, lms_shift (1): older slopes
    are taken that many steps later than their weights were made for; 0 is k-diffusion's method.
    """
    steps = pairs(sigmas)
    max_order, shift, divisions = _lms_options(options.extra)
    max_order = min(max_order, len(steps))
    levels = sigmas.tolist()
    slopes: list[Tensor] = []
    for i, (sigma, sigma_next) in enumerate(steps, 1):
        x0 = denoise(x, sigma).x0
        slope = (x - x0) / sigma
        nodes = _distinct_nodes(levels[:i], max_order)
        weights = _lagrange_integrals(nodes, sigma, sigma_next, divisions)
        taken = [slope, *(slopes[max(0, k - 1 - shift)] for k in range(1, len(nodes)))]
        x = x + _weighted(taken, weights)
        slopes = [slope, *slopes][: max(max_order - 1, 1)]
        yield Step(i, len(steps), sigma_next, x, x0)


def euler_cfg_pp(
    denoise: Denoise, x: Tensor, sigmas: Tensor, noise: NoiseSource, options: SampleOptions
) -> Iterator[Step]:
    """CFG++ (Chung et al. 2024, arXiv:2406.08070): noise is put back along the unconditional prediction."""
    steps = pairs(sigmas)
    for i, (sigma, sigma_next) in enumerate(steps, 1):
        denoised = denoise(x, sigma)
        uncond = denoised.x0 if denoised.uncond is None else denoised.uncond
        x = denoised.x0 + (x - uncond) * (sigma_next / sigma)
        yield Step(i, len(steps), sigma_next, x, denoised.x0)


def _weighted(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    total = tensors[0] * weights[0]
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        total = torch.add(total, tensor, alpha=weight)
    return total


def _lms_options(extra: ExtraArgs) -> tuple[int, int, int]:
    return (
        max(1, extra.integer("lms_max_order", 4)),
        max(0, extra.integer("lms_shift", 1)),
        extra.integer("lms_divisions", 1000, valid=lambda divisions: 1 <= divisions <= 10_000_000),
    )


def _distinct_nodes(visited: Sequence[float], max_order: int) -> list[float]:
    """The levels visited last, newest first, as far back as no two are equal."""
    nodes: list[float] = []
    for level in reversed(visited[-max_order:]):
        if level in nodes:
            break
        nodes.append(level)
    return nodes


def _lagrange_integrals(nodes: Sequence[float], start: float, end: float, divisions: int) -> list[float]:
    """The integral from start to end of each Lagrange basis polynomial over `nodes`, by the midpoint rule."""
    width = (end - start) / divisions
    points = start + width * (np.arange(divisions) + 0.5)
    integrals = []
    for node in nodes:
        basis = np.ones(divisions)
        for other in nodes:
            if other != node:
                basis *= (points - other) / (node - other)
        integrals.append(float(basis.sum()) * width)
    return integrals
