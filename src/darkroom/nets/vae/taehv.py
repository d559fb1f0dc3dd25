"""TAEHV's decoder for single pictures: a tiny autoencoder of videos, in the names of its author's files.

Ollin Boer Bohan's TAEHV (github.com/madebyollin/taehv); taew2_1 is for latents of Wan 2.1 and Qwen-Image. One
latent becomes several frames, of which the last is the picture, as for the first latent of a video.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darkroom.nets.vae.tae import Clamp

Shapes = Mapping[str, tuple[int, ...]]

BLOCKS = 3
"""At each size."""


@dataclass(frozen=True)
class TAEHVConfig:
    """The architecture. widths: of each size, each twice as large as the one before, and of the last layer.

    frames: how many each frame becomes at each size.
    """

    latent_channels: int = 16
    widths: tuple[int, ...] = (256, 128, 64, 64)
    frames: tuple[int, ...] = (1, 2, 2)

    @property
    def downscale(self) -> int:
        """Pixels on one side of a latent pixel."""
        return 1 << len(self.frames)

    @classmethod
    def from_shapes(cls, shapes: Shapes) -> TAEHVConfig:
        """The architecture from the decoder's tensors.

        Raises KeyError when one that is needed is missing, ValueError for one of another form.
        """
        width, latent_channels = shapes["1.weight"][:2]
        widths, frames, place = [width], [], 3
        while f"{place}.conv.0.weight" in shapes:
            grow, conv = shapes[f"{place + BLOCKS + 1}.conv.weight"], shapes[f"{place + BLOCKS + 2}.weight"]
            frames.append(grow[0] // grow[1])
            widths.append(conv[0])
            place += BLOCKS + 3
        if shapes[f"{place + 1}.weight"][0] != 3:
            raise ValueError("pixels of several colours")
        return cls(latent_channels, tuple(widths), tuple(frames))


class MemBlock(nn.Module):
    """Three convolutions over a frame and the one before it, and a shortcut.

    x: (b, t, c, h, w)  ->  the same shape. Before the first frame there are zeros.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(2 * width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        past = F.pad(x, (0, 0, 0, 0, 0, 0, 1, 0))[:, :-1]
        both = torch.cat([x, past], dim=2).flatten(0, 1)  # (b * t, 2 * c, h, w)
        out: Tensor = self.conv(both)
        return torch.relu(out.reshape(x.shape) + x)


class TGrow(nn.Module):
    """Several frames of each, x: (b, t, c, h, w)  ->  (b, t * frames, c, h, w)."""

    def __init__(self, width: int, frames: int) -> None:
        super().__init__()
        self.frames = frames
        self.conv = nn.Conv2d(width, width * frames, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        b, t, c, h, w = x.shape
        grown: Tensor = self.conv(x.flatten(0, 1))  # (b * t, frames * c, h, w)
        return grown.reshape(b, t * self.frames, c, h, w)


class TAEHVDecoder(nn.Sequential):
    """Latents (b, c, h, w) as the diffusion network sees them  ->  pixels (b, 3, H, W) in [-1, 1]."""

    def __init__(self, config: TAEHVConfig) -> None:
        super().__init__(*_layers(config))
        self.config = config

    def forward(self, latent: Tensor) -> Tensor:  # noqa: D102
        x = latent[:, None]  # (b, t, c, h, w)
        last = max(place for place, layer in enumerate(self) if isinstance(layer, TGrow))
        for place, layer in enumerate(self):
            if isinstance(layer, MemBlock | TGrow):
                x = layer(x)
            else:
                out: Tensor = layer(x.flatten(0, 1))
                x = out.reshape(*x.shape[:2], *out.shape[1:])
            if place == last:
                x = x[:, -1:]  # what follows sees one frame at a time
        return x[:, 0] * 2 - 1


def _layers(config: TAEHVConfig) -> Iterator[nn.Module]:
    widths = config.widths
    yield Clamp()
    yield nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
    yield nn.ReLU()
    for width, after, frames in zip(widths[:-1], widths[1:], config.frames, strict=True):
        for _ in range(BLOCKS):
            yield MemBlock(width)
        yield nn.Upsample(scale_factor=2)
        yield TGrow(width, frames)
        yield nn.Conv2d(width, after, 3, padding=1, bias=False)
    yield nn.ReLU()
    yield nn.Conv2d(widths[-1], 3, 3, padding=1)
