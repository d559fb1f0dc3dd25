"""8-bit floats, plain or with a scale beside them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

DTYPES: dict[str, torch.dtype] = {"f8_e4m3": torch.float8_e4m3fn, "f8_e5m2": torch.float8_e5m2}
"""Format names and torch's types (arXiv:2209.05433; e4m3 has no infinities)."""

CHUNK = 1 << 20


def decode(
    data: Tensor, format: str, shape: tuple[int, ...], dtype: torch.dtype, scale: Tensor | None = None
) -> Tensor:
    """The values times `scale` as a contiguous tensor of `dtype`, the product rounded once.

    data: uint8 (numel,). scale: float32, one value, or one for each row of `shape`.
    """
    values = data.view(DTYPES[format])
    out = torch.empty(values.shape, dtype=dtype, device=data.device)
    if scale is None:
        return out.copy_(values).reshape(shape)
    factors = scale.to(device=data.device, dtype=torch.float32).reshape(-1)
    if factors.numel() == 1:
        for start in range(0, values.numel(), CHUNK):
            part = values[start : start + CHUNK].to(torch.float32)
            out[start : start + CHUNK] = part.mul_(factors)
        return out.reshape(shape)
    rows, width = shape[0], math.prod(shape[1:])
    step = max(1, CHUNK // max(width, 1))
    matrix, target = values.view(rows, width), out.view(rows, width)
    for start in range(0, rows, step):
        part = matrix[start : start + step].to(torch.float32)
        target[start : start + step] = part.mul_(factors[start : start + step, None])
    return out.reshape(shape)
