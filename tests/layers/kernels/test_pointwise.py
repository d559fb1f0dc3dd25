"""Kernels that move numbers, against torch in float32."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from .conftest import Place


def pixels(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).contiguous()


@pytest.mark.parametrize("width", [24, 1280])
def test_geglu(place: Place, width: int) -> None:
    from darkroom.layers.kernels import pointwise

    x, bias = place.randn(3, 7, 2 * width), place.randn(2 * width)
    value, gate = (x.float() + bias.float()).chunk(2, dim=-1)
    place.assert_close(pointwise.geglu(x, bias), value * F.gelu(gate))


@pytest.mark.parametrize("has_residual", [True, False])
def test_add_bias_and_residual(place: Place, has_residual: bool) -> None:
    from darkroom.layers.kernels import pointwise

    x, bias, residual = place.randn(2, 5, 5, 40).contiguous(), place.randn(40), None
    reference = x.float() + bias.float()
    if has_residual:
        residual = place.randn(2, 5, 5, 40).contiguous()
        reference += residual.float()
    result = pointwise.add_(x, bias, residual)
    assert result is x
    place.assert_close(result, reference)


@pytest.mark.parametrize("shape", [(2, 40, 3, 5), (1, 320, 9, 8), (1, 3, 2, 2)])
def test_double(place: Place, shape: tuple[int, ...]) -> None:
    from darkroom.layers.kernels import pointwise

    x = place.randn(*shape)
    assert torch.equal(pointwise.double(pixels(x)), pixels(F.interpolate(x, scale_factor=2.0)))


@pytest.mark.parametrize("widths", [(64, 32), (40, 24), (640, 320)])
def test_join(place: Place, widths: tuple[int, int]) -> None:
    from darkroom.layers.kernels import pointwise

    x, skip = (place.randn(2, width, 5, 3) for width in widths)
    assert torch.equal(pointwise.join(pixels(x), pixels(skip)), pixels(torch.cat((x, skip), dim=1)))


@pytest.mark.parametrize("stride", [1, 2])
def test_patches(place: Place, stride: int) -> None:
    from darkroom.layers.kernels import pointwise

    x = place.randn(2, 40, 5, 6)
    taps = F.unfold(x.float(), 3, padding=1, stride=stride).unflatten(1, (40, 9))  # (b, c, 9, h' w')
    result = pointwise.patches(pixels(x), stride)
    assert torch.equal(result.flatten(1, 2).float(), taps.permute(0, 3, 2, 1).flatten(2))
