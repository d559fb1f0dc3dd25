"""What a network's output means: the way from (output, x, sigma) to the clean latent, and to timesteps.

sigma is the noise level of k-diffusion: x = latent + sigma * noise for eps, v and edm_v models, and
x = (1 - sigma) * latent + sigma * noise for flow models. Formulas were checked against k-diffusion's
external.py and stable-diffusion.cpp's denoiser.
"""

from __future__ import annotations

import bisect
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from darkroom.api.errors import RequestError
from darkroom.api.names import PredictionType

logger = logging.getLogger(__name__)

TRAIN_STEPS = 1000

ZERO_TERMINAL_ALPHA = 4.8973451890853435e-08


class Prediction(ABC):
    """How a network was parameterised. Stateless; all levels are floats, so that nothing waits for a device.

    is_flow: the data-noise path is straight (rectified flow) instead of variance exploding.
    sigma_min, sigma_max: the noise levels that schedules span.
    """

    is_flow: bool = False
    sigma_min: float
    sigma_max: float

    @abstractmethod
    def t_to_sigma(self, t: float) -> float:
        """The noise level of training step t in [0, 999], for schedules."""

    @abstractmethod
    def sigma_to_t(self, sigma: float) -> float:
        """The timestep of noise level sigma > 0, in the network's unit."""

    @abstractmethod
    def scalings(self, sigma: float) -> tuple[float, float, float]:
        """c_skip, c_out, c_in of Karras et al. 2022 (arXiv:2206.00364, table 1)."""

    @abstractmethod
    def add_noise(self, latent: Tensor, noise: Tensor, sigma: float) -> Tensor:
        """The noisy x of a latent, and the start of sampling."""

    @abstractmethod
    def noise_level_to_sigma(self, level: float) -> float:
        """The sigma at which noise makes up the share `level` in (0, 1) of x."""

    def timestep(self, sigma: float) -> float:
        """What the network receives as t."""
        return self.sigma_to_t(sigma)

    def scale_input(self, x: Tensor, sigma: float) -> Tensor:
        """What the network receives as x."""
        c_in = self.scalings(sigma)[2]
        return x if c_in == 1 else x * c_in

    def denoised(self, output: Tensor, x: Tensor, sigma: float) -> Tensor:
        """The network's idea of the clean latent, in x's dtype."""
        c_skip, c_out, _ = self.scalings(sigma)
        return output.to(x.dtype) * c_out + (x if c_skip == 1 else x * c_skip)

    def finish(self, x: Tensor, sigma: float) -> Tensor:
        """The latent after sampling ended at `sigma`, which is not 0 for some custom lists."""
        return x


class Eps(Prediction):
    """The network predicts the noise (Ho et al. 2020, arXiv:2006.11239).

    alphas_cumprod: signal variances of the 1000 training steps; None for Stable Diffusion's scaled-linear
    betas from 0.00085 to 0.012, which also stand in, with a warning, for a table that does not fall.
    """

    def __init__(self, alphas_cumprod: Sequence[float] | None = None) -> None:
        alphas = scaled_linear_alphas() if alphas_cumprod is None else _usable_alphas(alphas_cumprod)
        self._log_sigmas: list[float] = (0.5 * np.log((1 - alphas) / alphas)).tolist()
        self.sigma_min = math.exp(self._log_sigmas[0])
        self.sigma_max = math.exp(self._log_sigmas[-1])

    def t_to_sigma(self, t: float) -> float:
        """Log-linear interpolation in the table of training levels."""
        low = min(max(math.floor(t), 0), len(self._log_sigmas) - 2)
        w = t - low
        return math.exp((1 - w) * self._log_sigmas[low] + w * self._log_sigmas[low + 1])

    def sigma_to_t(self, sigma: float) -> float:
        """The inverse of t_to_sigma, clamped to the table."""
        logs = self._log_sigmas
        log_sigma = math.log(sigma)
        low = min(max(bisect.bisect_right(logs, log_sigma) - 1, 0), len(logs) - 2)
        w = (log_sigma - logs[low]) / (logs[low + 1] - logs[low])
        return low + min(max(w, 0.0), 1.0)

    def scalings(self, sigma: float) -> tuple[float, float, float]:
        """D = x - sigma * output, the input scaled to unit variance."""
        return 1.0, -sigma, 1 / math.sqrt(sigma * sigma + 1)

    def add_noise(self, latent: Tensor, noise: Tensor, sigma: float) -> Tensor:
        """latent + sigma * noise; without ComfyUI's sqrt(1 + sigma**2) at the start."""
        return latent + noise * sigma

    def noise_level_to_sigma(self, level: float) -> float:
        """x / (1 + sigma) is the mix (1 - level) * latent + level * noise."""
        return level / (1 - level)


