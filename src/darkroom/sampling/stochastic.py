"""Samplers that can add fresh noise. `options.eta` is its share; at 0 most of them are ODE solvers again.

Formulas were checked against k-diffusion's sampling.py and stable-diffusion.cpp's denoiser.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from torch import Tensor

from darkroom.sampling.brownian import BrownianNoise
from darkroom.sampling.noise import NoiseSource
from darkroom.sampling.prediction import TRAIN_STEPS, scaled_linear_alphas
from darkroom.sampling.steps import (
    Denoise,
    SampleOptions,
    Step,
    ancestral,
    ancestral_exploding,
    blend,
    pairs,
    renoise,
)


def euler_ancestral(
    denoise: Denoise, x: Tensor, sigmas: Tensor, noise: NoiseSource, options: SampleOptions
) -> Iterator[Step]:
    """k-diffusion's ancestral Euler; with eta 0 by default it is also `ddim_trailing`."""
    steps = pairs(sigmas)
    for i, (sigma, sigma_next) in enumerate(steps, 1):
        x0 = denoise(x, sigma).x0
        split = ancestral(sigma, sigma_next, options)
        x = renoise(blend(x, x0, split.down / sigma), split, noise)
        yield Step(i, len(steps), sigma_next, x, x0)


def dpmpp_2s_ancestral(
    denoise: Denoise, x: Tensor, sigmas: Tensor, noise: NoiseSource, options: SampleOptions
) -> Iterator[Step]:
    """Ancestral DPM-Solver++(2S) (arXiv:2211.01095): a second evaluation at the midpoint in log(SNR)."""
    steps = pairs(sigmas)
    for i, (sigma, sigma_next) in enumerate(steps, 1):
        x0 = denoise(x, sigma).x0
        split = ancestral(sigma, sigma_next, options)
        if split.down == 0:
            x = x0
        else:
            middle = _snr_middle(sigma, split.down) if options.is_flow else math.sqrt(sigma * split.down)
            # A flow starts at sigma 1, whose log(SNR) is infinitely far: the midpoint is the start itself.
            second = x0 if middle == sigma else denoise(blend(x, x0, middle / sigma), middle).x0
            x = blend(x, second, split.down / sigma)
        if sigma_next > 0 and (options.eta > 0 or not options.is_flow):
            x = x * split.scale + noise.next(x) * split.up
        yield Step(i, len(steps), sigma_next, x, x0)


def _snr_middle(sigma: float, down: float) -> float:
    if 1 - sigma < 1e-6:
        return sigma
    return 1 / (math.sqrt((1 - sigma) / sigma * (1 - down) / down) + 1)


def euler_ancestral_cfg_pp(
    denoise: Denoise, x: Tensor, sigmas: Tensor, noise: NoiseSource, options: SampleOptions
) -> Iterator[Step]:
    """CFG++ (arXiv:2406.08070) with ancestral noise, the same for flows."""
    steps = pairs(sigmas)
    for i, (sigma, sigma_next) in enumerate(steps, 1):
        denoised = denoise(x, sigma)
        uncond = denoised.x0 if denoised.uncond is None else denoised.uncond
        split = ancestral_exploding(sigma, sigma_next, options.eta)
        x = denoised.x0 + (x - uncond) * (split.down / sigma)
        if sigma_next > 0:
            x = x + noise.next(x) * split.up
        yield Step(i, len(steps), sigma_next, x, denoised.x0)


def euler_gradient_estimation(
    denoise: Denoise, x: Tensor, sigmas: Tensor, noise: NoiseSource, options: SampleOptions
) -> Iterator[Step]:
    """Euler along a slope extrapolated from the last two (Permenter and Yuan 2023, arXiv:2306.04848).

    Extra args: gamma (2), the weight of the newest slope.
    """
    steps = pairs(sigmas)
    gamma = options.extra.number("gamma", 2.0)
    old_slope: Tensor | None = None
    for i, (sigma, sigma_next) in enumerate(steps, 1):
        x0 = denoise(x, sigma).x0
        if sigma_next == 0:
            x = x0
        else:
            split = ancestral(sigma, sigma_next, options)
            slope = (x - x0) / sigma
            guess = slope if old_slope is None else slope * gamma + old_slope * (1 - gamma)
            x = renoise(x + guess * (split.down - sigma), split, noise)
            old_slope = slope
        yield Step(i, len(steps), sigma_next, x, x0)


