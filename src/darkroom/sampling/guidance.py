"""From a network to `denoise(x, sigma)`: input scaling, classifier-free guidance and its variants, masks."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from darkroom.sampling.conditions import Dataclass, expand, join, rows_of
from darkroom.sampling.extra_args import ExtraArgs
from darkroom.sampling.prediction import Prediction
from darkroom.sampling.steps import Denoise, Denoised

logger = logging.getLogger(__name__)


C = TypeVar("C", bound=Dataclass)

MAX_STEPS = 10_000
"""No request has more steps; a guidance_schedule that names more would only take memory."""

PredictBatch = Callable[[Tensor, Tensor, C], Tensor]
"""The network: (x (n, c, h, w), timesteps (n,), conditioning of batch size n) -> output (n, c, h, w)."""


@dataclass(frozen=True)
class Guidance:
    """How strongly the prompt is followed.

    cfg_scale: 1 is the plain conditional prediction, 0 the unconditional one.
    schedule: scales of the last steps, the one of the very last step first; earlier steps take cfg_scale.
    needs_uncond: the sampler uses the unconditional prediction itself.
    norm_patch: the guided prediction keeps the conditional one's norm in each token of so many latent pixels
    a side (`keep_norm`); 0 lets norms grow.
    """

    cfg_scale: float = 1.0
    schedule: tuple[float, ...] = ()
    projected: ProjectedGuidance | None = None
    needs_uncond: bool = False
    norm_patch: int = 0

    @classmethod
    def parse(
        cls, cfg_scale: float, extra: ExtraArgs, *, needs_uncond: bool = False, norm_patch: int = 0
    ) -> Guidance:
        """With what `--extra-sample-args` says about guidance."""
        schedule = parse_guidance_schedule(extra.text("guidance_schedule"))
        if not extra.switch("keep_norm", norm_patch > 0):
            norm_patch = 0
        return cls(cfg_scale, schedule, ProjectedGuidance.parse(extra), needs_uncond, norm_patch)

    def scales(self, steps: int) -> tuple[float, ...]:
        """The scale of each of `steps` steps, first to last."""
        if len(self.schedule) > steps:
            logger.warning(
                "guidance_schedule names %d steps of %d; the rest is ignored", len(self.schedule), steps
            )
        last = self.schedule[:steps]
        return (self.cfg_scale,) * (steps - len(last)) + last[::-1]

    @property
    def wants_uncond(self) -> bool:
        """Whether any step needs the negative prompt; if not, it need not be encoded."""
        return self.needs_uncond or any(scale != 1 for scale in (self.cfg_scale, *self.schedule))


@dataclass(frozen=True)
class ProjectedGuidance:
    """Adaptive projected guidance (Sadat et al. 2024, arXiv:2410.02416), against over-saturation.

    eta: share of the guidance that is parallel to the prediction, 1 keeps all.
    momentum: how much of the last step's guidance is added; below 0 it is a reverse momentum.
    norm_threshold: largest norm of the guidance, for a latent of 1024x1024 pixels; 0 for none.
    smoothing: softens the threshold; 0 cuts hard.
    """

    eta: float = 1.0
    momentum: float = 0.0
    norm_threshold: float = 0.0
    smoothing: float = 0.0

    @classmethod
    def parse(cls, extra: ExtraArgs) -> ProjectedGuidance | None:
        """From apg_* keys; None where they change nothing."""
        parsed = cls(
            extra.number("apg_eta", 1.0),
            extra.number("apg_momentum", 0.0),
            extra.number("apg_norm_threshold", 0.0),
            extra.number("apg_norm_threshold_smoothing", 0.0),
        )
        changes = parsed.eta != 1 or parsed.momentum != 0 or parsed.norm_threshold > 0
        return parsed if changes else None

    def project(self, cond: Tensor, uncond: Tensor, before: Tensor | None) -> Tensor:
        """The guidance of a step (n, c, h, w). before: that of the last step, with its momentum."""
        delta = cond - uncond
        if before is not None:
            delta = delta + before * self.momentum
        return delta

    def tame(self, delta: Tensor, cond: Tensor) -> Tensor:
        """`delta` within the threshold and with the parallel part at its share, image by image."""
        axes = tuple(range(1, delta.ndim))
        if self.norm_threshold > 0:
            # As if the latent had 4 * 128 * 128 = 256**2 numbers, those of 1024x1024 pixels.
            norm = delta.square().mean(axes, keepdim=True).sqrt() * 256
            room = self.norm_threshold / norm
            if self.smoothing > 0:
                factor = room / (1 + room.pow(1 / self.smoothing)).pow(self.smoothing)
            else:
                factor = room.clamp(max=1)
            delta = torch.where(norm > 0, delta * factor, delta)
        if self.eta != 1:
            parallel = (cond * delta).sum(axes, keepdim=True) / cond.square().sum(axes, keepdim=True)
            delta = delta + cond * (parallel.nan_to_num(0, 0, 0) * (self.eta - 1))
        return delta


def parse_guidance_schedule(text: str) -> tuple[float, ...]:
    """`7.5x10+3x5` as scales, from the last step backwards: 7.5 for the last ten, 3 for the five before.

    A malformed schedule is warned about and ignored.
    """
    scales: list[float] = []
    try:
        for segment in text.split("+") if text else ():
            scale, count = segment.split("x")
            if int(count) < 1 or not math.isfinite(float(scale)):
                raise ValueError
            scales += [float(scale)] * min(int(count), MAX_STEPS)
    except ValueError:
        logger.warning("ignoring guidance_schedule '%s'; it is written <scale>x<steps>+<scale>x<steps>", text)
        return ()
    return tuple(scales)


def make_denoiser(
    predict: PredictBatch[C],
    prediction: Prediction,
    cond: C,
    uncond: C | None,
    guidance: Guidance,
    sigmas: Tensor,
    *,
    batched: bool = True,
) -> Denoiser[C]:
    """`denoise(x, sigma)` of one generation.

    cond, uncond: dataclasses of tensors with the batch first; batch size 1 serves every image.
    uncond: None leaves guidance out.
    sigmas: the schedule (steps + 1,) on the CPU, from which a sigma's step is known.
    batched: run cond and uncond as one batch where their shapes agree; one after the other takes less memory.
    """
    return Denoiser(predict, prediction, cond, uncond, guidance, sigmas, batched)


class Denoiser(Generic[C]):
    """`denoise(x, sigma)`, made by `make_denoiser`."""

    def __init__(
        self,
        predict: PredictBatch[C],
        prediction: Prediction,
        cond: C,
        uncond: C | None,
        guidance: Guidance,
        sigmas: Tensor,
        batched: bool,
    ) -> None:
        self._predict = predict
        self._prediction = prediction
        self._cond = cond
        self._uncond = uncond
        self._guidance = guidance
        self._levels: list[float] = sigmas.tolist()
        self._scales = guidance.scales(len(self._levels) - 1)
        self._batched = batched
        self._expanded: dict[int, tuple[C, C | None, C | None]] = {}
        self._last_delta: Tensor | None = None

    def __call__(self, x: Tensor, sigma: float) -> Denoised:
        """The clean latents that x (b, c, h, w) seems to come from."""
        scale = self._scales[self._step(sigma)]
        net_input = self._prediction.scale_input(x, sigma)
        t = self._prediction.timestep(sigma)
        cond, uncond, both = self._for_batch(len(x))
        if uncond is None or (scale == 1 and not self._guidance.needs_uncond):
            return Denoised(self._prediction.denoised(self._run(net_input, t, cond).to(x.dtype), x, sigma))
        if both is not None:
            out = self._run(torch.cat([net_input, net_input]), t, both).to(x.dtype)
            cond_out, uncond_out = out.chunk(2)
        else:
            cond_out = self._run(net_input, t, cond).to(x.dtype)
            uncond_out = self._run(net_input, t, uncond).to(x.dtype)
        x0 = self._prediction.denoised(self._guide(cond_out, uncond_out, scale), x, sigma)
        return Denoised(
            x0, self._prediction.denoised(uncond_out, x, sigma) if self._guidance.needs_uncond else None
        )

    def keep(self, rows: Sequence[int]) -> None:
        """From now on only these images of the batch are asked for, in this order."""
        self._cond = rows_of(self._cond, rows)
        self._uncond = self._uncond and rows_of(self._uncond, rows)
        self._expanded.clear()
        if self._last_delta is not None:
            self._last_delta = self._last_delta[list(rows)]

    def _run(self, net_input: Tensor, t: float, cond: C) -> Tensor:
        timesteps = torch.full((len(net_input),), t, dtype=torch.float32, device=net_input.device)
        return self._predict(net_input, timesteps, cond)

    def _guide(self, cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
        rule = self._guidance.projected
        if rule is None:
            guided = torch.lerp(uncond, cond, scale)
            return keep_norm(guided, cond, self._guidance.norm_patch) if self._guidance.norm_patch else guided
        delta = rule.project(cond, uncond, self._last_delta)
        if rule.momentum != 0:
            self._last_delta = delta
        return cond + rule.tame(delta, cond) * (scale - 1)

    def _step(self, sigma: float) -> int:
        """The step that starts at the last level not below sigma; inner levels lie within a step."""
        reached = sum(level >= sigma * (1 - 1e-6) for level in self._levels[:-1])
        return max(reached - 1, 0)

    def _for_batch(self, n: int) -> tuple[C, C | None, C | None]:
        """cond, uncond and both joined, for n images; made once, so that their addresses stay the same."""
        if n not in self._expanded:
            cond, uncond = expand(self._cond, n), None if self._uncond is None else expand(self._uncond, n)
            both = join(cond, uncond) if self._batched and uncond is not None else None
            self._expanded[n] = (cond, uncond, both)
        return self._expanded[n]


def keep_norm(guided: Tensor, cond: Tensor, patch: int) -> Tensor:
    """`guided` with the norm that `cond` has in each token, patch x patch latent pixels of all channels.

    Both (n, c, h, w), h and w multiples of patch. Rule of the pipelines of Qwen-Image's authors.
    """

    def mean_square(x: Tensor) -> Tensor:
        return F.avg_pool2d(x.float().square().mean(1, keepdim=True), patch)  # (n, 1, h / patch, w / patch)

    ratio = (mean_square(cond) / mean_square(guided)).sqrt().nan_to_num(1, 1, 1)
    return guided * F.interpolate(ratio, scale_factor=patch).to(guided.dtype)


def keep_unmasked(denoise: Denoise, mask: Tensor, latent: Tensor) -> Denoise:
    """Inpainting: where `mask` (1, 1, h, w) in [0, 1] is 0, the clean latent is `latent` (b, c, h, w).

    Raw unconditional predictions pass as they are, as in stable-diffusion.cpp.
    """

    def masked(x: Tensor, sigma: float) -> Denoised:
        denoised = denoise(x, sigma)
        return dataclasses.replace(denoised, x0=torch.lerp(latent, denoised.x0, mask))

    return masked
