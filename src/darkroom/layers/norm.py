"""Normalisation, alone and with the SiLU that follows it in every residual block."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darkroom.layers import kernels

GROUPS = 32


class GroupNorm(nn.GroupNorm):
    """Group normalisation over 32 groups (arXiv 1803.08494).

    x: (b, c, h, w), shift: (b, c), conv_bias: (c,), both added to x before the norm  ->  (b, c, h, w)

    conv_bias is the bias of the convolution that made x, where that left it to the norm. Outside of
    autograd x may be overwritten when either is given.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__(GROUPS, channels, eps)

    silu = False

    def forward(  # noqa: D102
        self, x: Tensor, shift: Tensor | None = None, conv_bias: Tensor | None = None
    ) -> Tensor:
        return group_norm(
            x, self.weight, self.bias, self.eps, shift=shift, conv_bias=conv_bias, silu=self.silu
        )


class GroupNormSiLU(GroupNorm):
    """Group normalisation and then SiLU. Holds the norm's weights only, as LDM checkpoints do."""

    silu = True


class LayerNorm(nn.LayerNorm):
    """Layer normalisation over the last axis, x: (..., D)  ->  (..., D)."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__(width, eps)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        if kernels.usable(x):
            from darkroom.layers.kernels import layer_norm as fused

            if fused.supports(x):
                return fused.layer_norm(x, self.weight, self.bias, self.eps)
        return super().forward(x)


def group_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    *,
    shift: Tensor | None,
    conv_bias: Tensor | None,
    silu: bool,
) -> Tensor:
    """GroupNorm of x + shift + conv_bias with 32 groups, then SiLU if `silu`; memory format is kept.

    x: (b, c, h, w), weight, bias, conv_bias: (c,), shift: (b, c)  ->  (b, c, h, w). Outside of autograd the
    sum may be written over x.
    """
    if kernels.usable(x):
        from darkroom.layers.kernels import group_norm as fused

        if fused.supports(x, GROUPS):
            return fused.group_norm(
                x, GROUPS, weight, bias, eps, shift=shift, channel_bias=conv_bias, silu=silu
            )
    if conv_bias is not None:
        shift = conv_bias[None] if shift is None else shift + conv_bias
    if shift is not None:
        shift = shift[:, :, None, None]
        x = x + shift if torch.is_grad_enabled() else x.add_(shift)
    out = F.group_norm(x, GROUPS, weight, bias, eps)
    if not silu:
        return out
    return F.silu(out, inplace=not torch.is_grad_enabled())
