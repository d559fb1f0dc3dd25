"""The one entry to attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from darkroom.layers import blocked_attention, kernels


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d) + mask) v, arXiv 1706.03762 equation 1.

    q: (b, n, l, d), k, v: (b, n, s, d), mask: broadcastable to (b, n, l, s), bool (False hides) or additive
    ->  (b, n, l, d). Inputs may be strided views; nothing is copied where the device's kernel allows it.
    """
    if mask is None and kernels.usable(q):
        from darkroom.layers.kernels import attention as fused

        if fused.supports(q, k, v):
            return fused.attention(q, k, v, q.shape[-1] ** -0.5)
    if mask is None and blocked_attention.supports(q):
        return blocked_attention.attention(q, k, v)
    return F.scaled_dot_product_attention(q, k, v, mask)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(b, l, n*d) as a view (b, n, l, d)."""
    return torch.unflatten(x, -1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(b, n, l, d) back to (b, l, n*d); a view when the memory is (b, l, n, d)."""
    return x.transpose(1, 2).flatten(2)
