"""The one entry to attention."""

from __future__ import annotations

import threading

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from darkroom.layers import blocked_attention, kernels

# The widest head that torch's own kernels for CUDA keep on chip.
_MAX_FUSED_WIDTH = 256

# The scores that wide heads hold at a time.
_WIDE_BLOCK_BYTES = 256 << 20

# Texts have all lengths, and for each new one cuDNN takes up to a second to compile its masked kernel.
_SHORT = 1024
_READY_MADE = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
# Which kernels may be taken is a setting of the process: two threads at once would not restore it.
_CHOOSING = threading.Lock()


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """softmax(scale q k^T + mask) v, arXiv 1706.03762 equation 1.

    q: (b, n, l, d), k, v: (b, n, s, d), mask: broadcastable to (b, n, l, s), bool (False hides) or additive,
    scale: 1 / sqrt(d) if None
    ->  (b, n, l, d). Inputs may be strided views; nothing is copied where the device's kernel allows it.
    """
    is_plain = mask is None and scale is None
    if is_plain and blocked_attention.supports(q):
        return blocked_attention.attention(q, k, v)
    if is_plain and kernels.usable(q) and q.shape[-1] > _MAX_FUSED_WIDTH:
        return _wide_attention(q, k, v)
    if mask is not None and kernels.usable(q) and q.shape[-2] <= _SHORT:
        with _CHOOSING, sdpa_kernel(_READY_MADE):
            return F.scaled_dot_product_attention(q, k, v, mask, scale=scale)
    return F.scaled_dot_product_attention(q, k, v, mask, scale=scale)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(b, l, n*d) as a view (b, n, l, d)."""
    return torch.unflatten(x, -1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(b, n, l, d) back to (b, l, n*d); a view when the memory is (b, l, n, d)."""
    return x.transpose(1, 2).flatten(2)


def _wide_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention on CUDA as two matrix products with float32 scores between, for a block of rows at a time.

    For an autoencoder's one head of 512 it takes less than half the time of torch's kernel, which spills.
    """
    b, n, l, d = q.shape
    q, k, v = (x.reshape(b * n, -1, d) for x in (q * d**-0.5, k, v))
    rows = max(1, _WIDE_BLOCK_BYTES // (4 * b * n * k.shape[1]))
    parts = []
    for part in q.split(rows, dim=1):
        scores = torch.bmm(part, k.transpose(1, 2), out_dtype=torch.float32)
        parts.append(torch.bmm(torch.softmax(scores, dim=-1).to(v.dtype), v))
    out = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
    return out.view(b, n, l, d)
