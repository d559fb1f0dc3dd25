"""The two layers of a parallel transformer block (arXiv 2302.05442), without copies of its widest tensors.

Such a block computes attention and feed-forward side by side: one layer makes the inputs of both, another
sums up the outputs of both. Taken as they are written, what lies between the two layers is copied twice.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darkroom.layers import kernels
from darkroom.layers.linear import linear, matrix_of, product_gelu
from darkroom.layers.split_linear import SummedLinear


def linear_and_gelu(x: Tensor, layer: nn.Module, width: int) -> tuple[Tensor, Tensor]:
    """The first `width` outputs of a projection as they are, the others through GELU's tanh approximation.

    x: (..., D_in)  ->  (..., width), (..., D_out - width)
    """
    weight = matrix_of(layer, x)
    if weight is None:
        out: Tensor = layer(x)
        return out[..., :width], F.gelu(out[..., width:], approximate="tanh")
    bias = cast("Tensor | None", layer.bias)
    plain_bias, hidden_bias = (None, None) if bias is None else (bias[:width], bias[width:])
    plain = linear(x, weight[:width], plain_bias)
    return plain, product_gelu(x, weight[width:], hidden_bias)


def joined_linear(first: Tensor, second: Tensor, layer: nn.Module) -> Tensor:
    """A projection of two inputs side by side.

    first: (..., D_1), second: (..., D_2)  ->  (..., D_out)
    """
    if isinstance(layer, SummedLinear):
        return layer.total(joined_linear(first, second, layer.part))
    weight = matrix_of(layer, first) if kernels.usable(first) else None
    if weight is None:
        out: Tensor = layer(torch.cat((first, second), dim=-1))
        return out
    weights = torch.split(weight, [first.shape[-1], second.shape[-1]], dim=1)
    out = F.linear(first, weights[0], cast("Tensor | None", layer.bias))
    out.flatten(0, -2).addmm_(second.flatten(0, -2), weights[1].t())
    return out
