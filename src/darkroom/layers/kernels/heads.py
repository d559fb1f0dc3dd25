"""Queries, keys and values of one stream, normalised, turned and laid beside those of other streams."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

_WIDTHS = (16, 32, 64, 128, 256)

# Numbers of a tile, and the heads of one program, which share what is read of the rope table.
_TILE = 2048
_HEADS = 4


@triton.jit
def _turned(tile, weight, cos, sin, eps, TOKENS: tl.constexpr, WIDTH: tl.constexpr):
    """Heads (TOKENS, WIDTH), normalised by the root of their mean square, then neighbours turned."""
    if weight is not None:
        rms = tl.rsqrt(tl.sum(tile * tile, axis=1) / WIDTH + eps)
        tile = tile * rms[:, None] * weight[None, :]
    if cos is not None:
        even, odd = tl.split(tl.reshape(tile, (TOKENS, WIDTH // 2, 2)))
        tile = tl.reshape(tl.join(even * cos - odd * sin, even * sin + odd * cos), (TOKENS, WIDTH))
    return tile


@triton.jit(do_not_specialize=["length", "heads"])
def _heads_kernel(
    q, k, v, q_norm, k_norm, rope, q_out, k_out, v_out,
    length, heads, q_b, q_l, k_b, k_l, v_b, v_l, rope_b, out_b, out_l, eps,
    TOKENS: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(2).to(tl.int64)
    token = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    first = tl.program_id(1) * HEADS
    cols = tl.arange(0, WIDTH)
    row = token[:, None]
    inside = row < length
    q_weight, k_weight, cos, sin = None, None, None, None
    if q_norm is not None:
        q_weight = tl.load(q_norm + cols).to(tl.float32)
    if k_norm is not None:
        k_weight = tl.load(k_norm + cols).to(tl.float32)
    if rope is not None:
        table = tl.load(rope + sample * rope_b + row * WIDTH + cols[None, :], mask=inside, other=0.0)
        cos, sin = tl.split(tl.reshape(table, (TOKENS, WIDTH // 2, 2)))
    for head in range(first, tl.minimum(first + HEADS, heads)):
        col = head * WIDTH + cols[None, :]
        to = sample * out_b + row * out_l + col
        tile = tl.load(q + sample * q_b + row * q_l + col, mask=inside, other=0.0).to(tl.float32)
        tile = _turned(tile, q_weight, cos, sin, eps, TOKENS, WIDTH)
        tl.store(q_out + to, tile.to(q_out.dtype.element_ty), mask=inside)
        tile = tl.load(k + sample * k_b + row * k_l + col, mask=inside, other=0.0).to(tl.float32)
        tile = _turned(tile, k_weight, cos, sin, eps, TOKENS, WIDTH)
        tl.store(k_out + to, tile.to(k_out.dtype.element_ty), mask=inside)
        if v_out is not None:
            tl.store(v_out + to, tl.load(v + sample * v_b + row * v_l + col, mask=inside), mask=inside)


def supports(
    heads: int,
    parts: Sequence[tuple[Tensor, Tensor, Tensor]],
    norms: Sequence[tuple[Tensor | None, Tensor | None]],
    rope: Tensor | None,
) -> bool:
    """Whether `joined` takes these: heads of a power of two, rows without gaps, one type."""
    first = parts[0][0]
    width = first.shape[-1] // heads
    return (
        width in _WIDTHS
        and all(x.stride(-1) == 1 and x.dtype == first.dtype for part in parts for x in part)
        and all(norm is None or norm.is_contiguous() for pair in norms for norm in pair)
        and (rope is None or (rope.is_contiguous() and rope.shape[-2] * 2 == width))
    )


def joined(
    heads: int,
    parts: Sequence[tuple[Tensor, Tensor, Tensor]],
    norms: Sequence[tuple[Tensor | None, Tensor | None]],
    rope: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The heads of all streams one after the other, (b, n, l, d) each; a lone stream's v is a view.

    parts: q, k, v of each stream, (b, l_i, n*d) of any strides. norms: weights (d,) of the RMS norms of its q
    and k, or None. rope: the table of all tokens, (l, d/2, 2) or (1 or b, l, d/2, 2) float32, or None.
    """
    first = parts[0][0]
    shape = (first.shape[0], sum(q.shape[1] for q, _, _ in parts), heads, first.shape[-1] // heads)
    is_lone = len(parts) == 1
    q, k, *rest = torch.empty((2 if is_lone else 3, *shape), dtype=first.dtype, device=first.device)
    v = parts[0][2].unflatten(-1, shape[2:]) if is_lone else rest[0]
    offset = 0
    for part, pair in zip(parts, norms, strict=True):
        rows = slice(offset, offset + part[0].shape[1])
        turns = None if rope is None else rope[..., rows, :, :]
        _place(part, pair, turns, (q[:, rows], k[:, rows], None if is_lone else v[:, rows]), eps)
        offset = rows.stop
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def _place(
    parts: tuple[Tensor, Tensor, Tensor],
    norms: tuple[Tensor | None, Tensor | None],
    rope: Tensor | None,
    into: tuple[Tensor, Tensor, Tensor | None],
    eps: float,
) -> None:
    q, k, v = parts
    batch, length, heads, width = into[0].shape
    rope_b = 0 if rope is None or rope.ndim == 3 or rope.shape[0] == 1 else rope.stride(0)
    tokens = _TILE // width
    _heads_kernel[(triton.cdiv(length, tokens), triton.cdiv(heads, _HEADS), batch)](
        q, k, v, *norms, rope, *into,
        length, heads, *q.stride()[:2], *k.stride()[:2], *v.stride()[:2],
        rope_b, *into[0].stride()[:2], eps,
        TOKENS=tokens, HEADS=_HEADS, WIDTH=width, num_warps=4,
    )  # fmt: skip
