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


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last axis (arXiv 1910.07467), x: (..., D)  ->  (..., D)."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return rms_norm(x, self.weight, self.eps)


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """x / rms(x) * weight over the last axis, in float32; x: (..., D), weight: (D,)  ->  (..., D)."""
    return F.rms_norm(x.float(), weight.shape, weight.float(), eps).to(x.dtype)


def modulated_layer_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    """Layer norm without weights, then (1 + scale) * x + shift: adaptive layer norm (arXiv 2212.09748).

    x: (b, l, D), shift, scale: (b, 1, D)  ->  (b, l, D)
    """
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=eps), 1 + scale)


def modulated_rms_norm(x: Tensor, weight: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    """RMS norm with weights, then (1 + scale) * x.

    x: (b, l, D), weight: (D,), scale: (b, 1, D)  ->  (b, l, D)
    """
    return rms_norm(x, weight, eps) * (1 + scale)


def gated_residual(x: Tensor, gate: Tensor, y: Tensor) -> Tensor:
    """x + gate * y: what a block adds to its stream; x, y: (b, l, D), gate: (b, 1, D)  ->  (b, l, D)."""
    return torch.addcmul(x, gate, y)
