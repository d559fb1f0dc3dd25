"""Whole networks with the kernels against the same without them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from darkroom.layers import kernels
from darkroom.layers.joint import join_weights
from darkroom.nets.unet import UNetConfig, UNetModel
from darkroom.nets.vae.kl import AutoencoderKL, KLConfig
from darkroom.nets.vae.wan import WanConfig, WanVAE
from darkroom.weights.bind import bind_weights
from darkroom.weights.source import MemorySource

from .conftest import Place

UNET = UNetConfig(model_channels=64, channel_mult=(1, 2), num_res_blocks=(1, 1), transformer_depth=(1, 0),
                  context_dim=64)  # fmt: skip


def randomised(net: nn.Module, place: Place) -> nn.Module:
    for parameter in net.parameters():
        parameter.requires_grad_(False).add_(torch.randn_like(parameter) * 0.02)
    weights = MemorySource(net.state_dict())
    bind_weights(net, weights, device=torch.device(place.device), dtype=place.dtype, subject="net")
    return net.eval()


def assert_as_exact_as_torch(
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    net: nn.Module,
    call: Callable[..., Tensor],
    *inputs: Tensor,
) -> None:
    """The kernels' distance to float32 is about that of torch's own operations in the same type."""
    monkeypatch.setattr(kernels, "usable", lambda x: False)
    plain = call(*inputs).float()
    net.float()
    reference = call(*(x.float() for x in inputs))
    net.to(place.dtype)
    join_weights(net)
    monkeypatch.setattr(kernels, "usable", lambda x: True)
    result = call(*inputs).float()
    assert result.isfinite().all()
    rounding = (plain - reference).norm() / reference.norm()
    distance = (result - reference).norm() / reference.norm()
    assert distance < max(1.3 * float(rounding), place.tolerance)


def test_unet(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    net = randomised(UNetModel(UNET), place)
    x, context = place.randn(2, 4, 8, 8), place.randn(2, 7, 64)
    t = torch.tensor([3.0, 700.0], device=place.device)
    assert_as_exact_as_torch(place, monkeypatch, net, net, x, t, context)


def test_vae(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    net = randomised(AutoencoderKL(KLConfig(ch=32, ch_mult=(1, 2), num_res_blocks=1)), place)
    assert_as_exact_as_torch(place, monkeypatch, net, net.decode, place.randn(1, 4, 8, 8))


def test_wan_vae(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    config = WanConfig(dim=16, dim_mult=(1, 2), num_res_blocks=1, temporal_downsample=(True,), z_dim=8)
    net = randomised(WanVAE(config), place)
    assert_as_exact_as_torch(place, monkeypatch, net, net.decode, place.randn(1, 8, 8, 8))


def test_gradients_keep_to_torch(place: Place) -> None:
    with torch.inference_mode(False), torch.enable_grad():
        assert not kernels.usable(torch.zeros(1, device=place.device, dtype=torch.bfloat16))