def lcm(
    denoise: Denoise, x: Tensor, sigmas: Tensor, noise: NoiseSource, options: SampleOptions
) -> Iterator[Step]:
    """Multistep consistency sampling (Luo et al. 2023, arXiv:2310.04378): each step noises the clean latent.

    Extra args: noise_scale_start, noise_scale_end (1) scale the noise from the first to the last step;
    noise_clip_std (0, off) clips it at that many standard deviations.
    """
    steps = pairs(sigmas)
    scale_start = options.extra.number("noise_scale_start", 1.0)
    scale_end = options.extra.number("noise_scale_end", scale_start)
    clip = options.extra.number("noise_clip_std", 0.0)
    for i, (sigma, sigma_next) in enumerate(steps, 1):
        x = x0 = denoise(x, sigma).x0
        if sigma_next > 0:
            fresh = noise.next(x)
            if clip > 0:
                limit = fresh.flatten(1).std(dim=1, correction=0).mul(clip).view(-1, *[1] * (x.ndim - 1))
                fresh = fresh.clamp(-limit, limit)
            scale = scale_start + (scale_end - scale_start) * ((i - 1) / max(len(steps) - 1, 1))
            x = (x * (1 - sigma_next) if options.is_flow else x) + fresh * (sigma_next * scale)
        yield Step(i, len(steps), sigma_next, x, x0)


def tcd(
    denoise: Denoise, x: Tensor, sigmas: Tensor, noise: NoiseSource, options: SampleOptions
) -> Iterator[Step]:
    """Trajectory consistency distillation (Zheng et al. 2024, arXiv:2402.19159).

    Each step falls to training step (1 - eta) t' and noises up to t'. The table is Stable Diffusion's; its
    first entry is not quite 1, so a last step to 0 keeps 3% of the noise direction.
    """
    steps = pairs(sigmas)
    alphas = scaled_linear_alphas()
    levels = np.sqrt((1 - alphas) / alphas)
    for i, (sigma, sigma_next) in enumerate(steps, 1):
        x0 = denoise(x, sigma).x0
        slope = (x - x0) / sigma
        nearest = _nearest(levels, sigma_next)
        alpha_s = float(alphas[min(max(math.floor((1 - options.eta) * nearest), 0), TRAIN_STEPS - 1)])
        alpha_next = 1 / (sigma_next**2 + 1)
        # In units of the exploding path, where x is divided by the root of its alpha.
        x = x0 * math.sqrt(alpha_s / alpha_next) + slope * math.sqrt((1 - alpha_s) / alpha_next)
        if options.eta > 0 and sigma_next > 0:
            up = math.sqrt(max(1 / alpha_next - 1 / alpha_s, 0.0))
            x = x * math.sqrt(alpha_next / alpha_s) + noise.next(x) * up
        yield Step(i, len(steps), sigma_next, x, x0)


def _nearest(levels: np.ndarray[tuple[int], np.dtype[np.float64]], sigma: float) -> int:
    """The index of the level next to sigma; the lower one of two equally near."""
    return int(np.argmin(np.abs(levels - sigma)))


