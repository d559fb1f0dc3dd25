"""TAESD's decoder, small and quick, in the names of its author's files.

Ollin Boer Bohan's TAESD (github.com/madebyollin/taesd), for Stable Diffusion 1 to 3, SDXL and Flux.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class TAESDConfig:
    """The architecture. blocks: residual blocks at each size, each twice as large as the one before."""

    latent_channels: int = 4
    width: int = 64
    blocks: tuple[int, ...] = (3, 3, 3, 1)

    @property
    def downscale(self) -> int:
        """Pixels on one side of a latent pixel."""
        return 1 << (len(self.blocks) - 1)

    @classmethod
    def from_shapes(cls, shapes: Shapes) -> TAESDConfig:
        """The architecture from the decoder's tensors. Raises KeyError when one that is needed is missing."""
        width, latent_channels = shapes["1.weight"][:2]
        blocks, place = [], 3
        while True:
            first = place
            while f"{place}.conv.0.weight" in shapes:
                place += 1
            blocks.append(place - first)
            if f"{place}.weight" in shapes:  # the last convolution; others follow an upsampling
                return cls(latent_channels, width, tuple(blocks))
            assert shapes[f"{place + 1}.weight"]
            place += 2


class Clamp(nn.Module):
    """Softly within [-3, 3], about where latents are."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return torch.tanh(x / 3) * 3


class Block(nn.Module):
    """Three convolutions and a shortcut, x: (b, c, h, w)  ->  the same shape."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return torch.relu(self.conv(x) + x)


class TAESDDecoder(nn.Sequential):
    """Latents (b, c, h, w) as the diffusion network sees them  ->  pixels (b, 3, H, W) in [-1, 1]."""

    def __init__(self, config: TAESDConfig) -> None:
        super().__init__(*_layers(config))
        self.config = config

    def forward(self, latent: Tensor) -> Tensor:  # noqa: D102
        x = latent
        for layer in self:
            x = layer(x)
        return x * 2 - 1


def _layers(config: TAESDConfig) -> Iterator[nn.Module]:
    width = config.width
    yield Clamp()
    yield nn.Conv2d(config.latent_channels, width, 3, padding=1)
    yield nn.ReLU()
    for level, count in enumerate(config.blocks):
        if level:
            yield nn.Upsample(scale_factor=2)
            yield nn.Conv2d(width, width, 3, padding=1, bias=False)
        for _ in range(count):
            yield Block(width)
    yield nn.Conv2d(width, 3, 3, padding=1)
