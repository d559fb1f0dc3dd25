"""Pointwise kernels against torch in float32."""

from __future__ import annotations

import torch.nn.functional as F

from .conftest import Place


def test_geglu(place: Place) -> None:
    from darkroom.layers.kernels import pointwise

    x = place.randn(3, 7, 2560)
    value, gate = x.float().chunk(2, dim=-1)
    place.assert_close(pointwise.geglu(x), value * F.gelu(gate))


def test_add_bias_and_residual(place: Place) -> None:
    from darkroom.layers.kernels import pointwise

    x, bias, residual = place.randn(2, 40, 5, 5), place.randn(40), place.randn(2, 40, 5, 5)
    reference = x.float() + bias.float()[:, None, None] + residual.float()
    result = pointwise.add_bias_residual_(x, bias, residual)
    assert result is x
    place.assert_close(result, reference)
