"""Networks small enough to be streamed in no time, their weights, and components that stream them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from darkroom.families.flux.model import Flux, FluxNetConfig
from darkroom.nets.flux_blocks import StreamsConfig
from darkroom.nets.te.t5 import T5Config, T5EncoderModel
from darkroom.nets.unet import UNetConfig, UNetModel


def unet() -> nn.Module:
    return UNetModel(
        UNetConfig(
            model_channels=32,
            channel_mult=(1, 2),
            num_res_blocks=(2, 1),
            transformer_depth=(1, 1),
            context_dim=64,
        )
    )


def call_unet(net: nn.Module, device: str = "cpu") -> Tensor:
    x, context = torch.linspace(-1, 1, 512).view(2, 4, 8, 8), torch.linspace(-1, 1, 2 * 7 * 64).view(2, 7, 64)
    out: Tensor = net(x.to(device), torch.full((2,), 500.0, device=device), context.to(device))
    return out


def flux() -> nn.Module:
    return Flux(FluxNetConfig(StreamsConfig(16, 16, 32, 64, 32, 128, 3, 5), vector_dim=24, time_dim=32))


def call_flux(net: nn.Module, device: str = "cpu") -> Tensor:
    x, context = torch.linspace(-1, 1, 64).view(1, 4, 4, 4), torch.linspace(-1, 1, 5 * 32).view(1, 5, 32)
    one = torch.ones(1, device=device)
    out: Tensor = net(x.to(device), one / 2, context.to(device), torch.ones(1, 24, device=device), one)
    return out


def t5() -> nn.Module:
    return T5EncoderModel(T5Config(50, 32, 64, 32, 6, 4, 8))


def call_t5(net: nn.Module, device: str = "cpu") -> Tensor:
    out: Tensor = net(torch.arange(9, device=device)[None])
    return out


NETWORKS = {"unet": (unet, call_unet), "flux": (flux, call_flux), "t5": (t5, call_t5)}


def weights_of(build: Callable[[], nn.Module]) -> dict[str, Tensor]:
    torch.manual_seed(0)
    net = build()
    return {name: torch.randn_like(tensor) * 0.05 for name, tensor in net.state_dict().items()}


class Ladder(nn.Module):
    """Calls its blocks as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(6))

    def forward(self, x: Tensor, *order: int) -> Tensor:
        for number in order:
            x = self.blocks[number](x)
        return x


X = torch.linspace(-1, 1, 4)[None]


def ladder(*order: int) -> Tensor:
    net = Ladder()
    net.load_state_dict(weights_of(Ladder))
    out: Tensor = net(X, *order)
    return out
