"""ER-SDE-Solver-3 (Cui et al. 2023, arXiv:2309.06169): extended reverse-time SDE, data prediction."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from torch import Tensor

from darkroom.sampling.noise import NoiseSource
from darkroom.sampling.steps import Denoise, SampleOptions, Step, pairs

INTEGRATION_POINTS = 200


def er_sde(
    denoise: Denoise, x: Tensor, sigmas: Tensor, noise: NoiseSource, options: SampleOptions
) -> Iterator[Step]:
    """Third order from the third step on; eta only switches the noise, as in stable-diffusion.cpp."""
    steps = pairs(sigmas)
    lambdas = [_lambda(level, options.is_flow) for level in sigmas.tolist()]
    old_x0: Tensor | None = None
    old_slope: Tensor | None = None
    for i, (sigma, sigma_next) in enumerate(steps, 1):
        if options.is_flow and sigma > 1:
            sigma = _inside_flow(sigma)
        x0 = denoise(x, sigma).x0
        if sigma_next == 0:
            x = x0
        else:
            here, there = lambdas[i - 1], lambdas[i]
            alpha = 1 - _inside_flow(sigma_next) if options.is_flow else 1.0
            alpha_ratio = alpha / (1 - _inside_flow(sigma)) if options.is_flow else 1.0
            ratio = _noise_scaler(there) / _noise_scaler(here)
            x = x * (alpha_ratio * ratio) + x0 * (alpha * (1 - ratio))
            if old_x0 is not None and abs(here - lambdas[i - 2]) > 1e-12:
                second, third = _taylor_weights(here, there)
                slope = (x0 - old_x0) / (here - lambdas[i - 2])
                x = x + slope * (alpha * second)
                if old_slope is not None:
                    curve = (slope - old_slope) / (0.5 * (here - lambdas[i - 3]))
                    x = x + curve * (alpha * third)
                old_slope = slope
            variance = there**2 - (here * ratio) ** 2
            if options.eta > 0 and variance > 0:
                x = x + noise.next(x) * (alpha * math.sqrt(variance))
        old_x0 = x0
        yield Step(i, len(steps), sigma_next, x, x0)


def _taylor_weights(here: float, there: float) -> tuple[float, float]:
    """Weights of the first and second derivative of x0 by lambda, integrals taken as left Riemann sums."""
    width = (here - there) / INTEGRATION_POINTS
    points = there + width * np.arange(INTEGRATION_POINTS)
    inverse = 1 / (points * (np.exp(points**0.3) + 10))
    change, scaled = there - here, _noise_scaler(there)
    second = change + float(np.sum(inverse)) * width * scaled
    third = 0.5 * change**2 + float(np.sum((points - here) * inverse)) * width * scaled
    return second, third


def _noise_scaler(level: float) -> float:
    return level * (math.exp(level**0.3) + 10)


def _lambda(sigma: float, is_flow: bool) -> float:
    """Noise over signal."""
    if is_flow:
        sigma = _inside_flow(sigma)
        return sigma / (1 - sigma)
    return max(sigma, 1e-6)


def _inside_flow(sigma: float) -> float:
    """Away from the ends, where noise over signal is 0 or infinite."""
    return min(max(sigma, 1e-6), 1 - 1e-4)
