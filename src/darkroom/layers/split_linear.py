"""A projection of which every device computes a part (layers.parts)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from darkroom.layers.linear import Linear


class SummedLinear(nn.Module):
    """Stands in for a Linear of whose inputs each device has some.

    x: (..., D_in / devices), residual: (..., D_out) or None  ->  (..., D_out), the same on every device
    """

    def __init__(self, part: Linear, total: Callable[[Tensor], Tensor]) -> None:
        """`total` adds up what all devices give it; `part` has the bias on one of them."""
        super().__init__()
        self.part = part
        self.total = total

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:  # noqa: D102
        out = self.total(self.part(x))
        return out if residual is None else out + residual
