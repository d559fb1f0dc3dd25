"""Modules whose weights stay quantized in memory and are unpacked where they are used, one at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from darkroom.layers import kernels
from darkroom.layers.linear import Linear, linear
from darkroom.layers.unpack import unpack
from darkroom.quant.packed import PackedTensor

CHUNK = 1 << 21
"""Weights that a processor unpacks at a time: they stay in its cache, and one weight is never there whole."""


class PackedModule(nn.Module):
    """Stands in for a module with one weight matrix.

    weight: its packed bytes, a buffer under the weight's own name. weight_scale: of scaled fp8, or None.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", None)
        self.register_buffer("weight_scale", None, persistent=False)
        self.format = ""
        self.shape: tuple[int, ...] = ()

    def hold(self, packed: PackedTensor, dtype: torch.dtype) -> None:
        """Takes a weight. dtype: what it is unpacked to where no input says."""
        self.weight, self.weight_scale = packed.data, packed.scale
        self.format, self.shape, self.dtype = packed.format, packed.shape, dtype

    @property
    def packed(self) -> PackedTensor:
        """The weight, wherever its bytes are now."""
        return PackedTensor(self.weight, self.format, self.shape, self.weight_scale)


class PackedLinear(PackedModule):
    """A Linear, its weight unpacked to the input's type for each call.

    x: (..., D_in), residual: (..., D_out) or None  ->  (..., D_out)
    """

    def __init__(self, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.bias = bias

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:  # noqa: D102
        weight = self.packed
        if has_product(x, weight):
            from darkroom.layers.kernels import packed_product

            out = packed_product.product(x, weight, self.bias)
            return out if residual is None else out + residual
        if _goes_by_rows(x, weight):
            return _product_by_rows(x, weight, self.bias, residual)
        return linear(x, unpack(weight, x.dtype), self.bias, residual)

    def matrix(self, x: Tensor) -> Tensor | None:
        """W for products with x; None where `forward` needs none whole."""
        weight = self.packed
        return None if has_product(x, weight) or _goes_by_rows(x, weight) else unpack(weight, x.dtype)


def has_product(x: Tensor, weight: PackedTensor) -> bool:
    """Whether x is so short that its product is made of the packed bytes."""
    if not kernels.usable(x):
        return False
    from darkroom.layers.kernels import packed_product

    return packed_product.supports(x, weight)


def _goes_by_rows(x: Tensor, weight: PackedTensor) -> bool:
    return x.device.type == "cpu" and weight.numel > CHUNK and weight.has_whole_rows


def _product_by_rows(x: Tensor, weight: PackedTensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
    """x W^T + bias + residual, a few rows unpacked at a time and multiplied while they are in the cache."""
    rows, width = weight.shape
    out = x.new_empty(*x.shape[:-1], rows)
    step = max(1, CHUNK // width)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        part = weight.row_slice(start, stop)
        assert isinstance(part, PackedTensor), "rows of whole blocks"
        part_bias = None if bias is None else bias[start:stop]
        out[..., start:stop] = linear(x, unpack(part, x.dtype), part_bias)
    return out if residual is None else out.add_(residual)


class PackedEmbedding(PackedModule):
    """A table of vectors, of which a call unpacks the rows it looks up, input_ids: (...)  ->  (..., D)."""

    @property
    def num_embeddings(self) -> int:
        """Rows of the table."""
        return self.shape[0]

    def forward(self, input_ids: Tensor) -> Tensor:  # noqa: D102
        rows = unpack(self.packed.rows(input_ids.flatten()), self.dtype)
        return rows.view(*input_ids.shape, -1)


def packed_form(module: nn.Module, weight: PackedTensor) -> PackedModule | None:
    """A module that does the same with `weight` packed: itself if it is one; None where there is none."""
    if isinstance(module, PackedModule):
        return module
    if type(module) is Linear:
        return PackedLinear(module.bias).train(module.training)
    if type(module) is nn.Embedding and weight.has_whole_rows:
        return PackedEmbedding().train(module.training)
    return None
