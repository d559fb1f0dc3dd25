"""The LayerNorm kernel against torch in float32."""

from __future__ import annotations

import pytest
import torch.nn.functional as F

from .conftest import Place


@pytest.mark.parametrize("width", [64, 320, 1280])
def test_norm(place: Place, width: int) -> None:
    from darkroom.layers.kernels import layer_norm

    x = place.randn(3, 7, width) + 2.0
    weight, bias = place.randn(width), place.randn(width)
    assert layer_norm.supports(x)
    reference = F.layer_norm(x.float(), (width,), weight.float(), bias.float(), 1e-5)
    place.assert_close(layer_norm.layer_norm(x, weight, bias, 1e-5), reference)
