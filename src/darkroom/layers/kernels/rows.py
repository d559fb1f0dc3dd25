"""What transformers do to whole rows of tokens: norms, modulation and the gated sum, in one launch.

A program holds a few rows in registers: it reads each number once, computes in float32 and writes once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_WIDTH = 8192

# Numbers of a tile, and of one thread.
_TILE = 8192
_THREAD_NUMBERS = 32


@triton.jit
def _rms_normed(tile, weight, cols, keep, width, eps):
    rms = tl.rsqrt(tl.sum(tile * tile, axis=1) / width + eps)
    return tile * rms[:, None] * tl.load(weight + cols, mask=keep, other=0.0).to(tl.float32)[None, :]


@triton.jit(do_not_specialize=["length"])
def _rows_kernel(
    x, bias, y, gate, y_weight, total, weight, shift, scale, out,
    length, width, x_b, x_l, y_b, y_l, gate_b, gate_l, shift_b, shift_l, scale_b, scale_l, eps,
    CENTRED: tl.constexpr, SILU: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """total = x + bias + gate * (y, normalised if y_weight); out = its norm, times weight, modulated.

    What is None is left out. Gates, shifts and scales of single rows come with ROWS = 1.
    """
    sample = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0).to(tl.int64) * ROWS
    row = first + tl.arange(0, ROWS)
    cols = tl.arange(0, BLOCK)
    keep = cols < width
    mask = (row < length)[:, None] & keep[None, :]
    to = (sample * length + row)[:, None] * width + cols[None, :]

    tile = tl.load(x + sample * x_b + row[:, None] * x_l + cols[None, :], mask=mask, other=0.0).to(tl.float32)
    if bias is not None:
        tile += tl.load(bias + cols, mask=keep, other=0.0).to(tl.float32)[None, :]
    if y is not None:
        more = tl.load(y + sample * y_b + row[:, None] * y_l + cols[None, :], mask=mask, other=0.0)
        more = more.to(tl.float32)
        if y_weight is not None:
            more = _rms_normed(more, y_weight, cols, keep, width, eps)
        factor = tl.load(gate + sample * gate_b + first * gate_l + cols, mask=keep, other=0.0)
        rounded = (tile + factor.to(tl.float32)[None, :] * more).to(total.dtype.element_ty)
        tl.store(total + to, rounded, mask=mask)
        tile = rounded.to(tl.float32)
    if out is not None:
        if CENTRED:
            mean = tl.sum(tile, axis=1) / width
            tile = tl.where(mask, tile - mean[:, None], 0.0)
        if weight is not None:
            tile = _rms_normed(tile, weight, cols, keep, width, eps)
        else:
            tile *= tl.rsqrt(tl.sum(tile * tile, axis=1) / width + eps)[:, None]
        if scale is not None:
            factor = tl.load(scale + sample * scale_b + first * scale_l + cols, mask=keep, other=0.0)
            tile *= 1.0 + factor.to(tl.float32)[None, :]
        if shift is not None:
            offset = tl.load(shift + sample * shift_b + first * shift_l + cols, mask=keep, other=0.0)
            tile += offset.to(tl.float32)[None, :]
        if SILU:
            tile = tile / (1.0 + tl.exp(-tile))
        tl.store(out + to, tile.to(out.dtype.element_ty), mask=mask)


def supports(x: Tensor, *others: Tensor) -> bool:
    """Whether the kernel takes x (b, l, D) and what is (D,) or (1 or b, 1 or l, D) beside it."""
    return x.ndim == 3 and 16 <= x.shape[-1] <= MAX_WIDTH and all(_fits(part, x) for part in (x, *others))


def _fits(part: Tensor, x: Tensor) -> bool:
    if part.stride(-1) != 1 or part.shape[-1] != x.shape[-1]:
        return False
    if part.ndim == 1:
        return True
    return (
        part.ndim == 3
        and part.dtype == x.dtype
        and part.shape[0] in (1, x.shape[0])
        and part.shape[1] in (1, x.shape[1])
    )


def norm(
    x: Tensor,
    weight: Tensor | None = None,
    shift: Tensor | None = None,
    scale: Tensor | None = None,
    *,
    eps: float,
    bias: Tensor | None = None,
    centred: bool = False,
    silu: bool = False,
) -> Tensor:
    """x / rms(x) * weight * (1 + scale) + shift, then SiLU if `silu`; bias is added to x first.

    centred: takes the distance of x from its mean for x.
    x: (b, l, D), weight, bias: (D,), shift, scale: (1 or b, 1 or l, D)  ->  contiguous (b, l, D)
    """
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch(
        x, bias=bias, weight=weight, shift=shift, scale=scale, out=out, eps=eps, centred=centred, silu=silu
    )
    return out


def gated_residual(
    x: Tensor, gate: Tensor, y: Tensor, y_weight: Tensor | None = None, eps: float = 0.0
) -> Tensor:
    """x + gate * y, y / rms(y) * y_weight in place of y where that is given.

    x, y: (b, l, D), gate: (1 or b, 1 or l, D), y_weight: (D,)  ->  contiguous (b, l, D)
    """
    total = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch(x, gate, y, y_weight, total, eps=eps)
    return total


def gated_residual_norm(
    x: Tensor,
    gate: Tensor,
    y: Tensor,
    y_weight: Tensor | None = None,
    weight: Tensor | None = None,
    shift: Tensor | None = None,
    scale: Tensor | None = None,
    *,
    eps: float,
    centred: bool = False,
) -> tuple[Tensor, Tensor]:
    """`gated_residual` and the `norm` of what it gives."""
    total = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    out = torch.empty_like(total)
    _launch(x, gate, y, y_weight, total, weight, shift, scale, out, eps=eps, centred=centred)
    return total, out


def _launch(
    x: Tensor,
    gate: Tensor | None = None,
    y: Tensor | None = None,
    y_weight: Tensor | None = None,
    total: Tensor | None = None,
    weight: Tensor | None = None,
    shift: Tensor | None = None,
    scale: Tensor | None = None,
    out: Tensor | None = None,
    *,
    eps: float,
    bias: Tensor | None = None,
    centred: bool = False,
    silu: bool = False,
) -> None:
    batch, length, width = x.shape
    block = triton.next_power_of_2(width)
    strides = [_strides(part) for part in (gate, shift, scale)]
    rows = 1 if any(row for _, row in strides) else max(1, _TILE // block)
    _rows_kernel[(triton.cdiv(length, rows), batch)](
        x, bias, y, gate, y_weight, total, weight, shift, scale, out,
        length, width, *_strides(x), *_strides(y), *(step for pair in strides for step in pair), eps,
        CENTRED=centred, SILU=silu, ROWS=rows, BLOCK=block,
        num_warps=max(1, min(16, rows * block // (32 * _THREAD_NUMBERS))),
    )  # fmt: skip


def _strides(part: Tensor | None) -> tuple[int, int]:
    """Of batch and token; 0 where all share one."""
    if part is None:
        return 0, 0
    samples, tokens, _ = part.shape
    return part.stride(0) if samples > 1 else 0, part.stride(1) if tokens > 1 else 0
