"""Weights to the types of 32 weights with one scale; legacy.py has the other direction.

The gguf package lets the farthest value choose the scale; here, but for q8_0, it is the one that leaves the
least squared error. Float32 (n, 32) to uint8 (n, nbytes).
"""

from __future__ import annotations

import torch
from torch import Tensor

from darkroom.quant.gguf.bits import f16_bytes, join_planes
from darkroom.quant.gguf.search import fit_affine, fit_symmetric


def encode_q4_0(blocks: Tensor) -> Tensor:
    """d (q - 8)."""
    d, q = _symmetric(blocks, 8)
    return torch.cat([d, join_planes(q, (0, 4), 16)], dim=1)


def encode_q4_1(blocks: Tensor) -> Tensor:
    """d q + m."""
    head, q = _affine(blocks, 15)
    return torch.cat([head, join_planes(q, (0, 4), 16)], dim=1)


def encode_q5_0(blocks: Tensor) -> Tensor:
    """d (q - 16), fifth bits apart."""
    d, q = _symmetric(blocks, 16)
    return torch.cat([d, _five_bits(q)], dim=1)


def encode_q5_1(blocks: Tensor) -> Tensor:
    """d q + m, fifth bits apart."""
    head, q = _affine(blocks, 31)
    return torch.cat([head, _five_bits(q)], dim=1)


def encode_q8_0(blocks: Tensor) -> Tensor:
    """The value farthest from zero becomes 127 d or -127 d; halves round away from zero."""
    d = blocks.abs().amax(dim=1, keepdim=True) / blocks.new_tensor(127)
    scaled = blocks * _inverse(d)
    magnitude = scaled.abs()
    whole = magnitude.floor()
    q = magnitude.sub_(whole).mul_(2).floor_().add_(whole).copysign_(scaled)
    return torch.cat([f16_bytes(d), q.to(torch.int8).view(torch.uint8)], dim=1)


def _symmetric(blocks: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    d = f16_bytes(fit_symmetric(blocks.T.contiguous(), None, levels)[:, None])
    q = _over(blocks, _value(d)).round_().clamp_(-levels, levels - 1).add_(levels)
    return d, q.byte()


def _affine(blocks: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    scale, least = fit_affine(blocks.T.contiguous(), None, levels, through_zero=False)
    d, m = f16_bytes(scale[:, None]), f16_bytes(least[:, None])
    q = _over(blocks - _value(m), _value(d)).round_().clamp_(0, levels)
    return torch.cat([d, m], dim=1), q.byte()


def _value(half: Tensor) -> Tensor:
    return half.view(torch.float16).to(torch.float32)


def _over(values: Tensor, d: Tensor) -> Tensor:
    return torch.where(d == 0, 0, values / d)


def _inverse(d: Tensor) -> Tensor:
    return torch.where(d == 0, torch.zeros_like(d), 1 / d)


def _five_bits(q: Tensor) -> Tensor:
    """Fifth bits in four bytes, the others in sixteen."""
    return torch.cat(
        [join_planes((q >> 4).view(-1, 4, 8), tuple(range(8)), 1), join_planes(q & 0x0F, (0, 4), 16)], 1
    )
