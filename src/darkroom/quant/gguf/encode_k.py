"""Weights to k-quants, with the weights and searches of ggml's quantize_row_*_K_impl for an even importance.

Encoders take float32 (n, 256) and give uint8 (n, nbytes); k.py has the other direction.
"""

from __future__ import annotations

import torch
from torch import Tensor

from darkroom.quant.gguf.bits import f16_bytes, join_planes
from darkroom.quant.gguf.search import EPSILON, fit_affine, fit_positive, fit_symmetric


def encode_q2_k(blocks: Tensor) -> Tensor:
    """Sixteen groups of 16, a scale and a minimum of 4 bits each."""
    weight = _importance(blocks, 1)
    d, scales, dmin, minimums = _scales_and_minimums(blocks, weight, 16, levels=3, scale_levels=15)
    q = _quantized(blocks, _rounded(d) * scales, _rounded(dmin) * minimums, levels=3)
    packed = (scales.byte() | (minimums.byte() << 4)).contiguous()
    return torch.cat([packed, join_planes(q, (0, 2, 4, 6), 32), f16_bytes(d), f16_bytes(dmin)], dim=1)


def encode_q3_k(blocks: Tensor) -> Tensor:
    """Sixteen groups of 16, a signed scale of 6 bits each."""
    weight = _importance(blocks, 2)
    scales = fit_symmetric(_columns(blocks, 16), _columns(weight, 16), 4).view(-1, 16)
    sums = weight.view(-1, 16, 16).sum(2)
    d = fit_symmetric(scales.T.contiguous(), sums.T.contiguous(), 32)[:, None]
    whole = _over(scales, d).round_().clamp_(-32, 31)
    q = _over(blocks.view(-1, 16, 16), (_rounded(d) * whole)[..., None]).round_().clamp_(-4, 3).add_(4)
    q, code = q.flatten(1).byte(), whole.add(32).byte()
    return torch.cat(
        [
            join_planes(q >> 2, tuple(range(8)), 32),
            join_planes(q & 3, (0, 2, 4, 6), 32),
            join_planes(code & 0x0F, (0, 4), 8),
            join_planes(code >> 4, (0, 2, 4, 6), 4),
            f16_bytes(d),
        ],
        dim=1,
    )


def encode_q4_k(blocks: Tensor) -> Tensor:
    """Eight groups of 32, a scale and a minimum of 6 bits each."""
    head, q = _scaled_by_six_bits(blocks, 15)
    return torch.cat([head, join_planes(q, (0, 4), 32)], dim=1)


def encode_q5_k(blocks: Tensor) -> Tensor:
    """As q4_k, fifth bits apart."""
    head, q = _scaled_by_six_bits(blocks, 31)
    high = join_planes(q >> 4, tuple(range(8)), 32)
    return torch.cat([head, high, join_planes(q & 0x0F, (0, 4), 32)], dim=1)


def encode_q6_k(blocks: Tensor) -> Tensor:
    """Sixteen groups of 16, a signed scale of 8 bits each; all weights count the same."""
    scales = fit_symmetric(_columns(blocks, 16), None, 32).view(-1, 16)
    extreme = scales.gather(1, scales.abs().argmax(1, keepdim=True))
    d = torch.where(extreme.abs() < EPSILON, 0, extreme / -128)
    whole = _over(scales, d).round_().clamp_(-128, 127)
    q = _over(blocks.view(-1, 16, 16), (_rounded(d) * whole)[..., None]).round_().clamp_(-32, 31).add_(32)
    # as ggml has it: no scale at all, no weights
    q = torch.where(d == 0, 0, q.flatten(1)).byte()
    low, high = join_planes(q & 0x0F, (0, 4), 64), join_planes(q >> 4, (0, 2, 4, 6), 32)
    return torch.cat([low, high, whole.to(torch.int8).view(torch.uint8), f16_bytes(d)], dim=1)


def _scaled_by_six_bits(blocks: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """What q4_k and q5_k begin with, float16 scales and 12 bytes of groups' scales, and the integers."""
    weight = _importance(blocks, 2)
    d, scales, dmin, minimums = _scales_and_minimums(blocks, weight, 32, levels=levels, scale_levels=63)
    q = _quantized(blocks, _rounded(d) * scales, _rounded(dmin) * minimums, levels=levels)
    scale, minimum = scales.byte(), minimums.byte()
    head = [
        f16_bytes(d),
        f16_bytes(dmin),
        scale[:, :4] | (scale[:, 4:] >> 4 << 6),
        minimum[:, :4] | (minimum[:, 4:] >> 4 << 6),
        (scale[:, 4:] & 0x0F) | (minimum[:, 4:] << 4),
    ]
    return torch.cat(head, dim=1), q


def _scales_and_minimums(
    blocks: Tensor, weight: Tensor, group: int, *, levels: int, scale_levels: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scale of the scales, whole scales, and the same of the minimums: (n, 1), (n, groups), twice."""
    scale, least = fit_affine(_columns(blocks, group), _columns(weight, group), levels, through_zero=True)
    sums = weight.view(len(blocks), -1, group).sum(2).T.contiguous()
    d, scales = fit_positive(scale.view(len(blocks), -1).T.contiguous(), sums, scale_levels)
    dmin, minimums = fit_positive(-least.view(len(blocks), -1).T.contiguous(), sums, scale_levels)
    return d[:, None], scales.T, dmin[:, None], minimums.T


def _quantized(blocks: Tensor, scale: Tensor, minimum: Tensor, *, levels: int) -> Tensor:
    """(x + minimum) / scale of each group as whole numbers: uint8 (n, 256)."""
    groups = blocks.view(*scale.shape, -1)
    q = _over(groups + minimum[..., None], scale[..., None])
    return q.round_().clamp_(0, levels).flatten(1).byte()


def _importance(blocks: Tensor, factor: int) -> Tensor:
    """How much an error of each weight counts: more for large ones."""
    squares = blocks.square()
    return (squares + factor * squares.mean(dim=1, keepdim=True)).sqrt_()


def _columns(blocks: Tensor, group: int) -> Tensor:
    return blocks.reshape(-1, group).T.contiguous()


def _rounded(d: Tensor) -> Tensor:
    """As the block will hold it."""
    return d.to(torch.float16).to(torch.float32)


def _over(values: Tensor, d: Tensor) -> Tensor:
    """values / d, and 0 where d is."""
    return torch.where(d == 0, 0, values / d)