class V(Eps):
    """The network predicts velocity (Salimans and Ho 2022, arXiv:2202.00512)."""

    def scalings(self, sigma: float) -> tuple[float, float, float]:
        """Those of v with unit data variance."""
        variance = sigma * sigma + 1
        return 1 / variance, -sigma / math.sqrt(variance), 1 / math.sqrt(variance)


class EdmV(V):
    """Velocity over a continuous range of noise levels, told to the network as ln(sigma) / 4 (EDM, CosXL)."""

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 120.0) -> None:
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max

    def t_to_sigma(self, t: float) -> float:
        """stable-diffusion.cpp's rule, which spans 1 to 54.4 only; `exponential` is this kind's default."""
        return math.exp(t * 4 / TRAIN_STEPS)

    def sigma_to_t(self, sigma: float) -> float:
        """A quarter of the natural logarithm."""
        return 0.25 * math.log(sigma)


class Sd3Flow(Prediction):
    """The network predicts noise - latent on a straight path (Esser et al. 2024, arXiv:2403.03206).

    shift: the time shift alpha of their section 5.3.2; t told to the network runs from 0 to 1000.
    """

    is_flow = True

    def __init__(self, shift: float = 3.0) -> None:
        """Raises RequestError for a shift so small or so large that all levels are one."""
        self.shift = shift
        try:
            self.sigma_min, self.sigma_max = self.t_to_sigma(0), self.t_to_sigma(TRAIN_STEPS - 1)
        except ArithmeticError:
            self.sigma_min = self.sigma_max = 0.0
        if not 0 < self.sigma_min < self.sigma_max:
            raise RequestError(
                f"--flow-shift: {shift:g} leaves this model no noise levels to visit; 1 to 6 are usual"
            )

    def t_to_sigma(self, t: float) -> float:
        """alpha s / (1 + (alpha - 1) s) with s = (t + 1) / 1000."""
        s = (t + 1) / TRAIN_STEPS
        return self.shift * s / (1 + (self.shift - 1) * s)

    def sigma_to_t(self, sigma: float) -> float:
        """1000 sigma: the network knows nothing of the shift."""
        return sigma * TRAIN_STEPS

    def scalings(self, sigma: float) -> tuple[float, float, float]:
        """D = x - sigma * output, the input as it is."""
        return 1.0, -sigma, 1.0

    def add_noise(self, latent: Tensor, noise: Tensor, sigma: float) -> Tensor:
        """The point at `sigma` on the straight line from latent to noise."""
        return latent * (1 - sigma) + noise * sigma

    def noise_level_to_sigma(self, level: float) -> float:
        """They are the same here."""
        return level

    def finish(self, x: Tensor, sigma: float) -> Tensor:
        """x / (1 - sigma), which undoes the shrinking of what is left of the path."""
        return x if sigma in (0, 1) else x / (1 - sigma)


class FluxFlow(Sd3Flow):
    """The same path as Flux walks it: exponential time shift, t told to the network from 0 to 1."""

    def __init__(self, shift: float = 1.15) -> None:
        super().__init__(shift)

    def t_to_sigma(self, t: float) -> float:
        """e^alpha / (e^alpha + 1/s - 1) with s = (t + 1) / 1000."""
        return flux_time_shift(self.shift, (t + 1) / TRAIN_STEPS)

    def sigma_to_t(self, sigma: float) -> float:
        """sigma itself; the network's embedding multiplies by 1000."""
        return sigma


