"""8-bit floats, plain or with a scale beside them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

DTYPES: dict[str, torch.dtype] = {"f8_e4m3": torch.float8_e4m3fn, "f8_e5m2": torch.float8_e5m2}
"""Format names and torch's types (arXiv:2209.05433; e4m3 has no infinities)."""

CHUNK = 1 << 18
"""Elements for one step on a processor, so that they stay in its cache."""


def decode(
    data: Tensor, format: str, shape: tuple[int, ...], dtype: torch.dtype, scale: Tensor | None = None
) -> Tensor:
    """The values times `scale` as a contiguous tensor of `dtype`, the product rounded once.

    data: uint8 (numel,). scale: float32, one value, or one for each row of `shape`.
    """
    out = torch.empty(data.shape, dtype=dtype, device=data.device)
    factors = None if scale is None else scale.to(device=data.device, dtype=torch.float32).reshape(-1)
    has_rows = factors is not None and factors.numel() > 1
    width = max(1, math.prod(shape[1:])) if has_rows else 1
    step = max(1, (CHUNK if data.device.type == "cpu" else 64 * CHUNK) // width)  # rows
    source, target = data.view(-1, width), out.view(-1, width)
    for start in range(0, len(source), step):
        values = _values(source[start : start + step], format)
        if factors is not None:
            values = values.float().mul_(factors[start : start + step, None] if has_rows else factors)
        target[start : start + step] = values
    return out.reshape(shape)


def _values(data: Tensor, format: str) -> Tensor:
    """The numbers in a type that holds them exactly, memory of their own; torch has no vector code for e4m3.

    Its bits are in their places for a bfloat16 that is too small by the difference of the exponents' biases.
    """
    if format == "f8_e4m3" and data.device.type == "cpu":
        words = data.view(torch.int8).to(torch.int16)
        magnitude = words & 0x7F
        if int(magnitude.max()) < 0x7F:  # which is no number
            bits = magnitude.bitwise_left_shift_(4).bitwise_or_(words.bitwise_and_(-0x8000))
            return bits.view(torch.bfloat16).mul_(2.0**120)
    return data.view(DTYPES[format]).to(torch.float32)
