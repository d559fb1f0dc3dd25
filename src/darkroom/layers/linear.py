"""Linear projections, with the residual sum and the gate that follow them."""

from __future__ import annotations

from typing import Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darkroom.layers import kernels, onednn
from darkroom.layers.parts import Parts


class Linear(nn.Linear):
    """x W^T + b (+ residual).

    x: (..., D_in), residual: (..., D_out) or None  ->  (..., D_out)
    """

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:  # noqa: D102
        return linear(x, self.weight, self.bias, residual)


@runtime_checkable
class MakesMatrix(Protocol):
    """A layer that computes x W^T + bias with a matrix that it has to make."""

    def matrix(self, x: Tensor) -> Tensor | None:
        """W for products with x, good until another layer is used; None where `forward` needs none whole."""


def matrix_of(layer: nn.Module, x: Tensor) -> Tensor | None:
    """W of a layer that is x W^T + bias and nothing else, for those who multiply themselves; else None."""
    if type(layer) is Linear:
        return layer.weight
    return layer.matrix(x) if isinstance(layer, MakesMatrix) else None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None = None) -> Tensor:
    """x W^T + bias + residual.

    x: (..., D_in), weight: (D_out, D_in), bias: (D_out,), residual: (..., D_out)  ->  (..., D_out)
    """
    if onednn.usable(x):
        return onednn.linear(x, weight, bias, residual)
    if residual is None:
        return F.linear(x, weight, bias)
    if kernels.usable(x) and residual.is_contiguous():
        from darkroom.layers.kernels import pointwise

        return pointwise.add_(F.linear(x, weight), bias, residual)
    return F.linear(x, weight, bias) + residual


class GEGLU(nn.Module):
    """Gated linear unit with the exact GELU (arXiv 2002.05202): value * gelu(gate), both from one projection.

    x: (..., D_in)  ->  (..., D_out)
    """

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.proj = Linear(width_in, 2 * width_out)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        if kernels.usable(x) and (weight := matrix_of(self.proj, x)) is not None:
            from darkroom.layers.kernels import pointwise

            return pointwise.geglu(F.linear(x, weight), self.proj.bias)
        if onednn.usable(x) and type(self.proj) is Linear:
            return onednn.geglu(x, self.proj.weight, self.proj.bias)
        value, gate = self.proj(x).chunk(2, dim=-1)
        out: Tensor = value * F.gelu(gate)
        return out


class SwiGLU(nn.Module):
    """Gated feed-forward without biases (arXiv 2002.05202): w2(silu(w1 x) * w3 x), named as Llama names it.

    x: (..., D)  ->  (..., D)
    """

    def __init__(self, width: int, width_hidden: int) -> None:
        super().__init__()
        self.w1 = Linear(width, width_hidden, bias=False)
        self.w2 = Linear(width_hidden, width, bias=False)
        self.w3 = Linear(width, width_hidden, bias=False)

    def parts(self) -> Parts:
        """Hidden channels."""
        hidden = (self.w2.in_features,)
        return Parts({self.w1: hidden, self.w3: hidden}, {self.w2: hidden})

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        out: Tensor = self.w2(silu_gated(self.w1(x), self.w3(x)))
        return out


def silu_gated(gate: Tensor, value: Tensor) -> Tensor:
    """silu(gate) * value, elementwise; (..., D), which may be halves of one tensor  ->  (..., D)."""
    if kernels.usable(gate) and gate.dtype == value.dtype:
        from darkroom.layers.kernels import pointwise

        if (out := pointwise.silu_gated(gate, value)) is not None:
            return out
    return F.silu(gate) * value


def linear_gelu(x: Tensor, layer: nn.Module) -> Tensor:
    """GELU, by its tanh approximation, of a projection; x: (..., D_in)  ->  (..., D_out)."""
    if (weight := matrix_of(layer, x)) is not None:
        return product_gelu(x, weight, cast("Tensor | None", layer.bias))
    return F.gelu(layer(x), approximate="tanh")


def product_gelu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The same of x W^T + bias; x: (..., D_in), weight: (D_out, D_in), bias: (D_out,)  ->  (..., D_out)."""
    if kernels.usable(x) and bias is not None:
        # cuBLAS applies this GELU to the product before it leaves the chip.
        out = torch._addmm_activation(bias, x.flatten(0, -2), weight.t(), use_gelu=True)
        return out.view(*x.shape[:-1], -1)
    return F.gelu(linear(x, weight, bias), approximate="tanh")