class ShiftedTimesteps(Prediction):
    """Another prediction whose network is told timesteps shrunk to [0, shift], for NitroFusion models.

    The network sees the input of the true level but answers as at the shifted one, so c_skip and c_out are
    the shifted level's. Rule of stable-diffusion.cpp's --timestep-shift. shift: 1 to 1000.
    """

    def __init__(self, inner: Prediction, shift: int) -> None:
        self._inner = inner
        self._shift = shift
        self.is_flow = inner.is_flow
        self.sigma_min = inner.sigma_min
        self.sigma_max = inner.sigma_max

    def t_to_sigma(self, t: float) -> float:
        """As without a shift."""
        return self._inner.t_to_sigma(t)

    def sigma_to_t(self, sigma: float) -> float:
        """As without a shift."""
        return self._inner.sigma_to_t(sigma)

    def timestep(self, sigma: float) -> float:
        """t * shift / 1000, a whole number."""
        t = math.floor(self._inner.sigma_to_t(sigma) * self._shift / TRAIN_STEPS + 0.5)
        return float(min(max(t, 0), TRAIN_STEPS - 1))

    def scalings(self, sigma: float) -> tuple[float, float, float]:
        """c_in of sigma, the others of the shifted level."""
        c_in = self._inner.scalings(sigma)[2]
        shifted = self._inner.t_to_sigma(self.timestep(sigma))
        c_skip, c_out, shifted_c_in = self._inner.scalings(shifted)
        return c_skip * c_in / shifted_c_in, c_out, c_in

    def add_noise(self, latent: Tensor, noise: Tensor, sigma: float) -> Tensor:
        """As without a shift."""
        return self._inner.add_noise(latent, noise, sigma)

    def noise_level_to_sigma(self, level: float) -> float:
        """As without a shift."""
        return self._inner.noise_level_to_sigma(level)

    def finish(self, x: Tensor, sigma: float) -> Tensor:
        """As without a shift."""
        return self._inner.finish(x, sigma)


def make_prediction(
    kind: PredictionType, *, alphas_cumprod: Sequence[float] | None = None, shift: float | None = None
) -> Prediction:
    """The prediction of the named kind.

    alphas_cumprod: a checkpoint's own table, for eps and v. shift: --flow-shift, for the flows (None: 3 for
    sd3_flow, 1.15 for flux_flow).
    """
    match kind:
        case PredictionType.EPS:
            return Eps(alphas_cumprod)
        case PredictionType.V:
            return V(alphas_cumprod)
        case PredictionType.EDM_V:
            return EdmV()
        case PredictionType.SD3_FLOW:
            return Sd3Flow() if shift is None else Sd3Flow(shift)
        case PredictionType.FLUX_FLOW:
            return FluxFlow() if shift is None else FluxFlow(shift)


def scaled_linear_alphas(
    start: float = 0.00085, end: float = 0.012, steps: int = TRAIN_STEPS
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Cumulative products of 1 - beta, the betas being squares of evenly spaced roots (latent diffusion)."""
    betas = np.linspace(math.sqrt(start), math.sqrt(end), steps) ** 2
    return np.asarray(np.cumprod(1 - betas), np.float64)


def zero_terminal_alphas() -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Stable Diffusion's table rescaled to end in pure noise (Lin et al. 2023, arXiv:2305.08891).

    Algorithm 1: the roots are shifted until the last is 0 and scaled until the first is what it was.
    """
    roots = np.sqrt(scaled_linear_alphas())
    rescaled = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
    return np.asarray(rescaled**2, np.float64)


def _usable_alphas(table: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """A checkpoint's table. Its last entry may be 0 (zero terminal SNR): ComfyUI's sigma of 4519 stands then.

    Tables rounded to bf16 have equal entries and some of 1, so their levels are lost.
    """
    alphas = np.array(table, np.float64)
    if alphas.shape == (TRAIN_STEPS,):
        if alphas[-1] == 0:
            alphas[-1] = ZERO_TERMINAL_ALPHA
        if alphas[0] < 1 and alphas[-1] > 0 and (np.diff(alphas) < 0).all():
            return alphas
    logger.warning("model: its alphas_cumprod are not 1000 falling values; Stable Diffusion's are used")
    return scaled_linear_alphas()


def flux_time_shift(mu: float, t: float) -> float:
    """e^mu / (e^mu + 1/t - 1) for t in (0, 1]."""
    return math.exp(mu) / (math.exp(mu) + (1 / t - 1))
