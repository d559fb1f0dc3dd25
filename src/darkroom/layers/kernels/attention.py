"""Attention for narrow heads (d <= 64) with online softmax (FlashAttention-2, arXiv 2307.08691).

Reads q, k and v where the projections left them (any strides with unit stride along d) and writes
(b, l, n, d), the layout that the output projection reads: no copy on either side.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

MAX_HEAD = 64
LOG2_E = 1.4426950408889634


@triton.jit
def _attention_kernel(
    q, k, v, out, heads, queries, keys, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    # Tiles are loaded as (1, rows, 1, d): what lies past the keys or past d arrives as zeros.
    sample = tl.program_id(1) // heads
    head = tl.program_id(1) % heads
    row = tl.program_id(0) * BLOCK_M
    query = q.load([sample, row, head, 0]).reshape([BLOCK_M, BLOCK_D])
    peak = tl.full([BLOCK_M], float("-inf"), dtype=tl.float32)
    total = tl.zeros([BLOCK_M], dtype=tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)
    for start in range(0, keys, BLOCK_N):
        key = k.load([sample, start, head, 0]).reshape([BLOCK_N, BLOCK_D])
        scores = tl.dot(query, key.T)
        if not EVEN:
            scores = tl.where((start + tl.arange(0, BLOCK_N) < keys)[None, :], scores, float("-inf"))
        new_peak = tl.maximum(peak, tl.max(scores, axis=1) * scale)
        weights = tl.exp2(scores * scale - new_peak[:, None])
        decay = tl.exp2(peak - new_peak)
        total = total * decay + tl.sum(weights, axis=1)
        value = v.load([sample, start, head, 0]).reshape([BLOCK_N, BLOCK_D])
        acc = tl.dot(weights.to(value.dtype), value, acc * decay[:, None])
        peak = new_peak
    acc = acc / total[:, None]
    rows = row + tl.arange(0, BLOCK_M)
    dims = tl.arange(0, BLOCK_D)
    place = out + ((sample.to(tl.int64) * queries + rows[:, None]) * heads + head) * D + dims[None, :]
    tl.store(place, acc.to(out.dtype.element_ty), mask=(rows < queries)[:, None] & (dims < D)[None, :])


class Tile(NamedTuple):
    """Queries and keys that a program takes at a time."""

    queries: int
    keys: int
    warps: int
    stages: int


def tile(queries: int, keys: int) -> Tile:
    """Several small programs to a multiprocessor: one computes exponentials while another multiplies."""
    if keys <= 128:
        return Tile(64, 128 if keys > 64 else 64, 4, 1)
    return Tile(64, 128, 4, 2) if queries >= 1024 else Tile(64, 64, 4, 2)


def supports(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether the kernel takes q (b, n, l, d), k and v: narrow heads, unit stride, 16-byte rows along d."""
    return q.shape[-1] <= MAX_HEAD and all(
        t.stride(-1) == 1 and t.data_ptr() % 16 == 0 and all(s % 8 == 0 for s in t.stride()[:-1])
        for t in (q, k, v)
    )


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float, *, shape: Tile | None = None) -> Tensor:
    """softmax(q k^T scale) v: q (b, n, l, d), k, v (b, n, s, d) -> (b, n, l, d), a view of (b, l, n, d)."""
    batch, heads, queries, width = q.shape
    keys = k.shape[2]
    shape = shape or tile(queries, keys)
    padded = max(16, triton.next_power_of_2(width))
    out = torch.empty(batch, queries, heads, width, dtype=q.dtype, device=q.device)
    _attention_kernel[(-(-queries // shape.queries), batch * heads)](
        _rows(q, shape.queries, padded), _rows(k, shape.keys, padded), _rows(v, shape.keys, padded),
        out, heads, queries, keys, scale * LOG2_E,
        D=width, BLOCK_D=padded, BLOCK_M=shape.queries, BLOCK_N=shape.keys, EVEN=keys % shape.keys == 0,
        num_warps=shape.warps, num_stages=shape.stages,
    )  # fmt: skip
    return out.transpose(1, 2)


def _rows(x: Tensor, rows: int, padded: int) -> TensorDescriptor:
    batch, heads, length, width = x.shape
    strides = [x.stride(0), x.stride(2), x.stride(1), 1]
    return TensorDescriptor(x, [batch, length, heads, width], strides, [1, rows, 1, padded])
