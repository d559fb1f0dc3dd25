"""Whole networks with the kernels against the same without them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darkroom.families.chroma.model import Chroma, ChromaNetConfig
from darkroom.families.flux.model import Flux, FluxNetConfig
from darkroom.families.qwen_image.model import QwenImageTransformer, QwenImageTransformerConfig
from darkroom.families.sd3.model import MMDiT, MMDiTConfig
from darkroom.families.z_image.model import ZImageTransformer, ZImageTransformerConfig
from darkroom.layers import kernels
from darkroom.layers.joint import join_weights
from darkroom.nets.flux_blocks import StreamsConfig
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


STREAMS = StreamsConfig(context_dim=24, hidden_size=64, head_size=32, mlp_size=256, depth=1, depth_single=2)


def flux() -> nn.Module:
    return Flux(FluxNetConfig(STREAMS, vector_dim=16, has_guidance=False))


def chroma() -> nn.Module:
    config = ChromaNetConfig(STREAMS, approximator_in=64, approximator_size=48, approximator_layers=2)
    return Chroma(config)


def sd3() -> nn.Module:
    config = MMDiTConfig(hidden_size=64, num_layers=2, num_heads=2, mlp_size=256, positions=12,
                         context_dim=24, vector_dim=16, qk_norm=True, dual_blocks=(0,))  # fmt: skip
    return MMDiT(config)


def qwen_image() -> nn.Module:
    config = QwenImageTransformerConfig(context_dim=24, num_layers=2, num_heads=2, head_size=16)
    return QwenImageTransformer(config)


def z_image() -> nn.Module:
    config = ZImageTransformerConfig(
        context_dim=24, num_layers=2, num_refiners=1, num_heads=3, head_size=16, mlp_size=128
    )
    return ZImageTransformer(config)


def as_cublas(bias: Tensor, x: Tensor, weight: Tensor, *, use_gelu: bool) -> Tensor:
    assert use_gelu
    return F.gelu(torch.addmm(bias, x, weight), approximate="tanh")


@pytest.mark.parametrize("build", [flux, chroma, sd3, qwen_image, z_image])
def test_transformers(place: Place, monkeypatch: pytest.MonkeyPatch, build: Callable[[], nn.Module]) -> None:
    net = randomised(build(), place)
    inputs = [place.randn(2, 16, 6, 10), torch.tensor([0.1, 0.7], device=place.device)]
    inputs.append(place.randn(2, 32, 24))
    if build in (flux, sd3):
        inputs.append(place.randn(2, 16))
    if place.device == "cpu":  # where torch's GELU of a product is the exact one
        monkeypatch.setattr(torch, "_addmm_activation", as_cublas)
    assert_as_exact_as_torch(place, monkeypatch, net, net, *inputs)


def test_gradients_keep_to_torch(place: Place) -> None:
    with torch.inference_mode(False), torch.enable_grad():
        assert not kernels.usable(torch.zeros(1, device=place.device, dtype=torch.bfloat16))
