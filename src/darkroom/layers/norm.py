"""Normalisation, alone and with the SiLU that follows it in every residual block."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darkroom.layers import kernels

GROUPS = 32

# The authors of Wan's autoencoder bound the norm of a pixel by 1e-12, not its mean square.
_PIXEL_EPS = 1e-24


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
    if _fits_kernel(x, weight):
        from darkroom.layers.kernels import rows

        return rows.norm(x, weight, eps=eps)
    return F.rms_norm(x.float(), weight.shape, weight.float(), eps).to(x.dtype)


def modulated_layer_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    """Layer norm without weights, then (1 + scale) * x + shift: adaptive layer norm (arXiv 2212.09748).

    x: (b, l, D), shift, scale: (b, 1, D)  ->  (b, l, D)
    """
    if _fits_kernel(x, shift, scale):
        from darkroom.layers.kernels import rows

        return rows.norm(x, shift=shift, scale=scale, eps=eps, centred=True)
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=eps), 1 + scale)


def modulated_rms_norm(x: Tensor, weight: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    """RMS norm with weights, then (1 + scale) * x.

    x: (b, l, D), weight: (D,), scale: (b, 1, D)  ->  (b, l, D)
    """
    if _fits_kernel(x, weight, scale):
        from darkroom.layers.kernels import rows

        return rows.norm(x, weight, scale=scale, eps=eps)
    return rms_norm(x, weight, eps) * (1 + scale)


def gated_residual(x: Tensor, gate: Tensor, y: Tensor) -> Tensor:
    """x + gate * y: what a block adds to its stream; x, y: (b, l, D), gate: (b, 1, D)  ->  (b, l, D)."""
    if _fits_kernel(x, gate, y):
        from darkroom.layers.kernels import rows

        return rows.gated_residual(x, gate, y)
    return torch.addcmul(x, gate, y)


def gated_residual_norm(
    x: Tensor, gate: Tensor, y: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """`gated_residual`, and the `modulated_layer_norm` of it, in one pass where the device has one.

    x, y: (b, l, D), gate, shift, scale: (b, 1, D)  ->  (b, l, D) twice
    """
    if _fits_kernel(x, gate, y, shift, scale):
        from darkroom.layers.kernels import rows

        return rows.gated_residual_norm(x, gate, y, shift=shift, scale=scale, eps=eps, centred=True)
    x = gated_residual(x, gate, y)
    return x, modulated_layer_norm(x, shift, scale, eps)


def normed_residual(x: Tensor, gate: Tensor, y: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """x + gate * rms_norm(y): of blocks that normalise what they add, too.

    x, y: (b, l, D), gate: (b, 1, D), weight: (D,)  ->  (b, l, D)
    """
    if _fits_kernel(x, gate, y, weight):
        from darkroom.layers.kernels import rows

        return rows.gated_residual(x, gate, y, weight, eps)
    return gated_residual(x, gate, rms_norm(y, weight, eps))


def normed_residual_norm(
    x: Tensor, gate: Tensor, y: Tensor, weight: Tensor, next_weight: Tensor, scale: Tensor, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """`normed_residual`, and the `modulated_rms_norm` of it with next_weight and scale, in one pass.

    x, y: (b, l, D), gate, scale: (b, 1, D), weight, next_weight: (D,)  ->  (b, l, D) twice
    """
    if _fits_kernel(x, gate, y, weight, next_weight, scale):
        from darkroom.layers.kernels import rows

        return rows.gated_residual_norm(x, gate, y, weight, next_weight, scale=scale, eps=eps)
    x = normed_residual(x, gate, y, weight, eps)
    return x, modulated_rms_norm(x, next_weight, scale, eps)


def _fits_kernel(x: Tensor, *others: Tensor) -> bool:
    if not kernels.usable(x):
        return False
    from darkroom.layers.kernels import rows

    return rows.supports(x, *others)


def pixel_norm(x: Tensor, gamma: Tensor, *, conv_bias: Tensor | None = None, silu: bool = False) -> Tensor:
    """RMS norm of x + conv_bias over the channels of each pixel, then SiLU if `silu`; in float32.

    x: (b, c, h, w) or (b, c, t, h, w), its memory format is kept; gamma: c values, conv_bias: (c,)
    """
    pixels = x.movedim(1, -1)
    if pixels.is_contiguous() and _fits_kernel(flat := pixels.flatten(1, -2), gamma.flatten()):
        from darkroom.layers.kernels import rows

        out = rows.norm(flat, gamma.flatten(), bias=conv_bias, eps=_PIXEL_EPS, silu=silu)
        return out.view(pixels.shape).movedim(-1, 1)
    pixels = pixels.float()
    if conv_bias is not None:
        pixels = pixels + conv_bias
    out = F.rms_norm(pixels, pixels.shape[-1:], gamma.flatten().float(), eps=_PIXEL_EPS)
    return (F.silu(out) if silu else out).to(x.dtype).movedim(-1, 1)
