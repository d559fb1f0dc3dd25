"""Products of a few tokens with packed weights, which are read as they lie and never written out.

With so few tokens reading the weights is the work, and packed there are fewer bytes to read.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from darkroom.layers.kernels.dequantize import FORMATS, OCTET, layout, values
from darkroom.quant.packed import PackedTensor

MAX_TOKENS = 4

# Octets of a row that a program reads at a time, one for each thread.
_TILE = 128
_WARPS = 4


@triton.jit(do_not_specialize=["tokens", "row_octets", "outputs", "scales"])
def _product_kernel(
    x, data, scale, bias, out, tokens, row_octets, outputs, scales,
    FORMAT: tl.constexpr, OCTETS: tl.constexpr, NBYTES: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """One output of one token for each program; neighbours share weights, which are read from memory once."""
    token, output = tl.program_id(0) % tokens, tl.program_id(0) // tokens
    lane = tl.arange(0, 8)
    data += output.to(tl.int64) * (row_octets // OCTETS * NBYTES)
    x += token * row_octets * 8
    total = tl.zeros((TILE, 8), tl.float32)
    for start in range(0, row_octets, TILE):
        place = start + tl.arange(0, TILE)
        octet = tl.minimum(place, row_octets - 1)
        weights = values(data + octet // OCTETS * NBYTES, octet % OCTETS, lane, FORMAT, OCTETS)
        factors = tl.load(x + octet[:, None] * 8 + lane[None, :]).to(tl.float32)
        total += tl.where((place < row_octets)[:, None], weights * factors, 0.0)
    result = tl.sum(tl.sum(total, axis=1), axis=0)
    if scale is not None:
        result *= tl.load(scale + output % scales).to(tl.float32)
    if bias is not None:
        result += tl.load(bias + output).to(tl.float32)
    tl.store(out + token * outputs + output, result.to(out.dtype.element_ty))


def supports(x: Tensor, packed: PackedTensor) -> bool:
    """Whether `product` takes x (..., D_in) and this weight: few tokens, rows of whole blocks."""
    width = x.shape[-1]
    return (
        0 < x.numel() <= MAX_TOKENS * width
        and packed.format in FORMATS
        and width % OCTET == 0
        and packed.has_whole_rows
    )


def product(x: Tensor, packed: PackedTensor, bias: Tensor | None) -> Tensor:
    """x W^T + bias, x: (..., D_in), packed: (D_out, D_in), bias: (D_out,)  ->  (..., D_out); rounded once."""
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    tokens, width = rows.shape
    outputs = packed.shape[0]
    out = torch.empty(*x.shape[:-1], outputs, dtype=x.dtype, device=x.device)
    _product_kernel[(tokens * outputs,)](
        rows, packed.data, packed.scale, bias, out, tokens, width // OCTET, outputs,
        1 if packed.scale is None else packed.scale.numel(),
        **layout(packed.format)._asdict(), TILE=_TILE, num_warps=_WARPS,
    )  # fmt: skip
    return out