def res_multistep(
    denoise: Denoise, x: Tensor, sigmas: Tensor, noise: NoiseSource, options: SampleOptions
) -> Iterator[Step]:
    """Second-order exponential multistep integrator (RES, Zhang et al. 2023, arXiv:2308.02157)."""
    steps = pairs(sigmas)
    old_x0, old_down, old_sigma = x, 0.0, 0.0
    for i, (sigma, sigma_next) in enumerate(steps, 1):
        x0 = denoise(x, sigma).x0
        split = ancestral(sigma, sigma_next, options)
        target = x0
        if split.down > 0 and old_down > 0:
            h, back = math.log(sigma / split.down), math.log(old_down / old_sigma)
            if h > 0 and back != 0:
                # The weights of x0 and old_x0 sum to phi1(-h), that of a first-order step.
                share = h * _phi2(-h) / (back * _phi1(-h))
                target = x0 + (old_x0 - x0) * share
        x = renoise(blend(x, target, split.down / sigma), split, noise)
        old_x0, old_down, old_sigma = x0, split.down, sigma
        yield Step(i, len(steps), sigma_next, x, x0)


def res_2s(
    denoise: Denoise, x: Tensor, sigmas: Tensor, noise: NoiseSource, options: SampleOptions
) -> Iterator[Step]:
    """Second-order exponential Runge-Kutta integrator (arXiv:2308.02157) with its node at one half."""
    steps = pairs(sigmas)
    for i, (sigma, sigma_next) in enumerate(steps, 1):
        x0 = denoise(x, sigma).x0
        split = ancestral(sigma, sigma_next, options)
        if split.down == 0:
            x = x0
        else:
            h = math.log(sigma / split.down)
            at_middle = x + (x0 - x) * (0.5 * h * _phi1(-0.5 * h))
            second = denoise(at_middle, math.sqrt(sigma * split.down)).x0
            weight = 2 * _phi2(-h)
            x = x + (x0 - x) * (h * (_phi1(-h) - weight)) + (second - x) * (h * weight)
        x = renoise(x, split, noise)
        yield Step(i, len(steps), sigma_next, x, x0)


def _phi1(t: float) -> float:
    return math.expm1(t) / t if abs(t) > 1e-6 else 1 + t / 2


def _phi2(t: float) -> float:
    return (_phi1(t) - 1) / t if abs(t) > 1e-4 else 0.5 + t / 6


def dpmpp_2m_sde(
    denoise: Denoise, x: Tensor, sigmas: Tensor, noise: NoiseSource, options: SampleOptions
) -> Iterator[Step]:
    """DPM-Solver++(2M) SDE (arXiv:2211.01095), the midpoint form of k-diffusion."""
    return _dpmpp_2m_sde(denoise, x, sigmas, options, lambda sigma, sigma_next, like: noise.next(like))


def dpmpp_2m_sde_brownian(
    denoise: Denoise, x: Tensor, sigmas: Tensor, noise: NoiseSource, options: SampleOptions
) -> Iterator[Step]:
    """The same with noise from a Brownian tree, so that the picture keeps its shape when steps change."""
    levels = [level for level in sigmas.tolist() if level > 0]
    tree = BrownianNoise(noise.next_seeds(), tuple(x.shape[1:]), min(levels), max(levels))
    return _dpmpp_2m_sde(denoise, x, sigmas, options, tree.between)


def _dpmpp_2m_sde(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    options: SampleOptions,
    draw: Callable[[float, float, Tensor], Tensor],
) -> Iterator[Step]:
    steps = pairs(sigmas)
    old_x0, h_last = x, 0.0
    for i, (sigma, sigma_next) in enumerate(steps, 1):
        x0 = denoise(x, sigma).x0
        if sigma_next == 0:
            x = x0
        elif sigma_next < sigma:
            h = math.log(sigma / sigma_next)
            eta_h = options.eta * h
            x = blend(x, x0, math.exp(-h - eta_h))
            if h_last > 0:
                x = x + (x0 - old_x0) * (-0.5 * math.expm1(-h - eta_h) * h / h_last)
            if options.eta > 0:
                x = x + draw(sigma, sigma_next, x) * (sigma_next * math.sqrt(-math.expm1(-2 * eta_h)))
            h_last = h
        old_x0 = x0
        yield Step(i, len(steps), sigma_next, x, x0)
