"""Attention over several streams of tokens at once (arXiv 2403.03206)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from darkroom.layers import kernels
from darkroom.layers.attention import attention, merge_heads, split_heads
from darkroom.layers.norm import rms_norm
from darkroom.layers.rope import apply_rope


@dataclass(frozen=True)
class Stream:
    """One stream's part of a joint attention.

    q, k, v: (b, l, n*d), views of one projection or tensors of their own.
    q_norm, k_norm: weights (d,) of the RMS norm of each head, or None for none.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    q_norm: Tensor | None = None
    k_norm: Tensor | None = None


def joint_attention(
    streams: Sequence[Stream],
    heads: int,
    *,
    rope: Tensor | None = None,
    mask: Tensor | None = None,
    eps: float = 1e-6,
) -> tuple[Tensor, ...]:
    """Every token of every stream attends to all tokens of all streams.

    rope: (l, d/2, 2), the table of layers.rope for the streams' tokens one after the other, or None.
    mask: (b, l) bool, False for tokens that nobody may see, or None. eps: of the RMS norms.
    ->  for each stream (b, l_i, n*d)
    """
    q, k, v = _heads(streams, heads, rope, eps)  # (b, n, l, d)
    out = merge_heads(attention(q, k, v, None if mask is None else mask[:, None, None]))
    return torch.split(out, [stream.q.shape[1] for stream in streams], dim=1)


def _heads(
    streams: Sequence[Stream], heads: int, rope: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v of all streams one after the other, (b, n, l, d) each, normalised and turned."""
    if kernels.usable(streams[0].q):
        from darkroom.layers.kernels import heads as fused

        parts = [(stream.q, stream.k, stream.v) for stream in streams]
        norms = [(stream.q_norm, stream.k_norm) for stream in streams]
        if fused.supports(heads, parts, norms, rope):
            return fused.joined(heads, parts, norms, rope, eps)
    q = torch.cat([_normed(split_heads(stream.q, heads), stream.q_norm, eps) for stream in streams], dim=2)
    k = torch.cat([_normed(split_heads(stream.k, heads), stream.k_norm, eps) for stream in streams], dim=2)
    v = torch.cat([split_heads(stream.v, heads) for stream in streams], dim=2)
    return (q, k, v) if rope is None else (apply_rope(q, rope), apply_rope(k, rope), v)


def _normed(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    return x if weight is None else rms_norm(x, weight, eps)
