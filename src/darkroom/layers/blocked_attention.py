"""Attention on processors with bf16 arithmetic: product, softmax, product, for a block of rows at a time.

On such processors torch's own kernel multiplies at a fraction of what its matrix products reach (two Zen 5
cores: 137 against 700 GFLOP/s), unless they also have AMX. Scores are rounded to bf16 before the softmax,
which itself runs in float32: the result's relative error is 4.5e-3 where torch's kernel has 2.3e-3, and one
rounding to bf16 is 3.9e-3.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

# The scores of one block stay in a shared cache of this size.
_BLOCK_BYTES = 16 << 20

# Rows that make the matrix products of one head efficient; fewer heads share a block if need be.
_ROWS = 256


@functools.cache
def _is_faster() -> bool:
    return torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported()


def supports(q: Tensor) -> bool:
    """Whether `attention` is the faster way for queries like these, outside of autograd."""
    return (
        q.device.type == "cpu"
        and q.dtype == torch.bfloat16
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and _is_faster()
    )


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v.

    q: (b, n, l, d), k, v: (b, n, s, d), any strides  ->  (b, n, l, d)
    """
    b, n, l, d = q.shape
    s = k.shape[2]
    q, k, v = (x.reshape(b * n, -1, d) for x in (q, k, v))
    keys = k.transpose(1, 2)
    out = torch.empty_like(q)
    heads = min(b * n, max(1, _BLOCK_BYTES // (_ROWS * s * q.itemsize)))
    rows = min(l, max(1, _BLOCK_BYTES // (heads * s * q.itemsize)))
    block = q.new_empty(heads * rows * s)
    for head in range(0, b * n, heads):
        some = slice(head, head + heads)
        for row in range(0, l, rows):
            part = q[some, row : row + rows]
            scores = block[: part.shape[0] * part.shape[1] * s].view(*part.shape[:2], s)
            torch.baddbmm(scores, part, keys[some], beta=0, alpha=d**-0.5, out=scores)
            torch.softmax(scores, dim=-1, out=scores)
            torch.bmm(scores, v[some], out=out[some, row : row + rows])
    return out.view(b, n, l, d)
