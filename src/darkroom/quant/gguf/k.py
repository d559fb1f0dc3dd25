"""The k-quants: super-blocks of 256 weights, scales of 16 or 32 weights that are quantized themselves.

Block layouts are ggml's (ggml-common.h). Decoders take uint8 (n, nbytes) and give float32 (n, 256).
"""

from __future__ import annotations

import torch
from torch import Tensor

from darkroom.quant.gguf.bits import f16, nibbles, planes


def decode_q2_k(blocks: Tensor) -> Tensor:
    """Sixteen groups of 16: d scale q - dmin min; scale and min share a byte."""
    scales = blocks[:, :16]
    d = f16(blocks, 80) * (scales & 0x0F)
    minimum = f16(blocks, 82) * (scales >> 4)
    q = planes(blocks[:, 16:80], (0, 2, 4, 6), 3, 32).flatten(1).reshape(-1, 16, 16)
    return (d[..., None] * q - minimum[..., None]).flatten(1)


def decode_q3_k(blocks: Tensor) -> Tensor:
    """Sixteen groups of 16: d (scale - 32) (q - 4 where the high bit is clear)."""
    low = nibbles(blocks[:, 96:104], 8)  # (n, 16)
    high = planes(blocks[:, 104:108], (0, 2, 4, 6), 3, 4).flatten(1)  # (n, 16)
    d = f16(blocks, 108) * ((low | (high << 4)).to(torch.float32) - 32)
    q = planes(blocks[:, 32:96], (0, 2, 4, 6), 3, 32).flatten(1)
    keep = planes(blocks[:, :32], tuple(range(8)), 1, 32).flatten(1)
    signed = q.to(torch.float32) - ((keep ^ 1) << 2)
    return (d[..., None] * signed.reshape(-1, 16, 16)).flatten(1)


def decode_q4_k(blocks: Tensor) -> Tensor:
    """Eight groups of 32: d scale q - dmin min."""
    d, minimum = _scales_and_mins(blocks)
    q = nibbles(blocks[:, 16:], 32).reshape(-1, 8, 32)
    return (d[..., None] * q - minimum[..., None]).flatten(1)


def decode_q5_k(blocks: Tensor) -> Tensor:
    """As q4_k, fifth bits apart."""
    d, minimum = _scales_and_mins(blocks)
    high = planes(blocks[:, 16:48], tuple(range(8)), 1, 32).flatten(1)
    q = (nibbles(blocks[:, 48:], 32) | (high << 4)).reshape(-1, 8, 32)
    return (d[..., None] * q - minimum[..., None]).flatten(1)


def decode_q6_k(blocks: Tensor) -> Tensor:
    """Sixteen groups of 16: d scale (q - 32), two high bits apart."""
    d = f16(blocks, 208) * blocks[:, 192:208].contiguous().view(torch.int8)
    low = nibbles(blocks[:, :128], 64)
    high = planes(blocks[:, 128:192], (0, 2, 4, 6), 3, 32).flatten(1)
    q = (low | (high << 4)).to(torch.float32) - 32
    return (d[..., None] * q.reshape(-1, 16, 16)).flatten(1)


def _scales_and_mins(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Eight 6-bit scales and eight 6-bit minimums out of 12 bytes, times the block's d and dmin: (n, 8) each.

    Bytes 0-3 hold the low six bits of scales 0-3, bytes 4-7 those of minimums 0-3; their top two bits belong
    to numbers 4-7, whose low four bits share bytes 8-11.
    """
    first, second, shared = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = torch.cat([first & 0x3F, (shared & 0x0F) | ((first >> 2) & 0x30)], dim=1)
    minimums = torch.cat([second & 0x3F, (shared >> 4) | ((second >> 2) & 0x30)], dim=1)
    return f16(blocks, 0) * scales, f16(blocks, 2) * minimums
