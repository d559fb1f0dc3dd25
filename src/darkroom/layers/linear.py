"""Linear projections, with the residual sum and the gate that follow them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """x W^T + b (+ residual).

    x: (..., D_in), residual: (..., D_out) or None  ->  (..., D_out)
    """

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:  # noqa: D102
        out = F.linear(x, self.weight, self.bias)
        return out if residual is None else out + residual


class GEGLU(nn.Module):
    """Gated linear unit with the exact GELU (arXiv 2002.05202): value * gelu(gate), both from one projection.

    x: (..., D_in)  ->  (..., D_out)
    """

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.proj = Linear(width_in, 2 * width_out)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        value, gate = self.proj(x).chunk(2, dim=-1)
        out: Tensor = value * F.gelu(gate)
        return out
