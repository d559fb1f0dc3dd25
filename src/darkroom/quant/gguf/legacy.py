"""The types of 32 weights with one scale: q4_0 q4_1 q5_0 q5_1 q8_0, and q1_0 with 128.

Block layouts are ggml's (ggml-common.h). Decoders take uint8 (n, nbytes) and give float32 (n, elements).
"""

from __future__ import annotations

import torch
from torch import Tensor

from darkroom.quant.gguf.bits import f16, nibbles, shifted


def decode_q4_0(blocks: Tensor) -> Tensor:
    """d (q - 8)."""
    return f16(blocks, 0) * (nibbles(blocks[:, 2:], 16).to(torch.float32) - 8)


def decode_q4_1(blocks: Tensor) -> Tensor:
    """d q + m."""
    return f16(blocks, 0) * nibbles(blocks[:, 4:], 16) + f16(blocks, 2)


def decode_q5_0(blocks: Tensor) -> Tensor:
    """d (q - 16), fifth bits apart."""
    return f16(blocks, 0) * (_five_bits(blocks[:, 2:6], blocks[:, 6:]).to(torch.float32) - 16)


def decode_q5_1(blocks: Tensor) -> Tensor:
    """d q + m, fifth bits apart."""
    return f16(blocks, 0) * _five_bits(blocks[:, 4:8], blocks[:, 8:]) + f16(blocks, 2)


def decode_q8_0(blocks: Tensor) -> Tensor:
    """d q."""
    return blocks[:, 2:].view(torch.int8) * f16(blocks, 0)


def decode_q1_0(blocks: Tensor) -> Tensor:
    """d where the bit is set, else -d."""
    bits = shifted(blocks[:, 2:], tuple(range(8)), 1).flatten(1)
    return f16(blocks, 0) * (bits.to(torch.float32) * 2 - 1)


def _five_bits(high: Tensor, low: Tensor) -> Tensor:
    bits = shifted(high, tuple(range(8)), 1).flatten(1)  # (n, 32), the first weight's bit first
    return nibbles(low, 16) | (bits << 4)
