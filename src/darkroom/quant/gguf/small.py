"""Ternary, 4-bit float and 4-bit table types: tq1_0 tq2_0 mxfp4 nvfp4 iq4_nl iq4_xs.

Block layouts are ggml's (ggml-common.h). Decoders take uint8 (n, nbytes) and give float32 (n, elements).
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from darkroom.quant.gguf.bits import f16, i16, nibbles, planes, shifted

IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)

E2M1_VALUES = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
"""Twice the 4-bit floats of the OCP microscaling formats 1.0 (arXiv:2310.10537): integers."""


def decode_tq1_0(blocks: Tensor) -> Tensor:
    """Five ternary digits in a byte as a fraction of 243; d (digit - 1)."""

    def digits(field: Tensor, width: int, powers: tuple[int, ...]) -> Tensor:
        factors = _table(powers, field.device).to(torch.uint8).view(-1, 1)
        return (field.reshape(field.shape[0], -1, 1, width) * factors).flatten(
            1
        )  # wraps: only the fraction counts

    scaled = torch.cat(
        [
            digits(blocks[:, :32], 32, (1, 3, 9, 27, 81)),
            digits(blocks[:, 32:48], 16, (1, 3, 9, 27, 81)),
            digits(blocks[:, 48:52], 4, (1, 3, 9, 27)),
        ],
        dim=1,
    )
    digit = (scaled.to(torch.int16) * 3) >> 8
    return f16(blocks, 52) * (digit.to(torch.float32) - 1)


def decode_tq2_0(blocks: Tensor) -> Tensor:
    """Two bits a weight; d (q - 1)."""
    q = planes(blocks[:, :64], (0, 2, 4, 6), 3, 32).flatten(1)
    return f16(blocks, 64) * (q.to(torch.float32) - 1)


def decode_mxfp4(blocks: Tensor) -> Tensor:
    """32 e2m1 floats and a power of two (e8m0)."""
    d = e8m0_halves(blocks[:, :1].to(torch.int32))
    return d * _table(E2M1_VALUES, blocks.device)[nibbles(blocks[:, 1:], 16).int()]


def e8m0_halves(exponent: Tensor) -> Tensor:
    """Half of 2^(e - 127) for each e, int32."""
    # e below 2 is subnormal in float32
    bits = torch.where(exponent < 2, 0x00200000 << exponent.clamp(max=1), (exponent - 1) << 23)
    return bits.view(torch.float32)


def decode_nvfp4(blocks: Tensor) -> Tensor:
    """Four groups of 16 e2m1 floats, each with an unsigned e4m3 scale."""
    d = _ue4m3_halves(blocks.device)[blocks[:, :4].int()]  # (n, 4)
    q = planes(blocks[:, 4:], (0, 4), 0x0F, 8).flatten(2)  # (n, 4, 16)
    return (d[..., None] * _table(E2M1_VALUES, blocks.device)[q.int()]).flatten(1)


def decode_iq4_nl(blocks: Tensor) -> Tensor:
    """32 indices into a table that is denser around zero."""
    return f16(blocks, 0) * _table(IQ4_VALUES, blocks.device)[nibbles(blocks[:, 2:], 16).int()]


def decode_iq4_xs(blocks: Tensor) -> Tensor:
    """Eight groups of 32 indices into the same table, each with a 6-bit scale."""
    low = shifted(blocks[:, 4:8], (0, 4), 0x0F).flatten(1)  # (n, 8)
    high = shifted(i16(blocks[:, 2:4]), tuple(range(0, 16, 2)), 3).flatten(1)  # (n, 8)
    d = f16(blocks, 0) * ((low | (high << 4)).to(torch.float32) - 32)
    q = nibbles(blocks[:, 8:], 16).reshape(-1, 8, 32)
    return (d[..., None] * _table(IQ4_VALUES, blocks.device)[q.int()]).flatten(1)


@cache
def _table(values: tuple[int, ...], device: torch.device) -> Tensor:
    """Kept, so that a GPU is handed it once."""
    return torch.tensor(values, dtype=torch.float32, device=device)


@cache
def _ue4m3_halves(device: torch.device) -> Tensor:
    """Half of what each byte means as e4m3 without a sign; 0x7f is zero, the top bit is ignored otherwise."""
    code = torch.arange(256, device=device)
    exponent, mantissa = (code >> 3) & 0x0F, (code & 7).to(torch.float32)
    normal = (1 + mantissa / 8) * torch.exp2(exponent.to(torch.float32) - 7)
    value = torch.where(exponent == 0, mantissa * 2.0**-9, normal) * 0.5
    value[0x7F] = 0
    return value
