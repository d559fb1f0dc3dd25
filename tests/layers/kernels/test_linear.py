"""The matrix product with its endings against torch in float32."""

from __future__ import annotations

import pytest
import torch.nn.functional as F

from .conftest import Place

SHAPES = pytest.mark.parametrize(("rows", "depth", "width"), [(100, 64, 48), (300, 128, 320), (16, 256, 64)])


@SHAPES
def test_bias_and_residual(place: Place, rows: int, depth: int, width: int) -> None:
    from darkroom.layers.kernels import linear

    x, weight = place.randn(rows, depth), place.randn(width, depth, scale=depth**-0.5)
    bias, residual = place.randn(width), place.randn(rows, width)
    assert linear.supports(x, weight)
    reference = F.linear(x.float(), weight.float(), bias.float()) + residual.float()
    place.assert_close(linear.linear(x, weight, bias, residual), reference)


@SHAPES
def test_geglu(place: Place, rows: int, depth: int, width: int) -> None:
    from darkroom.layers.kernels import linear

    x, weight = place.randn(rows, depth), place.randn(2 * width, depth, scale=depth**-0.5)
    bias = place.randn(2 * width)
    value, gate = F.linear(x.float(), weight.float(), bias.float()).chunk(2, dim=-1)
    place.assert_close(linear.linear(x, weight, bias, geglu=True), value * F.gelu(gate))


def test_refuses_ragged_depth(place: Place) -> None:
    from darkroom.layers.kernels import linear

    assert not linear.supports(place.randn(8, 40), place.randn(64, 40))
