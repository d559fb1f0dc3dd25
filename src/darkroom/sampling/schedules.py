"""Which noise levels a trajectory visits: n steps visit n + 1 levels, falling from about sigma_max to 0.

All sixteen schedules of stable-diffusion.cpp by its rules; where those give NaN or crash (karras, exponential
and gits at one step, ays for SD 2) the nearest sensible levels stand instead.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from darkroom.api.errors import RequestError
from darkroom.api.names import SampleMethod, Scheduler
from darkroom.sampling.beta_distribution import beta_quantile
from darkroom.sampling.extra_args import ExtraArgs
from darkroom.sampling.prediction import TRAIN_STEPS, EdmV, Prediction, flux_time_shift
from darkroom.sampling.schedule_tables import ALIGN_YOUR_STEPS, GITS

logger = logging.getLogger(__name__)

T_MAX = TRAIN_STEPS - 1


@dataclass(frozen=True)
class ResolutionShift:
    """How the `flux` schedule follows the picture's size: larger pictures stay noisy for longer.

    mu of the time shift (arXiv:2403.03206, section 5.3.2; exp(mu) is its alpha) is the line through base at
    the first of `tokens` and max at the second. terminal: the last level before 0, to which the others are
    stretched; None leaves them.
    """

    base: float
    max: float
    tokens: tuple[int, int]
    terminal: float | None = None


FLUX_SHIFT = ResolutionShift(0.5, 1.15, (256, 4096))
"""Flux.1 dev's, from black-forest-labs' sampling code."""

LTX2_SHIFT = ResolutionShift(0.95, 2.05, (1024, 4096), terminal=0.1)


@dataclass(frozen=True)
class _Ask:
    steps: int
    prediction: Prediction
    tokens: int
    variant: str
    extra: ExtraArgs
    shift: ResolutionShift


def get_sigmas(
    scheduler: Scheduler,
    steps: int,
    prediction: Prediction,
    *,
    tokens: int = 0,
    variant: str = "sd1",
    extra: ExtraArgs | None = None,
    shift: ResolutionShift = FLUX_SHIFT,
) -> Tensor:
    """The levels of a schedule, float32 (steps + 1,) on the CPU, the last one 0.

    tokens: of the picture, which flux, flux2, ltx2 and logit_normal shift by. shift: how flux does.
    variant: sd1, sd2, sdxl or svd; only ays asks.
    `beta` leaves out repeated levels, so it may return fewer than steps + 1.
    Raises RequestError for steps below 1, ays on another model and extra args that give no levels.
    """
    if steps < 1:
        raise RequestError(f"--steps: {steps} is too few; at least 1 is needed")
    ask = _Ask(steps, prediction, tokens, variant, extra or ExtraArgs(), shift)
    try:
        levels = torch.tensor([*_SCHEDULES[scheduler](ask), 0.0], dtype=torch.float32)
    except ArithmeticError:
        levels = torch.zeros(2)
    if not (levels.isfinite().all() and levels[:-1].all()):
        raise RequestError(
            f"--extra-sample-args: they leave {scheduler} without usable noise levels; "
            "values nearer to the defaults work"
        )
    return levels


def default_scheduler(method: SampleMethod, prediction: Prediction, family: Scheduler) -> Scheduler:
    """The schedule of a request that names none: some samplers and the edm_v kind want their own."""
    if isinstance(prediction, EdmV):
        return Scheduler.EXPONENTIAL
    if method in (SampleMethod.LCM, SampleMethod.TCD):
        return Scheduler.LCM
    if method is SampleMethod.DDIM_TRAILING:
        return Scheduler.SIMPLE
    return family


def custom_sigmas(levels: Sequence[float]) -> Tensor:
    """A list of levels given by the user (--sigmas), checked; n levels make n - 1 steps."""
    if len(levels) < 2:
        raise RequestError(f"--sigmas: {len(levels)} value is too few; one step needs two, such as 14.6,0")
    exact = torch.tensor(levels, dtype=torch.float64).float()
    for level, rounded in zip(levels, exact.tolist(), strict=True):
        if not (math.isfinite(rounded) and level >= 0):
            raise RequestError(f"--sigmas: {level} is no noise level; each must be a number from 0 up")
    for i, (level, following) in enumerate(itertools.pairwise(exact.tolist())):
        if level == 0:
            raise RequestError(f"--sigmas: value {i + 1} is 0; only the last one may be")
        if following > level:
            following, level = levels[i + 1], levels[i]
            raise RequestError(f"--sigmas: {following} follows {level}; levels must fall from first to last")
    return exact


def slice_for_strength(sigmas: Tensor, strength: float, prediction: Prediction, extra: ExtraArgs) -> Tensor:
    """The end of a schedule that image-to-image runs: int(steps * strength) + 1 steps, as in A1111.

    strength: in [0, 1]; 1 runs all steps. diffusers runs one step less for the same strength.
    With strength_as_noise_level the run starts at the first level that is at most the strength, taken as the
    share of noise; with force_first_sigma as well it starts at exactly that level.
    """
    steps = len(sigmas) - 1
    if strength >= 1:
        return sigmas
    if not extra.switch("strength_as_noise_level", False):
        # float32, as stable-diffusion.cpp multiplies, so that 100 * 0.29 is 29.
        run = int(np.float32(steps) * np.float32(strength))
        return sigmas[steps - min(run, steps - 1) - 1 :]
    target = prediction.noise_level_to_sigma(strength)
    start = min(sum(level > target for level in sigmas.tolist()), steps - 1)
    sliced = sigmas[start:].clone()
    if np.float32(target) > 0 and extra.switch("force_first_sigma", False):
        sliced[0] = target
    return sliced


def _discrete(ask: _Ask) -> list[float]:
    return [ask.prediction.t_to_sigma(t) for t in _spaced(T_MAX, 0, ask.steps)]


def _karras(ask: _Ask) -> list[float]:
    """Karras et al. 2022 (arXiv:2206.00364), equation 5, with rho 7."""
    rho = 7.0
    low, high = max(ask.prediction.sigma_min, 1e-6) ** (1 / rho), ask.prediction.sigma_max ** (1 / rho)
    return [root**rho for root in _spaced(high, low, ask.steps)]


def _exponential(ask: _Ask) -> list[float]:
    low, high = math.log(ask.prediction.sigma_min), math.log(ask.prediction.sigma_max)
    return [math.exp(log) for log in _spaced(high, low, ask.steps)]


def _ays(ask: _Ask) -> list[float]:
    if ask.variant == "sd2":
        logger.warning("--scheduler: ays was not made for SD 2; the levels of SD 1.5 are used")
    table = ALIGN_YOUR_STEPS.get("sd1" if ask.variant == "sd2" else ask.variant)
    if table is None:
        raise RequestError("--scheduler: ays knows no levels for this model; discrete would work")
    return _log_stretched(table, ask.steps)[:-1]


def _gits(ask: _Ask) -> list[float]:
    if ask.steps == 1:
        return [GITS[0][0]]
    row = GITS[ask.steps - 2] if ask.steps <= 20 else GITS[-1]
    return _log_stretched(row, ask.steps)[:-1]


def _sgm_uniform(ask: _Ask) -> list[float]:
    return [ask.prediction.t_to_sigma(t) for t in _spaced(T_MAX, 0, ask.steps + 1)[:-1]]


def _simple(ask: _Ask) -> list[float]:
    # float32 throughout, so that the truncation falls as in stable-diffusion.cpp.
    stride = np.float32(TRAIN_STEPS) / np.float32(ask.steps)
    return [ask.prediction.t_to_sigma(max(T_MAX - int(np.float32(i) * stride), 0)) for i in range(ask.steps)]


def _smoothstep(ask: _Ask) -> list[float]:
    def t(i: int) -> float:
        u = 1 - i / ask.steps
        return math.floor(u * u * (3 - 2 * u) * T_MAX + 0.5)

    return [ask.prediction.t_to_sigma(t(i)) for i in range(ask.steps)]


def _kl_optimal(ask: _Ask) -> list[float]:
    """Align Your Steps (arXiv:2404.14507), equation 22: evenly spaced angles."""
    low, high = math.atan(max(ask.prediction.sigma_min, 1e-6)), math.atan(ask.prediction.sigma_max)
    return [math.tan(angle) for angle in _spaced(high, low, ask.steps)]


def _lcm(ask: _Ask) -> list[float]:
    """Every k-th of the 50 timesteps that latent consistency models are distilled on (arXiv:2310.04378)."""
    original = 50
    stride = TRAIN_STEPS // original
    return [
        ask.prediction.t_to_sigma((original - i * original // ask.steps) * stride - 1)
        for i in range(ask.steps)
    ]


def _bong_tangent(ask: _Ask) -> list[float]:
    """Two arctangents, from sigma_max to the middle and from there to sigma_min (RES4LYF)."""
    high, low = ask.prediction.sigma_max, ask.prediction.sigma_min
    middle = low + (high - low) * 0.5
    points = ask.steps + 2
    pivot = int(np.float32(points) * np.float32(0.6))
    slope = 0.2 / (points / 40)
    first = _arctangent(pivot, slope, pivot, high, middle)[:-1]
    second = _arctangent(points - pivot, slope, 0, middle, low)
    return (first + second)[: ask.steps]


def _arctangent(points: int, slope: float, pivot: int, start: float, end: float) -> list[float]:
    if points == 1:
        return [start]
    curve = [math.atan(-slope * (i - pivot)) for i in range(points)]
    return [(value - curve[-1]) / (curve[0] - curve[-1]) * (start - end) + end for value in curve]


def _ltx2(ask: _Ask) -> list[float]:
    return _shifted(ask, LTX2_SHIFT, ask.tokens or 4096)


def _logit_normal(ask: _Ask) -> list[float]:
    """Quantiles of a logit-normal distribution (Ideogram 4), wider for larger pictures."""
    mean = ask.extra.number("mu", 0.0)
    deviation = ask.extra.number("std", 1.75)
    if ask.tokens and ask.extra.switch("resolution_aware", True):
        mean += 0.5 * math.log(ask.tokens / 1024)
    low = _sigmoid(0.5 * ask.extra.number("logsnr_min", -15.0))
    high = _sigmoid(0.5 * ask.extra.number("logsnr_max", 18.0))
    quantiles = [NormalDist().inv_cdf(1 - i / ask.steps) for i in range(1, ask.steps)]
    return [high] + [min(max(_sigmoid(mean + deviation * z), low), high) for z in quantiles]


def _flux2(ask: _Ask) -> list[float]:
    """The empirical mu of Flux 2's sampling code, linear in tokens and, up to 4300 tokens, in steps."""
    mu = 0.00016927 * ask.tokens + 0.45666666
    if ask.tokens <= 4300:
        at_10_steps = 8.73809524e-05 * ask.tokens + 1.89833333
        slope = (mu - at_10_steps) / 190
        mu += slope * (ask.steps - 200)
    return [flux_time_shift(mu, 1 - i / ask.steps) for i in range(ask.steps)]


