"""Modules whose weights stay quantized in memory and are unpacked where they are used, one at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from darkroom.layers.linear import Linear, linear
from darkroom.quant.packed import PackedTensor


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
        return linear(x, self.packed.decode(x.dtype), self.bias, residual)


class PackedEmbedding(PackedModule):
    """A table of vectors, of which a call unpacks the rows it looks up, input_ids: (...)  ->  (..., D)."""

    def forward(self, input_ids: Tensor) -> Tensor:  # noqa: D102
        rows = self.packed.rows(input_ids.flatten()).decode(self.dtype)
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
