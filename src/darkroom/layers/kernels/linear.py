"""A matrix product that ends in its bias, its residual or its GEGLU gate: one kernel, not two or three."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor


@triton.jit
def _linear_kernel(
    a, w, bias, residual, out, rows, width, depth,
    HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, GEGLU: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    # Programs walk down GROUP row blocks before the next column: neighbours share both operands in L2.
    pid = tl.program_id(0)
    row_blocks = tl.cdiv(rows, BLOCK_M)
    col_blocks = tl.cdiv(width, BLOCK_N)
    first = pid // (GROUP * col_blocks) * GROUP
    size = tl.minimum(row_blocks - first, GROUP)
    row = (first + pid % (GROUP * col_blocks) % size) * BLOCK_M
    col = pid % (GROUP * col_blocks) // size * BLOCK_N
    acc = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    gate = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for k in range(0, depth, BLOCK_K):
        tile = a.load([row, k])
        acc = tl.dot(tile, w.load([col, k]).T, acc)
        if GEGLU:
            gate = tl.dot(tile, w.load([col + width, k]).T, gate)
    rows_at = row + tl.arange(0, BLOCK_M)
    cols = col + tl.arange(0, BLOCK_N)
    if HAS_BIAS:
        acc += tl.load(bias + cols, mask=cols < width, other=0.0).to(tl.float32)[None, :]
        if GEGLU:
            gate += tl.load(bias + width + cols, mask=cols < width, other=0.0).to(tl.float32)[None, :]
    if GEGLU:
        acc = acc * gate * 0.5 * (1.0 + tl.erf(gate * 0.7071067811865476))
    mask = (rows_at < rows)[:, None] & (cols < width)[None, :]
    place = rows_at[:, None].to(tl.int64) * width + cols[None, :]
    if HAS_RESIDUAL:
        acc += tl.load(residual + place, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + place, acc.to(out.dtype.element_ty), mask=mask)


class Tile(NamedTuple):
    """One program's share of the output, and how it gets there."""

    m: int
    n: int
    k: int
    warps: int
    stages: int


def tile(rows: int, width: int, depth: int, *, geglu: bool) -> Tile:
    """A tile that keeps all multiprocessors busy: large for large products, small for deep, narrow ones."""
    if geglu:
        return Tile(128, 128, 64, 8, 3) if rows * width >= 128 * 128 * 200 else Tile(128, 64, 64, 8, 3)
    if rows * width >= 128 * 128 * 240:
        return Tile(128, 128, 64, 8, 3)
    if rows * width >= 128 * 64 * 100:
        return Tile(128, 64, 64, 4, 4)
    return Tile(64, 64, 64, 4, 5)


def supports(x: Tensor, weight: Tensor) -> bool:
    """Whether the kernel takes x (..., K) and weight (N, K): dense, whole blocks of K, 16-byte rows."""
    return (
        x.is_contiguous()
        and weight.is_contiguous()
        and x.data_ptr() % 16 == 0
        and weight.data_ptr() % 16 == 0
        and x.shape[-1] % 64 == 0
        and weight.shape[0] % 16 == 0
    )


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    *,
    geglu: bool = False,
    shape: Tile | None = None,
) -> Tensor:
    """x W^T + bias + residual, or value * gelu(gate) where W's rows are (value, gate).

    x (..., K), weight (N, K) or (2 N, K), bias of as many, residual (..., N) contiguous -> (..., N).
    """
    depth = x.shape[-1]
    rows = x.numel() // depth
    width = weight.shape[0] // (2 if geglu else 1)
    shape = shape or tile(rows, width, depth, geglu=geglu)
    out = torch.empty(*x.shape[:-1], width, dtype=x.dtype, device=x.device)
    a = TensorDescriptor(x, [rows, depth], [depth, 1], [shape.m, shape.k])
    w = TensorDescriptor(weight, [weight.shape[0], depth], [depth, 1], [shape.n, shape.k])
    _linear_kernel[(-(-rows // shape.m) * -(-width // shape.n),)](
        a, w, bias, residual, out, rows, width, depth,
        HAS_BIAS=bias is not None, HAS_RESIDUAL=residual is not None, GEGLU=geglu,
        BLOCK_M=shape.m, BLOCK_N=shape.n, BLOCK_K=shape.k, GROUP=8,
        num_warps=shape.warps, num_stages=shape.stages,
    )  # fmt: skip
    return out
