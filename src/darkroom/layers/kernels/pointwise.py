"""Kernels that move numbers and hardly compute: sums, the GEGLU gate, doubling, joining, gathering patches.

Images are matrices of pixels here, (b, h, w, c) without gaps, which is what channels_last memory holds.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE = 2048


@triton.jit
def _add_kernel(
    x, bias, residual, numel, width, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, BLOCK: tl.constexpr
):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    keep = place < numel
    total = tl.load(x + place, mask=keep, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        total += tl.load(residual + place, mask=keep, other=0.0).to(tl.float32)
    if HAS_BIAS:
        total += tl.load(bias + place % width, mask=keep, other=0.0).to(tl.float32)
    tl.store(x + place, total.to(x.dtype.element_ty), mask=keep)


@triton.jit
def _tile(pixels, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    """Rows and columns of this program's tile; columns come in whole tiles, rows may not."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
    cols = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    return rows, cols, (rows < pixels) & (cols >= 0)


@triton.jit
def _geglu_kernel(
    x, bias, y, rows, width, HAS_BIAS: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr
):
    row, cols, keep = _tile(rows, BLOCK_R, BLOCK_C)
    place = x + row * (2 * width) + cols
    value = tl.load(place, mask=keep, other=0.0).to(tl.float32)
    gate = tl.load(place + width, mask=keep, other=0.0).to(tl.float32)
    if HAS_BIAS:
        value += tl.load(bias + cols).to(tl.float32)
        gate += tl.load(bias + width + cols).to(tl.float32)
    out = value * gate * 0.5 * (1.0 + tl.erf(gate * 0.7071067811865476))
    tl.store(y + row * width + cols, out.to(y.dtype.element_ty), mask=keep)


@triton.jit
def _silu_gated_kernel(
    gate, value, y, rows, width, gate_l, value_l, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr
):
    row, cols, keep = _tile(rows, BLOCK_R, BLOCK_C)
    x = tl.load(gate + row * gate_l + cols, mask=keep, other=0.0).to(tl.float32)
    factor = tl.load(value + row * value_l + cols, mask=keep, other=0.0).to(tl.float32)
    out = x / (1.0 + tl.exp(-x)) * factor
    tl.store(y + row * width + cols, out.to(y.dtype.element_ty), mask=keep)


