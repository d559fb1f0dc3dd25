"""Norms against torch's, with what is added before and the SiLU after."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from darkroom.layers.norm import (
    GroupNorm,
    GroupNormSiLU,
    LayerNorm,
    gated_residual,
    gated_residual_norm,
    modulated_layer_norm,
    modulated_rms_norm,
    normed_residual,
    normed_residual_norm,
    pixel_norm,
)


@pytest.mark.parametrize("kind", [GroupNorm, GroupNormSiLU])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@torch.inference_mode()
def test_group_norm(kind: type[GroupNorm], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    norm = kind(64, eps=1e-6).to(dtype)
    norm.weight.normal_()
    norm.bias.normal_()
    x = (torch.randn(2, 64, 6, 5) * 3 + 1).to(dtype).contiguous(memory_format=torch.channels_last)
    shift, conv_bias = torch.randn(2, 64, dtype=dtype), torch.randn(64, dtype=dtype)

    shifted = x.double() + shift.double()[:, :, None, None] + conv_bias.double()[:, None, None]
    expected = F.group_norm(shifted, 32, norm.weight.double(), norm.bias.double(), 1e-6)
    expected = F.silu(expected) if kind is GroupNormSiLU else expected
    got = norm(x, shift, conv_bias)

    tolerance = 1e-5 if dtype == torch.float32 else 6e-2
    torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=tolerance)
    assert got.is_contiguous(memory_format=torch.channels_last)


def test_silu_keeps_gradients() -> None:
    norm, x = GroupNormSiLU(32), torch.randn(1, 32, 4, 4, requires_grad=True)
    norm(x).sum().backward()
    assert x.grad is not None


@torch.inference_mode()
def test_layer_norm() -> None:
    x = torch.randn(2, 7, 16)
    torch.testing.assert_close(LayerNorm(16)(x), F.layer_norm(x, (16,)))


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("frames", [(), (3,)], ids=("picture", "video"))
@torch.inference_mode()
def test_pixel_norm(frames: tuple[int, ...], dtype: torch.dtype, silu: bool) -> None:
    torch.manual_seed(0)
    gamma = torch.randn(24, 1, 1, 1, dtype=dtype)
    conv_bias = torch.randn(24, dtype=dtype)
    x = (torch.randn(2, 24, *frames, 4, 5) * 50).to(dtype)
    x[0] = 0  # pixels without a length
    column = (24,) + (1,) * (x.dim() - 2)

    expected = F.normalize(x.double(), dim=1) * 24**0.5 * gamma.double().view(column)
    biased = F.normalize(x.double() + conv_bias.double().view(column), dim=1)
    biased = biased * 24**0.5 * gamma.double().view(column)
    if silu:
        expected, biased = F.silu(expected), F.silu(biased)

    tolerance = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}[dtype]
    got = pixel_norm(x, gamma, silu=silu)
    torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=tolerance)
    got = pixel_norm(x, gamma, conv_bias=conv_bias, silu=silu)
    torch.testing.assert_close(got.double(), biased, rtol=tolerance, atol=tolerance)


@torch.inference_mode()
def test_pixel_norm_keeps_channels_last() -> None:
    x = torch.randn(2, 24, 4, 5).contiguous(memory_format=torch.channels_last)
    assert pixel_norm(x, torch.ones(24, 1, 1)).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@torch.inference_mode()
def test_modulation(dtype: torch.dtype) -> None:
    """Modulated norms and gated sums as their formulas say, in float64."""
    torch.manual_seed(0)
    x, y = torch.randn(2, 2, 5, 16, dtype=dtype)
    gate, shift, scale = torch.randn(2, 48, dtype=dtype)[:, None].chunk(3, dim=-1)
    weight, next_weight = torch.randn(2, 16, dtype=dtype)

    def rms(x: Tensor, weight: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight

    def layer(x: Tensor) -> Tensor:
        return F.layer_norm(x, (16,), eps=1e-6) * (1 + scale.double()) + shift.double()

    total = x.double() + gate.double() * y.double()
    normed = x.double() + gate.double() * rms(y.double(), weight.double())
    modulated = rms(normed, next_weight.double()) * (1 + scale.double())
    expected = [
        (modulated_layer_norm(x, shift, scale), layer(x.double())),
        (modulated_rms_norm(x, weight, scale), rms(x.double(), weight.double()) * (1 + scale.double())),
        (gated_residual(x, gate, y), total),
        *zip(gated_residual_norm(x, gate, y, shift, scale), (total, layer(total)), strict=True),
        (normed_residual(x, gate, y, weight), normed),
        *zip(normed_residual_norm(x, gate, y, weight, next_weight, scale), (normed, modulated), strict=True),
    ]
    tolerance = 1e-5 if dtype == torch.float32 else 5e-2
    for got, formula in expected:
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), formula, rtol=tolerance, atol=tolerance)
