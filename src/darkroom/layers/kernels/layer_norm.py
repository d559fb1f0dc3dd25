"""LayerNorm over the last axis, one launch, whole rows in registers."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_WIDTH = 4096


@triton.jit
def _layer_norm_kernel(
    x, y, weight, bias, rows, width, stride, eps, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr
):
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    cols = tl.arange(0, BLOCK_C)
    col_ok = cols < width
    mask = (row < rows)[:, None] & col_ok[None, :]
    tile = tl.load(x + row[:, None].to(tl.int64) * stride + cols[None, :], mask=mask, other=0.0).to(
        tl.float32
    )
    mean = tl.sum(tile, axis=1) / width
    delta = tl.where(mask, tile - mean[:, None], 0.0)
    rstd = tl.rsqrt(tl.sum(delta * delta, axis=1) / width + eps)
    scale = tl.load(weight + cols, mask=col_ok, other=0.0).to(tl.float32)
    offset = tl.load(bias + cols, mask=col_ok, other=0.0).to(tl.float32)
    out = delta * rstd[:, None] * scale[None, :] + offset[None, :]
    tl.store(y + row[:, None].to(tl.int64) * width + cols[None, :], out.to(y.dtype.element_ty), mask=mask)


def supports(x: Tensor) -> bool:
    """Whether the kernel takes x (..., D): one row stride, a width that fits the registers."""
    return x.is_contiguous() and 16 <= x.shape[-1] <= MAX_WIDTH


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """LayerNorm of contiguous x (..., D); weight, bias (D,)."""
    width = x.shape[-1]
    rows = x.numel() // width
    block_c = triton.next_power_of_2(width)
    block_r = max(1, 2048 // block_c)
    y = torch.empty_like(x)
    _layer_norm_kernel[(-(-rows // block_r),)](
        x, y, weight, bias, rows, width, width, eps, BLOCK_R=block_r, BLOCK_C=block_c, num_warps=4
    )
    return y
