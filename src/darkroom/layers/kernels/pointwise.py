"""Pointwise kernels: the GEGLU gate, and a sum of a convolution's output, its bias and a residual."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _geglu_kernel(x, y, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    keep = cols < width
    value = tl.load(x + row * 2 * width + cols, mask=keep, other=0.0).to(tl.float32)
    gate = tl.load(x + row * 2 * width + width + cols, mask=keep, other=0.0).to(tl.float32)
    out = value * gate * 0.5 * (1.0 + tl.erf(gate * 0.7071067811865476))
    tl.store(y + row * width + cols, out.to(y.dtype.element_ty), mask=keep)


@triton.jit
def _add_kernel(x, bias, residual, numel, width, HAS_BIAS: tl.constexpr, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    keep = place < numel
    total = tl.load(x + place, mask=keep, other=0.0).to(tl.float32)
    total += tl.load(residual + place, mask=keep, other=0.0).to(tl.float32)
    if HAS_BIAS:
        total += tl.load(bias + place % width, mask=keep, other=0.0).to(tl.float32)
    tl.store(x + place, total.to(x.dtype.element_ty), mask=keep)


def geglu(x: Tensor) -> Tensor:
    """value * gelu(gate) of contiguous x (..., 2 D) = (value, gate) -> (..., D); exact GELU."""
    width = x.shape[-1] // 2
    y = torch.empty(*x.shape[:-1], width, dtype=x.dtype, device=x.device)
    _geglu_kernel[(y.numel() // width, -(-width // 1024))](x, y, width, BLOCK=1024, num_warps=4)
    return y


def add_bias_residual_(x: Tensor, bias: Tensor | None, residual: Tensor) -> Tensor:
    """x += bias + residual, in place: x and residual (b, c, h, w) channels_last, bias (c,)."""
    numel = x.numel()
    _add_kernel[(-(-numel // 2048),)](
        x, bias, residual, numel, x.shape[1], HAS_BIAS=bias is not None, BLOCK=2048, num_warps=8
    )
    return x
