"""Every network computes with weights that stay packed what it computes with the same ones unpacked."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from darkroom.families.base import on_meta
from darkroom.families.chroma.model import Chroma, ChromaNetConfig
from darkroom.families.flux.model import Flux, FluxNetConfig
from darkroom.families.qwen_image.model import QwenImageTransformer, QwenImageTransformerConfig
from darkroom.families.sd3.model import MMDiT, MMDiTConfig
from darkroom.families.z_image.model import ZImageTransformer, ZImageTransformerConfig
from darkroom.layers.packed_linear import PackedModule
from darkroom.nets.flux_blocks import StreamsConfig
from darkroom.nets.te.clip import CLIPTextConfig, CLIPTextModel
from darkroom.nets.te.qwen import QwenConfig, QwenTextModel
from darkroom.nets.te.qwen_vision import QwenVisionConfig, QwenVisionModel
from darkroom.nets.te.t5 import T5Config, T5EncoderModel
from darkroom.nets.unet import UNetConfig, UNetModel
from darkroom.nets.vae.kl import AutoencoderKL, KLConfig
from darkroom.quant.packed import PackedTensor
from darkroom.weights.bind import bind_weights
from darkroom.weights.source import MemorySource

STREAMS = StreamsConfig(context_dim=24, hidden_size=64, head_size=32, mlp_size=256, depth=2, depth_single=2)
T = torch.tensor([0.3, 0.7])
IDS = torch.tensor([[3, 17, 5, 29, 2]])


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], Tensor]]] = {
    "unet": (
        lambda: UNetModel(
            UNetConfig(
                model_channels=64,
                channel_mult=(1, 2),
                num_res_blocks=(1, 1),
                transformer_depth=(1, 1),
                context_dim=24,
                linear_proj=True,
                adm_in_channels=16,
            )
        ),
        lambda net: net(randn(2, 4, 8, 8), 1000 * T, randn(2, 7, 24), randn(2, 16)),
    ),
    "flux": (
        lambda: Flux(FluxNetConfig(STREAMS, vector_dim=16)),
        lambda net: net(randn(2, 16, 8, 8), T, randn(2, 7, 24), randn(2, 16), T),
    ),
    "chroma": (
        lambda: Chroma(
            ChromaNetConfig(STREAMS, approximator_in=64, approximator_size=48, approximator_layers=2)
        ),
        lambda net: net(randn(2, 16, 8, 8), T, randn(2, 7, 24)),
    ),
    "sd3": (
        lambda: MMDiT(
            MMDiTConfig(
                hidden_size=128,
                num_layers=3,
                num_heads=2,
                mlp_size=512,
                positions=12,
                context_dim=48,
                vector_dim=32,
                qk_norm=True,
            )
        ),
        lambda net: net(randn(2, 16, 8, 8), 1000 * T, randn(2, 7, 48), randn(2, 32)),
    ),
    "qwen_image": (
        lambda: QwenImageTransformer(
            QwenImageTransformerConfig(channels=4, context_dim=24, num_layers=2, num_heads=2, head_size=16)
        ),
        lambda net: net(randn(2, 4, 8, 8), 1000 * T, randn(2, 7, 24)),
    ),
    "z_image": (
        lambda: ZImageTransformer(
            ZImageTransformerConfig(
                channels=4,
                context_dim=24,
                num_layers=2,
                num_refiners=1,
                num_heads=2,
                head_size=32,
                mlp_size=96,
            )
        ),
        lambda net: net(randn(2, 4, 8, 8), 1000 * T, randn(2, 7, 24)),
    ),
    "clip": (
        lambda: CLIPTextModel(CLIPTextConfig(40, 8, 64, 128, num_layers=2, num_heads=2)),
        lambda net: net(IDS),
    ),
    "t5": (lambda: T5EncoderModel(T5Config(40, 48, 80, 64, 2, 2, 32)), lambda net: net(IDS)),
    "qwen": (
        lambda: QwenTextModel(QwenConfig(40, 64, 96, 2, 4, 2, 16, has_bias=True, has_qk_norm=True)),
        lambda net: net(IDS),
    ),
    "qwen_vision": (
        lambda: QwenVisionModel(QwenVisionConfig(64, 96, 2, 2, 48, patch_size=14, frames=2)),
        lambda net: net(randn(1, 3, 56, 84).sigmoid()),
    ),
    "kl": (
        lambda: AutoencoderKL(KLConfig(ch=32, ch_mult=(1, 2))),
        lambda net: net.decode(randn(1, 4, 4, 4)),  # type: ignore[operator]
    ),
}


def random_weights(net: nn.Module) -> Mapping[str, Tensor | PackedTensor]:
    """All matrices as fp8, which has no blocks that would have to fit the tiny widths."""
    weights: dict[str, Tensor | PackedTensor] = {}
    for name, tensor in net.state_dict().items():
        values = randn(*tensor.shape) * 0.05 if tensor.is_floating_point() else torch.zeros(tensor.shape)
        if tensor.ndim == 2 and name.endswith(".weight"):
            data = values.to(torch.float8_e4m3fn).view(torch.uint8).flatten()
            weights[name] = PackedTensor(data, "f8_e4m3", tuple(tensor.shape))
        else:
            weights[name] = (values + float(tensor.ndim == 1)).to(tensor.dtype)
    return weights


@pytest.mark.parametrize("name", NETWORKS)
@torch.inference_mode()
def test_packed_equals_unpacked(name: str) -> None:
    build, call = NETWORKS[name]
    outputs = {}
    for keep_packed in (False, True):
        net = on_meta(build)().eval().requires_grad_(False)
        bind_weights(
            net,
            MemorySource(random_weights(net)),
            device=torch.device("cpu"),
            dtype=torch.float32,
            subject=name,
            keep_packed=keep_packed,
        )
        outputs[keep_packed] = call(net)
        kept = [module for module in net.modules() if isinstance(module, PackedModule)]
        assert bool(kept) is keep_packed or name == "kl"
    assert outputs[False].isfinite().all()
    torch.testing.assert_close(outputs[True], outputs[False], rtol=1e-4, atol=1e-5)
