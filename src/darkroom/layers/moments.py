"""Group normalisation of a picture that is seen in pieces: its statistics are gathered first."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from darkroom.layers.norm import GroupNorm


class Moments:
    """Mean and variance of each group over a picture that is seen in pieces; in float32.

    Those of the pieces are joined by the parallel variance formula (Chan, Golub, LeVeque 1979).
    """

    def __init__(self, groups: int) -> None:
        self._groups = groups
        self._parts: list[tuple[int, Tensor, Tensor]] = []

    def add(self, x: Tensor) -> None:
        """Counts in a piece, x: (b, c, h, w). The pieces of a picture do not overlap."""
        b, c, h, w = x.shape
        groups = x.permute(0, 2, 3, 1).reshape(b, h * w, self._groups, c // self._groups).float()
        variance, mean = torch.var_mean(groups, dim=(1, 3), correction=0)  # (b, groups)
        self._parts.append((h * w, mean, variance))

    def scales(self, norm: GroupNorm) -> tuple[Tensor, Tensor]:
        """Scale and offset of each channel (b, c), such that x * scale + offset is the normalised x."""
        counts, means, variances = zip(*self._parts, strict=True)
        shares = [count / sum(counts) for count in counts]
        mean = sum((share * part for share, part in zip(shares, means, strict=True)), start=0 * means[0])
        variance = sum(
            (
                share * (part + (its_mean - mean).square())
                for share, part, its_mean in zip(shares, variances, means, strict=True)
            ),
            start=0 * mean,
        )
        width = norm.num_channels // self._groups
        rstd = torch.rsqrt(variance + norm.eps).repeat_interleave(width, dim=1)  # (b, c)
        scale = norm.weight.float() * rstd
        return scale, norm.bias.float() - mean.repeat_interleave(width, dim=1) * scale


def normalise(x: Tensor, scale: Tensor, offset: Tensor, *, silu: bool) -> Tensor:
    """x * scale + offset, then SiLU if `silu`; in float32.

    x: (b, c, h, w), scale, offset: (b, c)  ->  (b, c, h, w)
    """
    out = x.to(torch.float32, copy=True)
    out.mul_(scale[:, :, None, None]).add_(offset[:, :, None, None])
    return (F.silu(out, inplace=True) if silu else out).to(x.dtype)
