"""AdamW over float32 master weights of networks that compute in another type, with a moving average."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Masters:
    """The float32 weights of some networks, their optimiser and their exponential moving average.

    After `step` the networks' own (bfloat16) parameters are the masters, rounded.
    """

    def __init__(self, nets: Sequence[nn.Module], *, weight_decay: float, ema: float) -> None:
        named = [item for net in nets for item in net.named_parameters()]
        self.working = [p for _, p in named]
        self.masters = [p.detach().float().clone() for p in self.working]
        self.average = [p.clone() for p in self.masters]
        self.grads = [torch.zeros_like(p) for p in self.masters]
        for master, grad in zip(self.masters, self.grads, strict=True):
            master.grad = grad
        decayed = [p.ndim > 1 and "embedding" not in name for name, p in named]
        groups = [
            {
                "params": [m for m, d in zip(self.masters, decayed, strict=True) if d],
                "weight_decay": weight_decay,
            },
            {"params": [m for m, d in zip(self.masters, decayed, strict=True) if not d], "weight_decay": 0.0},
        ]
        self.adam = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), eps=1e-8, fused=True)
        self.ema = ema
        self.steps = 0

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """One update from the gradients that `backward` left in the working parameters."""
        torch._foreach_copy_(self.grads, [p.grad for p in self.working])
        norm = torch.stack(torch._foreach_norm(self.grads)).norm()
        torch._foreach_mul_(self.grads, (1.0 / (norm + 1e-6)).clamp(max=1.0))
        # The fused step leaves everything as it is where this is 1; nothing waits for the device to find out.
        self.adam.found_inf = (~norm.isfinite()).float()
        for group in self.adam.param_groups:
            group["lr"] = lr
        self.adam.step()
        torch._foreach_copy_(self.working, self.masters)
        for p in self.working:
            p.grad = None
        self.steps += 1
        decay = min(self.ema, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.average, self.masters, 1 - decay)

    @torch.no_grad()
    def load_average(self, parameters: Sequence[Tensor]) -> None:
        """Writes the moving average into the same networks' parameters elsewhere."""
        for target, source in zip(parameters, self.average, strict=True):
            target.copy_(source)


def learning_rate(peak: float, elapsed: float, warm: float = 0.03) -> float:
    """Linear warm-up, then a cosine to nearly nothing; elapsed is the share of the time that is gone."""
    if elapsed < warm:
        return peak * (elapsed / warm) + 1e-6
    along = min(1.0, (elapsed - warm) / (1 - warm))
    return peak * (0.002 + 0.998 * 0.5 * (1 + math.cos(math.pi * along)))
