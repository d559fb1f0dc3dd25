"""The iq types: groups of weights are entries of a code book, with signs and small scales.

Block layouts are ggml's (ggml-common.h). Decoders take uint8 (n, nbytes) and give float32 (n, 256).
"""

from __future__ import annotations

import torch
from torch import Tensor

from darkroom.quant.gguf import grids
from darkroom.quant.gguf.bits import f16, i16, i32, shifted

EIGHT = tuple(range(8))
IQ1_DELTA = 0.125


def decode_iq2_xxs(blocks: Tensor) -> Tensor:
    """32 weights in 8 bytes: four codes, then four 7-bit sign patterns and a 4-bit scale."""
    field = blocks[:, 2:].reshape(-1, 8, 8)  # (n, 8, 8)
    word = i32(field[..., 4:]).squeeze(-1)  # (n, 8)
    scale = f16(blocks, 0) * (0.5 + _scale_bits(word)) * 0.25
    signs = _parity_signs(shifted(word, (0, 7, 14, 21), 0x7F))  # (n, 8, 4, 8)
    values = _entries(grids.IQ2_XXS, field[..., :4])  # (n, 8, 4, 8)
    return (scale[..., None, None] * values * signs).flatten(1)


def decode_iq2_xs(blocks: Tensor) -> Tensor:
    """8 weights in 16 bits, a 9-bit code and 7 bits of signs; a 4-bit scale for 16."""
    word = i16(blocks[:, 2:66]).reshape(-1, 16, 2)  # (n, 16, 2)
    scale = f16(blocks, 0) * (0.5 + shifted(blocks[:, 66:], (0, 4), 0x0F).flatten(1)) * 0.25
    values = _entries(grids.IQ2_XS, word & 0x1FF)  # (n, 16, 2, 8)
    return (scale[..., None, None] * values * _parity_signs(word >> 9)).flatten(1)


def decode_iq2_s(blocks: Tensor) -> Tensor:
    """8 weights a code of 10 bits, the two high ones apart; plain sign bits; a 4-bit scale for 16."""
    high = shifted(blocks[:, 66:74], (0, 2, 4, 6), 3).flatten(1)
    code = (blocks[:, 2:34].int() | (high.int() << 8)).reshape(-1, 16, 2)
    signs = _signs(blocks[:, 34:66]).reshape(-1, 16, 2, 8)
    scale = f16(blocks, 0) * (0.5 + shifted(blocks[:, 74:], (0, 4), 0x0F).flatten(1)) * 0.25
    return (scale[..., None, None] * _entries(grids.IQ2_S, code) * signs).flatten(1)


def decode_iq3_xxs(blocks: Tensor) -> Tensor:
    """4 weights a code of 8 bits; sign patterns and scales of 32 weights in a word of their own."""
    word = i32(blocks[:, 66:])  # (n, 8)
    scale = f16(blocks, 0) * (0.5 + _scale_bits(word)) * 0.5
    signs = _parity_signs(shifted(word, (0, 7, 14, 21), 0x7F))  # (n, 8, 4, 8)
    values = _entries(grids.IQ3_XXS, blocks[:, 2:66]).flatten(1).reshape(-1, 8, 4, 8)
    return (scale[..., None, None] * values * signs).flatten(1)


def decode_iq3_s(blocks: Tensor) -> Tensor:
    """4 weights a code of 9 bits, the high one apart; plain sign bits; a 4-bit scale for 32."""
    code = blocks[:, 2:66].int() | (shifted(blocks[:, 66:74], EIGHT, 1).flatten(1).int() << 8)
    signs = _signs(blocks[:, 74:106]).reshape(-1, 8, 4, 8)
    scale = f16(blocks, 0) * (1 + 2 * shifted(blocks[:, 106:], (0, 4), 0x0F).flatten(1))
    values = _entries(grids.IQ3_S, code).flatten(1).reshape(-1, 8, 4, 8)
    return (scale[..., None, None] * values * signs).flatten(1)


def decode_iq1_s(blocks: Tensor) -> Tensor:
    """8 weights a code of 11 bits; 32 weights share a 3-bit scale and the sign of an offset."""
    word = i16(blocks[:, 34:])  # (n, 8)
    scale = f16(blocks, 0) * (2 * ((word >> 12) & 7) + 1)
    delta = torch.where(word & 0x8000 == 0, IQ1_DELTA, -IQ1_DELTA)
    code = blocks[:, 2:34].int().reshape(-1, 8, 4) | (shifted(word, (0, 3, 6, 9), 7) << 8)
    values = _entries(grids.IQ1_S, code) + delta[..., None, None]
    return (scale[..., None, None] * values).flatten(1)


def decode_iq1_m(blocks: Tensor) -> Tensor:
    """As iq1_s, a scale for 16 weights, an offset for 8; the float16 hides in the scales' top bits."""
    words = i16(blocks[:, 48:])  # (n, 4)
    nibble = words >> 12
    bits = nibble[:, 0] | (nibble[:, 1] << 4) | (nibble[:, 2] << 8) | (nibble[:, 3] << 12)
    d = bits.to(torch.int16).view(torch.float16).to(torch.float32)[:, None]
    scale = d * (2 * shifted(words, (0, 3, 6, 9), 7).flatten(1) + 1)  # (n, 16)
    high = shifted(blocks[:, 32:48], (0, 4), 0x0F).flatten(1).int()  # (n, 32)
    delta = torch.where(high & 8 == 0, IQ1_DELTA, -IQ1_DELTA)
    values = _entries(grids.IQ1_S, blocks[:, :32].int() | ((high & 7) << 8)) + delta[..., None]  # (n, 32, 8)
    return (scale[..., None, None] * values.reshape(-1, 16, 2, 8)).flatten(1)


def _entries(book: grids.CodeBook, code: Tensor) -> Tensor:
    return grids.entries(book, code.device)[code.int()]


def _scale_bits(word: Tensor) -> Tensor:
    return ((word >> 28) & 0x0F).to(torch.float32)


def _signs(bits: Tensor) -> Tensor:
    """Each byte as eight factors: (n, k) -> (n, k, 8) float32, -1 where the bit is set."""
    return 1 - 2 * shifted(bits, EIGHT, 1).to(torch.float32)


def _parity_signs(pattern: Tensor) -> Tensor:
    """Seven bits of signs; the eighth makes their number even: (...) -> (..., 8) float32."""
    bits = shifted(pattern, tuple(range(7)), 1)
    return 1 - 2 * torch.cat([bits, bits.sum(-1, keepdim=True) & 1], dim=-1).to(torch.float32)
