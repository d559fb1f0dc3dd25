"""Stable Diffusion 1's noise schedule, the training loss and a plain sampler for looking at progress."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

SCALE = 0.18215  # latents are multiplied by this before noise is added, as in SD 1.x

Net = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Schedule:
    """1000 steps, betas linear in their roots from 0.00085 to 0.012. alphas: (1000,), cumulative product."""

    alphas: Tensor

    @classmethod
    def on(cls, device: torch.device) -> Schedule:
        """The schedule on a device."""
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        return cls((1 - betas).cumprod(0).float().to(device))

    def sigmas(self, steps: int) -> tuple[Tensor, Tensor]:
        """Timesteps evenly from 999 to 0, (steps,), and their sigmas with a zero behind, (steps + 1,)."""
        t = torch.linspace(999, 0, steps, device=self.alphas.device)
        log_sigmas = ((1 - self.alphas) / self.alphas).sqrt().log()
        low = t.floor().long().clamp(max=998)
        sigmas = torch.lerp(log_sigmas[low], log_sigmas[low + 1], t - low).exp()
        return t, torch.cat((sigmas, sigmas.new_zeros(1)))


def noise_loss(net: Net, schedule: Schedule, latents: Tensor, context: Tensor, dtype: torch.dtype) -> Tensor:
    """Weighted mean squared error of the predicted noise, a scalar.

    latents: (b, 4, h, w), scaled. The noise gets a small offset per channel, so that at the last timestep the
    mean colour of the picture does not shine through (the schedule does not end at pure noise) and the text
    must tell it. The weight is that of the clean picture's error with SNR cut at 20, plus 1: between min-SNR
    (arXiv 2303.09556) and v-prediction.
    """
    b = len(latents)
    t = ((torch.arange(b, device=latents.device) + torch.rand(b, device=latents.device)) / b * 1000).long()
    t = t.clamp(max=999)[torch.randperm(b, device=latents.device)]
    alpha = schedule.alphas[t][:, None, None, None]
    noise = torch.randn_like(latents)
    noise = noise + 0.1 * torch.randn(b, latents.shape[1], 1, 1, device=latents.device)
    x = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    x = x.to(dtype, memory_format=torch.channels_last)
    predicted = net(x, t.float(), context).float()
    snr = (alpha / (1 - alpha)).flatten()
    weight = ((snr.clamp(max=20) + 1) / snr).clamp(max=20)
    return (weight * (predicted - noise).square().mean((1, 2, 3))).mean()


@torch.no_grad()
def sample(
    net: Net, schedule: Schedule, cond: Tensor, uncond: Tensor, noise: Tensor, cfg_scale: float, steps: int
) -> Tensor:
    """Euler's method from pure noise, with guidance.

    cond, uncond: (b, l, D), noise: (b, 4, h, w)  ->  scaled latents (b, 4, h, w) float32
    """
    timesteps, sigmas = schedule.sigmas(steps)
    context = torch.cat((cond, uncond))
    x = noise.float() * sigmas[0]
    for i, t in enumerate(timesteps):
        scaled = (x / (sigmas[i] ** 2 + 1).sqrt()).to(context.dtype, memory_format=torch.channels_last)
        both = net(torch.cat((scaled, scaled)), t.expand(2 * len(x)), context).float()
        with_text, without = both.chunk(2)
        x = x + (without + cfg_scale * (with_text - without)) * (sigmas[i + 1] - sigmas[i])
    return x
