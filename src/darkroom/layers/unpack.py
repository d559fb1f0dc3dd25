"""Quantized weights as matrices, by the fastest means there is."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from darkroom.layers import kernels
from darkroom.quant.packed import PackedTensor


def unpack(packed: PackedTensor, dtype: torch.dtype) -> Tensor:
    """The weight as a contiguous tensor of `dtype`, on the device of its bytes."""
    if not is_fast(packed):
        return packed.decode(dtype)
    from darkroom.layers.kernels import dequantize

    device = packed.data.device
    out = torch.empty(packed.shape, dtype=dtype, device=device)
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():  # where Triton launches
        return dequantize.dequantize(packed, out)


def is_fast(packed: PackedTensor) -> bool:
    """Whether there is a kernel for it."""
    if not kernels.usable_on(packed.data.device):
        return False
    from darkroom.layers.kernels import dequantize

    return dequantize.supports(packed)