def _flux(ask: _Ask) -> list[float]:
    return _shifted(ask, ask.shift, ask.tokens)


def _shifted(ask: _Ask, shift: ResolutionShift, tokens: int) -> list[float]:
    """Evenly spaced levels, shifted by the picture's size and stretched to the terminal level."""
    base = ask.extra.number("base_shift", shift.base)
    slope = (ask.extra.number("max_shift", shift.max) - base) / (shift.tokens[1] - shift.tokens[0])
    mu = base + slope * (tokens - shift.tokens[0])
    sigmas = [flux_time_shift(mu, 1 - i / ask.steps) for i in range(ask.steps)]
    if shift.terminal is None or ask.steps == 1 or not ask.extra.switch("stretch", True):
        return sigmas
    terminal = min(max(ask.extra.number("terminal", shift.terminal), 0.0), 0.99)
    scale = (1 - sigmas[-1]) / (1 - terminal)
    return [1 - (1 - sigma) / scale for sigma in sigmas] if scale > 1e-8 else sigmas


def _beta(ask: _Ask) -> list[float]:
    """Quantiles of the beta distribution (Lee et al. 2024, arXiv:2407.12173), rounded to training steps."""
    alpha, beta = (
        ask.extra.number(name, 0.6, valid=lambda v: 0 < v < math.inf) for name in ("alpha", "beta")
    )
    if ask.steps == 1:
        return [ask.prediction.t_to_sigma(T_MAX)]
    quantiles = (beta_quantile(1 - i / ask.steps, alpha, beta) for i in range(ask.steps))
    # A hair more than half, so that the median, 499.5, is rounded up however its quantile came out.
    timesteps = dict.fromkeys(math.floor(q * T_MAX + 0.5 + 1e-9) for q in quantiles)
    return [ask.prediction.t_to_sigma(t) for t in timesteps]


