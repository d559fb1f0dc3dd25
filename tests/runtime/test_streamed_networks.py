"""No network reads the weights of a block except when it calls it, or declares that it does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from darkroom.api.config import EngineConfig
from darkroom.api.names import Module
from darkroom.families.chroma.model import Chroma, ChromaNetConfig
from darkroom.families.flux.model import Flux, FluxNetConfig
from darkroom.families.qwen_image.model import QwenImageTransformer, QwenImageTransformerConfig
from darkroom.families.sd3.model import MMDiT, MMDiTConfig
from darkroom.families.z_image.model import ZImageTransformer, ZImageTransformerConfig
from darkroom.nets.flux_blocks import StreamsConfig
from darkroom.nets.te.clip import CLIPTextConfig, CLIPTextModel
from darkroom.nets.te.qwen import QwenConfig, QwenTextModel
from darkroom.nets.te.qwen_vision import QwenVisionConfig, QwenVisionModel
from darkroom.nets.te.t5 import T5Config, T5EncoderModel
from darkroom.nets.unet import UNetConfig, UNetModel
from darkroom.nets.vae.kl import AutoencoderKL, KLConfig
from darkroom.runtime.backends import BackendManager, Placement
from darkroom.runtime.component import Component
from darkroom.runtime.devices import Devices
from darkroom.weights.source import MemorySource

Call = Callable[[nn.Module], Tensor]

STREAMS = StreamsConfig(16, 16, 32, 64, 32, 128, 3, 3)
TOKENS = torch.arange(8)[None]


def some(*shape: int) -> Tensor:
    """Numbers between -1 and 1."""
    return torch.linspace(-1, 1, torch.Size(shape).numel()).view(shape)


def decoded(vae: nn.Module) -> Tensor:
    out: Tensor = vae.decode(some(1, 4, 4, 4))
    return out


T = torch.ones(1)

NETWORKS: dict[str, tuple[Callable[[], nn.Module], Call]] = {
    "sd1": (
        lambda: UNetModel(
            UNetConfig(
                model_channels=32,
                channel_mult=(1, 2),
                num_res_blocks=(1, 1),
                transformer_depth=(1, 1),
                context_dim=64,
            )
        ),
        lambda net: net(some(1, 4, 8, 8), T, some(1, 7, 64)),
    ),
    "sdxl": (
        lambda: UNetModel(
            UNetConfig(
                model_channels=64,
                channel_mult=(1, 2),
                num_res_blocks=(1, 1),
                transformer_depth=(0, 2),
                middle_depth=2,
                context_dim=64,
                linear_proj=True,
                adm_in_channels=24,
            )
        ),
        lambda net: net(some(1, 4, 8, 8), T, some(1, 7, 64), some(1, 24)),
    ),
    "sd3": (
        lambda: MMDiT(
            MMDiTConfig(
                hidden_size=64,
                num_layers=4,
                num_heads=2,
                mlp_size=128,
                positions=8,
                context_dim=32,
                vector_dim=16,
                qk_norm=True,
                dual_blocks=(0, 1),
            )
        ),
        lambda net: net(some(1, 16, 8, 8), T, some(1, 5, 32), some(1, 16)),
    ),
    "flux": (
        lambda: Flux(FluxNetConfig(STREAMS, vector_dim=24, time_dim=32)),
        lambda net: net(some(1, 4, 4, 4), T, some(1, 5, 32), some(1, 24), T),
    ),
    "chroma": (
        lambda: Chroma(ChromaNetConfig(STREAMS, approximator_size=48, approximator_layers=3)),
        lambda net: net(some(1, 4, 4, 4), T, some(1, 5, 32)),
    ),
    "z_image": (
        lambda: ZImageTransformer(
            ZImageTransformerConfig(
                channels=4, context_dim=24, num_layers=3, num_heads=2, head_size=32, mlp_size=64
            )
        ),
        lambda net: net(some(1, 4, 8, 8), T, some(1, 32, 24)),
    ),
    "qwen_image": (
        lambda: QwenImageTransformer(
            QwenImageTransformerConfig(
                channels=4, context_dim=24, num_layers=4, num_heads=2, head_size=16, zero_cond_t=True
            )
        ),
        lambda net: net(some(1, 4, 4, 4), T, some(1, 5, 24), None, (some(1, 4, 4, 2),)),
    ),
    "clip": (
        lambda: CLIPTextModel(CLIPTextConfig(50, 8, 64, 128, 4, 1)),
        lambda net: net(TOKENS, 2),
    ),
    "t5": (lambda: T5EncoderModel(T5Config(50, 32, 64, 32, 4, 4, 8)), lambda net: net(TOKENS)),
    "qwen": (
        lambda: QwenTextModel(QwenConfig(50, 32, 64, 4, 2, 1, 16, True, False)),
        lambda net: net(TOKENS, layer=-2),
    ),
    "qwen_vision": (
        lambda: QwenVisionModel(QwenVisionConfig(32, 64, 4, 2, 16, 14, 2, 2)),
        lambda net: net(some(1, 3, 56, 56)),
    ),
    "vae": (lambda: AutoencoderKL(KLConfig(ch=32, ch_mult=(1, 2, 2))), decoded),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_output_is_the_same_when_no_block_is_there_before_its_call(devices: Devices, name: str) -> None:
    build, call = NETWORKS[name]
    torch.manual_seed(0)
    source = MemorySource({name: 0.1 * torch.randn_like(t) for name, t in build().state_dict().items()})

    def on_meta() -> nn.Module:
        with torch.device("meta"):
            return build()

    def component(manager: BackendManager) -> Component:
        runtime = manager.runtime(Module.DIFFUSION)
        return Component(name, on_meta, source, runtime=runtime, params=None, dtype=torch.float32)

    config = EngineConfig(backend="cpu", params_backend="disk", threads=1)
    with BackendManager(Placement.parse(config, devices), threads=1) as manager, torch.inference_mode():
        whole, streamed = component(manager), component(manager)
        streamed.stream(streamed.weigh()[1], None)
        with whole.resident() as net, streamed.resident() as other:
            for _ in range(2):
                assert torch.equal(call(net), call(other))
        assert streamed.traffic.streamed_blocks
