"""Normalisation, alone and with the SiLU that follows it in every residual block."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 32


class GroupNorm(nn.GroupNorm):
    """Group normalisation over 32 groups (arXiv 1803.08494).

    x: (b, c, h, w), shift: (b, c) added to x before the norm, or None  ->  (b, c, h, w)
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__(GROUPS, channels, eps)

    def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:  # noqa: D102
        return group_norm(x, self.weight, self.bias, self.eps, shift=shift, silu=False)


class GroupNormSiLU(GroupNorm):
    """Group normalisation and then SiLU. Holds the norm's weights only, as LDM checkpoints do."""

    def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:  # noqa: D102
        return group_norm(x, self.weight, self.bias, self.eps, shift=shift, silu=True)


class LayerNorm(nn.LayerNorm):
    """Layer normalisation over the last axis, x: (..., D)  ->  (..., D)."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__(width, eps)


def group_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, *, shift: Tensor | None, silu: bool
) -> Tensor:
    """GroupNorm of x + shift with 32 groups, then SiLU if `silu`; memory format is kept.

    x: (b, c, h, w), weight, bias: (c,), shift: (b, c) or None  ->  (b, c, h, w)
    """
    if shift is not None:
        x = x + shift[:, :, None, None]
    out = F.group_norm(x, GROUPS, weight, bias, eps)
    if not silu:
        return out
    return F.silu(out, inplace=not torch.is_grad_enabled())