@triton.jit
def _double_kernel(x, y, pixels, columns, width, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    pixel, cols, keep = _tile(pixels, BLOCK_R, BLOCK_C)
    tile = tl.load(x + pixel * width + cols, mask=keep, other=0.0)
    # Pixel (i, j), counted i * columns + j, goes to (2i, 2j) of rows twice as long, and to three next to it.
    first = y + (4 * pixel - 2 * (pixel % columns)) * width + cols
    tl.store(first, tile, mask=keep)
    tl.store(first + width, tile, mask=keep)
    tl.store(first + 2 * columns * width, tile, mask=keep)
    tl.store(first + (2 * columns + 1) * width, tile, mask=keep)


@triton.jit
def _join_kernel(x, skip, y, pixels, width, skip_width, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    pixel, cols, keep = _tile(pixels, BLOCK_R, BLOCK_C)
    if tl.program_id(1) * BLOCK_C < width:
        tile = tl.load(x + pixel * width + cols, mask=keep, other=0.0)
    else:
        tile = tl.load(skip + pixel * skip_width + (cols - width), mask=keep, other=0.0)
    tl.store(y + pixel * (width + skip_width) + cols, tile, mask=keep)


@triton.jit
def _patches_kernel(
    x, y, pixels, height, columns, out_height, out_columns, width, stride,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    pixel, cols, keep = _tile(pixels, BLOCK_R, BLOCK_C)
    tap = tl.program_id(2)
    row = pixel // out_columns % out_height * stride + tap // 3 - 1
    column = pixel % out_columns * stride + tap % 3 - 1
    image = pixel // (out_height * out_columns)
    inside = keep & (row >= 0) & (row < height) & (column >= 0) & (column < columns)
    tile = tl.load(x + ((image * height + row) * columns + column) * width + cols, mask=inside, other=0.0)
    tl.store(y + (pixel * 9 + tap) * width + cols, tile, mask=keep)


def _blocks(*widths: int) -> dict[str, int]:
    """A tile whose columns divide every width, so that none is cut."""
    columns = math.gcd(512, *widths)
    return {"BLOCK_R": max(1, _TILE // columns), "BLOCK_C": columns}


def add_(x: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
    """x += bias + residual, in place: contiguous x and residual (..., D), bias (D,)."""
    numel = x.numel()
    _add_kernel[(triton.cdiv(numel, _TILE),)](
        x, bias, residual, numel, x.shape[-1], HAS_BIAS=bias is not None, HAS_RESIDUAL=residual is not None,
        BLOCK=_TILE, num_warps=8,
    )  # fmt: skip
    return x


def geglu(x: Tensor, bias: Tensor | None) -> Tensor:
    """value * gelu(gate) of contiguous x + bias (..., 2 D) = (value, gate) -> (..., D); exact GELU."""
    width = x.shape[-1] // 2
    y = torch.empty(*x.shape[:-1], width, dtype=x.dtype, device=x.device)
    rows, blocks = y.numel() // width, _blocks(width)
    _geglu_kernel[(triton.cdiv(rows, blocks["BLOCK_R"]), width // blocks["BLOCK_C"])](
        x, bias, y, rows, width, HAS_BIAS=bias is not None, **blocks, num_warps=8
    )
    return y


def silu_gated(gate: Tensor, value: Tensor) -> Tensor | None:
    """silu(gate) * value of (..., D) whose rows are evenly apart, or None where they are not."""
    gate_l, value_l = _row_stride(gate), _row_stride(value)
    if gate_l is None or value_l is None or gate.shape != value.shape:
        return None
    y = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
    width = gate.shape[-1]
    rows, blocks = y.numel() // width, _blocks(width)
    _silu_gated_kernel[(triton.cdiv(rows, blocks["BLOCK_R"]), width // blocks["BLOCK_C"])](
        gate, value, y, rows, width, gate_l, value_l, **blocks, num_warps=8
    )
    return y


def _row_stride(x: Tensor) -> int | None:
    """The step between rows of x (..., D), where it is the same between all and none has gaps."""
    step = x.stride(-2)
    even = x.stride(-1) == 1 and all(
        x.shape[axis] == 1 or x.stride(axis) == x.stride(axis + 1) * x.shape[axis + 1]
        for axis in range(x.ndim - 2)
    )
    return step if even else None


def double(x: Tensor) -> Tensor:
    """Nearest-neighbour doubling of a contiguous image, (b, h, w, c) -> (b, 2h, 2w, c)."""
    b, h, w, c = x.shape
    y = torch.empty(b, 2 * h, 2 * w, c, dtype=x.dtype, device=x.device)
    blocks = _blocks(c)
    _double_kernel[(triton.cdiv(b * h * w, blocks["BLOCK_R"]), c // blocks["BLOCK_C"])](
        x, y, b * h * w, w, c, **blocks, num_warps=8
    )
    return y


def join(x: Tensor, skip: Tensor) -> Tensor:
    """The channels of two contiguous images, (b, h, w, c), (b, h, w, c') -> (b, h, w, c + c')."""
    b, h, w, c = x.shape
    more = skip.shape[-1]
    y = torch.empty(b, h, w, c + more, dtype=x.dtype, device=x.device)
    blocks = _blocks(c, more)
    _join_kernel[(triton.cdiv(b * h * w, blocks["BLOCK_R"]), (c + more) // blocks["BLOCK_C"])](
        x, skip, y, b * h * w, c, more, **blocks, num_warps=8
    )
    return y


def patches(x: Tensor, stride: int) -> Tensor:
    """What a 3x3 convolution padded by one sees at each pixel, (b, h, w, c) -> (b, h', w', 9 c)."""
    b, h, w, c = x.shape
    rows, columns = (h - 1) // stride + 1, (w - 1) // stride + 1
    y = torch.empty(b, rows, columns, 9 * c, dtype=x.dtype, device=x.device)
    blocks, pixels = _blocks(c), b * rows * columns
    _patches_kernel[(triton.cdiv(pixels, blocks["BLOCK_R"]), c // blocks["BLOCK_C"], 9)](
        x, y, pixels, h, w, rows, columns, c, stride, **blocks, num_warps=8
    )
    return y
