"""Weights to ternary, 4-bit float and 4-bit table types; small.py has the other direction.

tq1_0, tq2_0, mxfp4 and nvfp4 round as ggml's quantize_row_*_ref, iq4_nl and iq4_xs search as its
quantize_row_iq4_nl_impl does for an even importance. Float32 (n, elements) to uint8 (n, nbytes).
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from darkroom.quant.gguf.bits import f16_bytes, join_planes
from darkroom.quant.gguf.search import fit_table, half_steps
from darkroom.quant.gguf.small import IQ4_VALUES, e8m0_halves

E2M1_BORDERS = (0.5, 1.5, 2.5, 3.5, 5.0, 7.0, 10.0)
"""Between the magnitudes 0 1 2 3 4 6 8 12 of doubled 4-bit floats; what lies on one goes to the lesser."""


def encode_tq1_0(blocks: Tensor) -> Tensor:
    """The value farthest from zero becomes d or -d, all others the nearest of -d, 0, d."""
    d, q = _ternary(blocks)

    def fractions(digits: Tensor, width: int, powers: tuple[int, ...]) -> Tensor:
        factors = torch.tensor(powers, dtype=torch.int16, device=digits.device).view(-1, 1)
        number = (digits.reshape(len(digits), -1, len(powers), width) * factors).sum(2, dtype=torch.int16)
        return ((number.int() * 256 + 242) // 243).byte().flatten(1)

    return torch.cat(
        [
            fractions(q[:, :160], 32, (81, 27, 9, 3, 1)),
            fractions(q[:, 160:240], 16, (81, 27, 9, 3, 1)),
            fractions(q[:, 240:], 4, (81, 27, 9, 3)),
            f16_bytes(d),
        ],
        dim=1,
    )


def encode_tq2_0(blocks: Tensor) -> Tensor:
    """As tq1_0, two bits a weight."""
    d, q = _ternary(blocks)
    return torch.cat([join_planes(q.byte(), (0, 2, 4, 6), 32), f16_bytes(d)], dim=1)


def _ternary(blocks: Tensor) -> tuple[Tensor, Tensor]:
    d = blocks.abs().amax(dim=1, keepdim=True)
    scaled = torch.where(d == 0, 0, blocks * (1 / d))
    # halves round away from zero
    return d, (torch.sign(scaled) * (scaled.abs() + 0.5).floor() + 1).to(torch.int16)


def encode_mxfp4(blocks: Tensor) -> Tensor:
    """The power of two that brings the value farthest from zero between 4 and 8; the largest float is 6."""
    top = blocks.abs().amax(dim=1, keepdim=True)
    exponent = torch.frexp(top).exponent - 1 - 2 + 127
    exponent = torch.where(top > 0, exponent.clamp(0, 254), 0)
    q = _e2m1(blocks / e8m0_halves(exponent))
    return torch.cat([exponent.byte(), join_planes(q, (0, 4), 16)], dim=1)


def encode_nvfp4(blocks: Tensor) -> Tensor:
    """Four groups of 16; the value farthest from zero becomes about 6 times its group's e4m3 scale."""
    groups = blocks.view(-1, 4, 16)
    wanted = (groups.abs().amax(dim=2) / 6).clamp(max=448)
    code = wanted.to(torch.float8_e4m3fn)
    half = code.to(torch.float32)[..., None] / 2
    q = _e2m1(torch.where(half == 0, 0, groups / half))
    return torch.cat([code.view(torch.uint8), join_planes(q.flatten(1), (0, 4), 8)], dim=1)


def _e2m1(doubled: Tensor) -> Tensor:
    """Codes of the nearest 4-bit floats to half of each value."""
    borders = torch.tensor(E2M1_BORDERS, device=doubled.device)
    magnitude = torch.bucketize(doubled.abs(), borders, out_int32=True)
    return (magnitude + 8 * ((doubled < 0) & (magnitude > 0))).byte()


def encode_iq4_nl(blocks: Tensor) -> Tensor:
    """32 indices into the table of iq4 types."""
    columns, weight = blocks.T.contiguous(), _importance(blocks).T.contiguous()
    values, codes = _nearest(blocks.device)
    d = fit_table(columns, weight, values, values[codes])[:, None]
    return torch.cat([f16_bytes(d), join_planes(_codes(blocks, d, codes), (0, 4), 16)], dim=1)


def encode_iq4_xs(blocks: Tensor) -> Tensor:
    """Eight groups of 32 indices into the same table, each with a signed 6-bit scale."""
    columns = blocks.reshape(-1, 32).T.contiguous()
    weight = _importance(blocks).reshape(-1, 32).T.contiguous()
    values, codes = _nearest(blocks.device)
    scales = fit_table(columns, weight, values, values[codes]).view(-1, 8)
    d = scales.gather(1, scales.abs().argmax(dim=1, keepdim=True)) / -32
    whole = torch.where(d == 0, 0, scales / d).round_().clamp_(-32, 31)
    rounded = d.to(torch.float16).to(torch.float32)
    q = _codes(blocks.view(-1, 8, 32), (rounded * whole)[..., None], codes).flatten(1)
    code = whole.add_(32).int()
    shifts = torch.arange(0, 16, 2, device=blocks.device)
    high = ((code >> 4) << shifts).sum(1, keepdim=True).to(torch.int16).view(torch.uint8)
    low = (code & 0x0F).byte()
    return torch.cat(
        [f16_bytes(d), high, low[:, ::2] | (low[:, 1::2] << 4), join_planes(q, (0, 4), 16)], dim=1
    )


def _importance(blocks: Tensor) -> Tensor:
    squares = blocks.square()
    return (squares + 2 * squares.mean(dim=1, keepdim=True)).sqrt_()


def _codes(values: Tensor, d: Tensor, codes: Tensor) -> Tensor:
    """Indices of the table's nearest values to values / d."""
    return codes[half_steps(torch.where(d == 0, 0, values / d))].byte()


@cache
def _nearest(device: torch.device) -> tuple[Tensor, Tensor]:
    """The table's values, and for each of `half_steps` the index of the nearest one."""
    values = torch.tensor(IQ4_VALUES, dtype=torch.float32, device=device)
    borders = values[:-1] + values[1:]  # twice the middle between two: whole numbers
    steps = torch.arange(-256, 256, dtype=torch.float32, device=device)
    return values, torch.bucketize(steps, borders, right=True)
