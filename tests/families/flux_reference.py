"""What the tests of Flux and of Chroma, which is made from it, have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

FULL_WIDTH = 3072


def of_width(convert: Callable[..., Any], width: int) -> Callable[..., Any]:
    """diffusers' conversion for another width than that of the published networks, a constant in it."""
    code = convert.__code__
    constants = tuple(width if constant == FULL_WIDTH else constant for constant in code.co_consts)
    return type(convert)(code.replace(co_consts=constants), convert.__globals__)  # type: ignore[attr-defined]


def randomise(net: nn.Module) -> None:
    """Moves every weight: norms and biases too, for ones and zeros would hide swapped weights."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)


def largest_error(got: Tensor, expected: Tensor) -> float:
    """The largest difference, as a share of the largest value."""
    return float((got - expected).abs().max() / expected.abs().max())
