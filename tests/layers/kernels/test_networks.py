"""Whole networks with the kernels against the same without them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from darkroom.layers import kernels
from darkroom.layers.joint import join_weights
from darkroom.nets.unet import UNetConfig, UNetModel
from darkroom.nets.vae.kl import AutoencoderKL, KLConfig

from .conftest import Place

UNET = UNetConfig(model_channels=64, channel_mult=(1, 2), num_res_blocks=(1, 1), transformer_depth=(1, 0),
                  context_dim=64)  # fmt: skip


def randomised(net: nn.Module, place: Place) -> nn.Module:
    for parameter in net.parameters():
        parameter.requires_grad_(False).add_(torch.randn_like(parameter) * 0.02)
    return net.eval().to(place.device, place.dtype).to(memory_format=torch.channels_last)


def test_unet(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    net = randomised(UNetModel(UNET), place)
    x, context = place.randn(2, 4, 8, 8), place.randn(2, 7, 64)
    t = torch.tensor([3.0, 700.0], device=place.device)
    monkeypatch.setattr(kernels, "usable", lambda x: False)
    reference = net.float()(x.float(), t, context.float())
    net.to(place.dtype)
    join_weights(net)
    monkeypatch.setattr(kernels, "usable", lambda x: True)
    place.assert_close(net(x, t, context), reference)


def test_vae(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    net = randomised(AutoencoderKL(KLConfig(ch=32, ch_mult=(1, 2), num_res_blocks=1)), place)
    z = place.randn(1, 4, 8, 8)
    monkeypatch.setattr(kernels, "usable", lambda x: False)
    reference = net.float().decode(z.float())
    net.to(place.dtype)
    monkeypatch.setattr(kernels, "usable", lambda x: True)
    place.assert_close(net.decode(z), reference)


def test_gradients_keep_to_torch(place: Place) -> None:
    with torch.inference_mode(False), torch.enable_grad():
        assert not kernels.usable(torch.zeros(1, device=place.device, dtype=torch.bfloat16))
