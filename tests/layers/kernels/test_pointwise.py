"""Kernels that move numbers, against torch in float32."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from darkroom.layers.linear import Linear, linear_gelu

from .conftest import Place


def pixels(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).contiguous()


@pytest.mark.parametrize("width", [24, 1280])
def test_geglu(place: Place, width: int) -> None:
    from darkroom.layers.kernels import pointwise

    x, bias = place.randn(3, 7, 2 * width), place.randn(2 * width)
    value, gate = (x.float() + bias.float()).chunk(2, dim=-1)
    place.assert_close(pointwise.geglu(x, bias), value * F.gelu(gate))


@pytest.mark.parametrize("width", [24, 1280, 10240])
def test_silu_gated(place: Place, width: int) -> None:
    from darkroom.layers.kernels import pointwise

    gate, value = place.randn(2, 5, 2 * width).chunk(2, dim=-1)
    result = pointwise.silu_gated(gate, value)
    assert result is not None
    place.assert_close(result, F.silu(gate.float()) * value.float())
    assert pointwise.silu_gated(gate.transpose(0, 1), value.transpose(0, 1)) is None  # uneven rows


@pytest.mark.gpu
def test_gelu_in_the_product() -> None:
    """cuBLAS's GELU is the tanh approximation: float32 tells it from the exact one."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    x, weight, bias = (torch.randn(*shape, device="cuda") for shape in ((333, 64), (256, 64), (256,)))
    result = torch._addmm_activation(bias, x, weight.t(), use_gelu=True)
    reference = F.gelu(F.linear(x.double(), weight.double(), bias.double()), approximate="tanh")
    assert (result - reference).norm() / reference.norm() < 1e-5


@pytest.mark.gpu
@pytest.mark.parametrize("length", [7, 4173])
def test_linear_gelu(length: int) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    layer = Linear(320, 1280).to("cuda", torch.bfloat16)
    x = torch.randn(2, length, 320, device="cuda", dtype=torch.bfloat16)
    with torch.inference_mode():
        result = linear_gelu(x, layer)
        reference = F.gelu(F.linear(x.float(), layer.weight.float(), layer.bias.float()), approximate="tanh")
    assert result.shape == reference.shape
    assert (result.float() - reference).norm() / reference.norm() < 1e-2


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