_SCHEDULES: dict[Scheduler, Callable[[_Ask], list[float]]] = {
    Scheduler.DISCRETE: _discrete,
    Scheduler.KARRAS: _karras,
    Scheduler.EXPONENTIAL: _exponential,
    Scheduler.AYS: _ays,
    Scheduler.GITS: _gits,
    Scheduler.SMOOTHSTEP: _smoothstep,
    Scheduler.SGM_UNIFORM: _sgm_uniform,
    Scheduler.SIMPLE: _simple,
    Scheduler.KL_OPTIMAL: _kl_optimal,
    Scheduler.LCM: _lcm,
    Scheduler.BONG_TANGENT: _bong_tangent,
    Scheduler.LTX2: _ltx2,
    Scheduler.LOGIT_NORMAL: _logit_normal,
    Scheduler.FLUX2: _flux2,
    Scheduler.FLUX: _flux,
    Scheduler.BETA: _beta,
}


def _spaced(start: float, end: float, points: int) -> list[float]:
    """Evenly spaced numbers, both ends included; a single one is the start."""
    return [start + (end - start) * i / (points - 1) if i else start for i in range(points)]


def _log_stretched(levels: Sequence[float], steps: int) -> list[float]:
    """`steps` + 1 levels on the log-linear curve through `levels`."""
    if len(levels) == steps + 1:
        return list(levels)
    logs = np.interp(np.linspace(0, 1, steps + 1), np.linspace(0, 1, len(levels)), np.log(levels))
    return [float(level) for level in np.exp(logs)]


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))
