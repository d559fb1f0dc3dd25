"""Linear layers with and without autograd give the same, residual sum and gate included."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from darkroom.layers.linear import GEGLU, Linear

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 8e-3}
DTYPES = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)


def error(got: Tensor, expected: Tensor) -> float:
    return ((got.double() - expected).abs().max() / expected.abs().max()).item()


def double(layer: Linear, x: Tensor) -> Tensor:
    bias = None if layer.bias is None else layer.bias.double()
    return F.linear(x.double(), layer.weight.double(), bias)


@DTYPES
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(24,), (5, 24), (2, 77, 24), (2, 4, 4, 24)], ids=str)
@torch.inference_mode()
def test_linear(shape: tuple[int, ...], bias: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer, x = Linear(24, 40, bias=bias).to(dtype), torch.randn(shape, dtype=dtype)
    assert error(layer(x), double(layer, x)) < TOLERANCE[dtype]


@DTYPES
@pytest.mark.parametrize("is_strided", [False, True])
@torch.inference_mode()
def test_residual_is_added_and_kept(is_strided: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer, x = Linear(24, 40).to(dtype), torch.randn(2, 7, 24, dtype=dtype)
    residual = torch.randn(2, 40, 7, dtype=dtype).mT if is_strided else torch.randn(2, 7, 40, dtype=dtype)
    before = residual.clone()
    assert error(layer(x, residual), double(layer, x) + residual.double()) < TOLERANCE[dtype]
    assert residual.equal(before)


@DTYPES
@torch.inference_mode()
def test_strided_input(dtype: torch.dtype) -> None:
    layer, x = Linear(24, 40).to(dtype), torch.randn(2, 24, 7, dtype=dtype).mT
    assert error(layer(x), double(layer, x)) < TOLERANCE[dtype]


@DTYPES
@torch.inference_mode()
def test_geglu(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer, x = GEGLU(24, 40).to(dtype), torch.randn(2, 7, 24, dtype=dtype)
    value, gate = double(layer.proj, x).chunk(2, -1)
    assert error(layer(x), value * F.gelu(gate)) < TOLERANCE[dtype]


def test_geglu_has_gradients() -> None:
    layer = GEGLU(8, 16)
    layer(torch.randn(3, 8)).sum().backward()
    assert layer.proj.weight.grad is not None
