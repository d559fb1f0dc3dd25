"""The types of 32 weights with one scale: q4_0 q4_1 q5_0 q5_1 q8_0, and q1_0 with 128.

Block layouts are ggml's (ggml-common.h); both directions are checked against the gguf package, bit by bit.
Decoders take uint8 (n, nbytes) and give float32 (n, elements); encoders go the other way.
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


def encode_q4_0(blocks: Tensor) -> Tensor:
    """The value farthest from zero becomes -8 d."""
    d = _extreme(blocks) / blocks.new_tensor(-8)
    q = (blocks * _inverse(d) + 8.5).to(torch.uint8).clamp(max=15)
    return torch.cat([_f16_bytes(d), _pair(q)], dim=1)


def encode_q4_1(blocks: Tensor) -> Tensor:
    """The least value is m, the greatest m + 15 d."""
    d, low = _range(blocks, 15)
    q = ((blocks - low) * _inverse(d) + 0.5).to(torch.uint8).clamp(max=15)
    return torch.cat([_f16_bytes(d), _f16_bytes(low), _pair(q)], dim=1)


def encode_q5_0(blocks: Tensor) -> Tensor:
    """The value farthest from zero becomes -16 d."""
    d = _extreme(blocks) / blocks.new_tensor(-16)
    q = (blocks * _inverse(d) + 16.5).to(torch.uint8).clamp(max=31)
    return torch.cat([_f16_bytes(d), _fifth_bits(q), _pair(q)], dim=1)


def encode_q5_1(blocks: Tensor) -> Tensor:
    """The least value is m, the greatest m + 31 d."""
    d, low = _range(blocks, 31)
    q = ((blocks - low) * _inverse(d) + 0.5).to(torch.uint8).clamp(max=31)
    return torch.cat([_f16_bytes(d), _f16_bytes(low), _fifth_bits(q), _pair(q)], dim=1)


def encode_q8_0(blocks: Tensor) -> Tensor:
    """The value farthest from zero becomes 127 d or -127 d; halves round away from zero."""
    d = blocks.abs().amax(dim=1, keepdim=True) / blocks.new_tensor(127)
    scaled = blocks * _inverse(d)
    magnitude = scaled.abs()
    whole = magnitude.floor()
    q = torch.sign(scaled) * (whole + (2 * (magnitude - whole)).floor())
    return torch.cat([_f16_bytes(d), q.to(torch.int8).view(torch.uint8)], dim=1)


def _extreme(blocks: Tensor) -> Tensor:
    return blocks.gather(1, blocks.abs().argmax(dim=1, keepdim=True))


def _range(blocks: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    low = blocks.amin(dim=1, keepdim=True)
    return (blocks.amax(dim=1, keepdim=True) - low) / blocks.new_tensor(levels), low


def _inverse(d: Tensor) -> Tensor:
    return torch.where(d == 0, torch.zeros_like(d), 1 / d)


def _f16_bytes(values: Tensor) -> Tensor:
    return values.to(torch.float16).view(torch.uint8)


def _pair(q: Tensor) -> Tensor:
    """Two halves of a block into the low and high halves of its bytes."""
    return (q[:, :16] & 0x0F) | (q[:, 16:] << 4)


def _fifth_bits(q: Tensor) -> Tensor:
    weights = torch.tensor([1 << i for i in range(8)], dtype=torch.uint8, device=q.device)
    return ((q >> 4).reshape(-1, 4, 8) * weights).sum(dim=2, dtype=torch.uint8)
