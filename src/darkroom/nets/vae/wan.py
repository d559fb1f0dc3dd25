"""Wan 2.1's causal video autoencoder (arXiv 2503.20314), Qwen-Image's too, in the names of Wan's checkpoints.

A picture is a video of one frame. All its convolutions are causal, so of a first frame they see nothing
before it, and what changes the number of frames leaves the first one alone: for pictures the network is one
of 2-D convolutions. Wan runs videos frame by frame with the last frames of every layer kept; here all frames
of a layer are computed at once, which gives the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darkroom.layers.attention import attention, merge_heads, split_heads
from darkroom.layers.conv import CausalConv3d, Conv2d, UpsampleConv2d
from darkroom.layers.norm import pixel_norm
from darkroom.nets.vae.tiling import Route, Segment, Staged

Shapes = Mapping[str, tuple[int, ...]]

_RESAMPLE = re.compile(r"encoder\.downsamples\.(\d+)\.resample\.1\.weight")


@dataclass(frozen=True)
class WanConfig:
    """The architecture, in Wan's words.

    dim: width of the first level. dim_mult: width of each level in dim. num_res_blocks: residual blocks of
    each encoder level; the decoder has one more. temporal_downsample: for each level but the last, whether
    what leads to the next one halves the number of frames, too. z_dim: channels of the latent.
    time_kernel: frames that a convolution sees, 1 in files that were cut down to what pictures need.
    """

    in_channels: int = 3
    out_channels: int = 3
    dim: int = 96
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    z_dim: int = 16
    time_kernel: int = 3

    @property
    def downscale(self) -> int:
        """Pixels on one side of a latent pixel."""
        return 1 << len(self.temporal_downsample)

    @property
    def frames_per_latent(self) -> int:
        """Frames of each latent frame after the first, which is one frame."""
        return 1 << sum(self.temporal_downsample)

    @classmethod
    def from_shapes(cls, shapes: Shapes) -> WanConfig:
        """The architecture of an autoencoder in Wan's names, from its tensors' shapes (prefix stripped).

        Raises KeyError when a tensor that every such autoencoder has is missing.
        """
        dim, in_channels = shapes["encoder.conv1.weight"][:2]
        found = (_RESAMPLE.fullmatch(name) for name in shapes)
        resamples = sorted(int(match[1]) for match in found if match)
        if not resamples:
            raise KeyError("encoder.downsamples.2.resample.1.weight")
        layers = [f"encoder.downsamples.{i}" for i in resamples]
        widths = [shapes[f"{layer}.resample.1.weight"][0] for layer in layers]
        widths.append(shapes["encoder.head.0.gamma"][0])
        return cls(
            in_channels=in_channels,
            out_channels=shapes["decoder.head.2.weight"][0],
            dim=dim,
            dim_mult=tuple(width // dim for width in widths),
            num_res_blocks=resamples[0],
            temporal_downsample=tuple(f"{layer}.time_conv.weight" in shapes for layer in layers),
            z_dim=shapes["conv2.weight"][0],
            time_kernel=shapes["encoder.conv1.weight"][2],
        )


class RMSNorm(nn.Module):
    """RMS norm over the channels of each pixel, followed by SiLU if `silu`.

    x: (b, c, h, w) or (b, c, t, h, w), conv_bias: (c,), added to x before; gamma has the axes of one frame or
    of frames, as the checkpoint has them.
    """

    def __init__(self, channels: int, *, silu: bool = True, axes: int = 3) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *(1,) * axes))
        self.silu = silu

    def forward(self, x: Tensor, conv_bias: Tensor | None = None) -> Tensor:  # noqa: D102
        return pixel_norm(x, self.gamma, conv_bias=conv_bias, silu=self.silu)


class ResidualBlock(nn.Module):
    """Two causal convolutions and a shortcut, (b, c_in, h, w)  ->  (b, c_out, h, w); or frames.

    In the places of Identity Wan has the activation, which is part of the norm here, and dropout.
    """

    def __init__(self, in_channels: int, out_channels: int, time_kernel: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            RMSNorm(in_channels),
            nn.Identity(),
            CausalConv3d(in_channels, out_channels, 3, time_kernel),
            RMSNorm(out_channels),
            nn.Identity(),
            nn.Identity(),
            CausalConv3d(out_channels, out_channels, 3, time_kernel),
        )
        if in_channels != out_channels:
            self.shortcut = CausalConv3d(in_channels, out_channels, 1)
        else:
            self.register_module("shortcut", None)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        norm1, _, conv1, norm2, _, _, conv2 = self.residual
        h = norm2(conv1(norm1(x), add_bias=False), conv_bias=conv1.bias)
        shortcut = x if self.shortcut is None else self.shortcut(x)
        out: Tensor = conv2(h, residual=shortcut)
        return out


class AttentionBlock(nn.Module):
    """One head of attention over all pixels of a frame, (b, c, h, w)  ->  (b, c, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = RMSNorm(channels, silu=False, axes=2)
        self.to_qkv = Conv2d(channels, 3 * channels, 1)
        self.proj = Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        qkv = self.to_qkv(self.norm(x)).permute(0, 2, 3, 1).flatten(1, 2)  # (b, h*w, 3c)
        q, k, v = (split_heads(part, 1) for part in qkv.chunk(3, dim=-1))
        h = torch.unflatten(merge_heads(attention(q, k, v)), 1, x.shape[2:])  # (b, h, w, c)
        out: Tensor = self.proj(h.permute(0, 3, 1, 2), residual=x)
        return out


class Middle(nn.Sequential):
    """The narrowest part of encoder and decoder; shapes are kept."""

    def __init__(self, channels: int, time_kernel: int) -> None:
        super().__init__(
            ResidualBlock(channels, channels, time_kernel),
            AttentionBlock(channels),
            ResidualBlock(channels, channels, time_kernel),
        )

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        before, attend, after = self
        out: Tensor = after(per_frame(attend, before(x)))
        return out


class Downsample(nn.Module):
    """Halves a picture; with `temporal` also the frames after the first, by convolution with stride 2.

    (b, c, h, w)  ->  (b, c, h/2, w/2), or (b, c, 1 + t, h, w)  ->  (b, c, 1 + t/2, h/2, w/2)
    """

    def __init__(self, channels: int, *, temporal: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(
            nn.ZeroPad2d((0, 1, 0, 1)), Conv2d(channels, channels, 3, stride=2, padding=0)
        )
        self.time_conv = nn.Conv3d(channels, channels, (3, 1, 1), stride=(2, 1, 1)) if temporal else None

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        x = per_frame(self.resample, x)
        if self.time_conv is None or x.dim() == 4:
            return x
        return torch.cat((x[:, :, :1], self.time_conv(x)), dim=2)


class Upsample(nn.Module):
    """Doubles a picture and halves its channels; with `temporal` every frame after the first becomes two.

    (b, c, h, w)  ->  (b, c/2, 2h, 2w), or (b, c, 1 + t, h, w)  ->  (b, c/2, 1 + 2t, 2h, 2w)
    """

    def __init__(self, channels: int, *, temporal: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.Identity(), UpsampleConv2d(channels, channels // 2))
        self.time_conv = nn.Conv3d(channels, 2 * channels, (3, 1, 1)) if temporal else None

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        if self.time_conv is not None and x.dim() == 5:
            # For the frames after the first, the first is not there: before them are zeros.
            pairs = self.time_conv(F.pad(x[:, :, 1:], (0, 0, 0, 0, 2, 0)))  # (b, 2c, t, h, w)
            later = pairs.unflatten(1, (2, -1)).movedim(1, 3).flatten(2, 3)  # (b, c, 2t, h, w)
            x = torch.cat((x[:, :, :1], later), dim=2)
        return per_frame(self.resample, x)


class Encoder(nn.Module):
    """Pixels to the moments of the latent, (b, 3, H, W)  ->  (b, 2*z, h, w); or frames."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        channels, kernel = config.dim, config.time_kernel
        self.conv1 = CausalConv3d(config.in_channels, channels, 3, kernel)
        layers: list[nn.Module] = []
        for mult, temporal in zip(config.dim_mult, (*config.temporal_downsample, None), strict=True):
            for _ in range(config.num_res_blocks):
                layers.append(ResidualBlock(channels, mult * config.dim, kernel))
                channels = mult * config.dim
            if temporal is not None:
                layers.append(Downsample(channels, temporal=temporal))
        self.downsamples = nn.Sequential(*layers)
        self.middle = Middle(channels, kernel)
        self.head = nn.Sequential(
            RMSNorm(channels), nn.Identity(), CausalConv3d(channels, 2 * config.z_dim, 3, kernel)
        )

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return self.finish(self.downsamples(self.conv1(x)))

    def finish(self, x: Tensor) -> Tensor:
        """What follows the levels, x: (b, c, h, w)  ->  (b, 2*z, h, w)."""
        out: Tensor = self.head(self.middle(x))
        return out

    def segments(self) -> Iterator[Segment]:
        """The levels, from pixels on."""
        return _segments([self.conv1, *self.downsamples])


class Decoder(nn.Module):
    """Latents to pixels, (b, z, h, w)  ->  (b, 3, H, W); or frames."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        channels, kernel = config.dim * config.dim_mult[-1], config.time_kernel
        self.conv1 = CausalConv3d(config.z_dim, channels, 3, kernel)
        self.middle = Middle(channels, kernel)
        layers: list[nn.Module] = []
        temporals = (*reversed(config.temporal_downsample), None)
        for mult, temporal in zip(reversed(config.dim_mult), temporals, strict=True):
            for _ in range(config.num_res_blocks + 1):
                layers.append(ResidualBlock(channels, mult * config.dim, kernel))
                channels = mult * config.dim
            if temporal is not None:
                layers.append(Upsample(channels, temporal=temporal))
                channels //= 2
        self.upsamples = nn.Sequential(*layers)
        self.head = nn.Sequential(
            RMSNorm(channels), nn.Identity(), CausalConv3d(channels, config.out_channels, 3, kernel)
        )

    def forward(self, z: Tensor) -> Tensor:  # noqa: D102
        out: Tensor = self.head(self.upsamples(self.start(z)))
        return out

    def start(self, z: Tensor) -> Tensor:
        """What precedes the levels, z: (b, z, h, w)  ->  (b, c, h, w)."""
        out: Tensor = self.middle(self.conv1(z))
        return out

    def segments(self) -> Iterator[Segment]:
        """The levels and what follows them, up to the pixels."""
        yield from _segments(self.upsamples)
        yield Segment(partial(_staged, (self.head,)), margin=1)


class WanVAE(nn.Module):
    """Pictures or videos to latents and back.

    Latents here are neither centred nor scaled; the family's LatentFormat does that.
    """

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.conv1 = CausalConv3d(2 * config.z_dim, 2 * config.z_dim, 1)
        self.conv2 = CausalConv3d(config.z_dim, config.z_dim, 1)
        self.decoder = Decoder(config)

    @property
    def downscale(self) -> int:
        """Pixels on one side of a latent pixel."""
        return self.config.downscale

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the latent's normal distribution.

        x: pixels in [-1, 1], pictures (b, 3, H, W) or videos (b, 3, t, H, W), t one more than a multiple of
        frames_per_latent  ->  mean, logvar (b, z, h, w) or (b, z, t', h, w), logvar within [-30, 20]

        Raises ValueError for another number of frames.
        """
        if x.dim() == 5 and (x.shape[2] - 1) % self.config.frames_per_latent:
            raise ValueError(
                f"video: {x.shape[2]} frames cannot be encoded; "
                f"their number is 1 more than a multiple of {self.config.frames_per_latent}"
            )
        moments = self.conv1(self.encoder(_without_time(x)))
        mean, logvar = moments.chunk(2, dim=1)
        return _with_time(mean, x), _with_time(logvar.clamp(-30.0, 20.0), x)

    def decode(self, z: Tensor) -> Tensor:
        """z: (b, z, h, w) or (b, z, t', h, w)  ->  (b, 3, H, W) or (b, 3, t, H, W), in about [-1, 1]."""
        return _with_time(self.decoder(self.conv2(_without_time(z))), z)

    def encoding(self) -> Route:
        """`encode` of pictures by segments, up to the moments."""
        segments = tuple(self.encoder.segments())
        return Route(lambda x: x, segments, lambda x: self.conv1(self.encoder.finish(x)))

    def decoding(self) -> Route:
        """`decode` of pictures by segments."""
        segments = tuple(self.decoder.segments())
        return Route(lambda z: self.decoder.start(self.conv2(z)), segments, lambda x: x)


def _segments(layers: Iterable[nn.Module]) -> Iterator[Segment]:
    """Residual blocks, each with the layers before it. Norms are of single pixels: none is handed out."""
    before: list[nn.Module] = []
    for layer in layers:
        if not isinstance(layer, ResidualBlock):
            before.append(layer)
            continue
        up, down = (
            2 if any(isinstance(part, kind) for part in before) else 1 for kind in (Upsample, Downsample)
        )
        # Margins on the coarser side: two convolutions, and the one before them.
        margin = 3 if before and up == 1 else 2
        in_place = not before and layer.shortcut is None
        yield Segment(partial(_staged, (*before, layer)), margin, 0, up, down, in_place)
        before = []


def _staged(layers: tuple[nn.Module, ...], x: Tensor) -> Staged:
    """Layers that need nothing but the surroundings of each pixel."""
    for layer in layers:
        x = layer(x)
    return x
    yield  # makes it a computation that could hand out norms


def per_frame(net: nn.Module, x: Tensor) -> Tensor:
    """`net`, which takes pictures, on pictures (b, c, h, w) or on each frame of videos (b, c, t, h, w)."""
    if x.dim() == 4:
        out: Tensor = net(x)
        return out
    frames = x.transpose(1, 2)  # (b, t, c, h, w)
    return torch.unflatten(net(frames.flatten(0, 1)), 0, frames.shape[:2]).transpose(1, 2)


def _without_time(x: Tensor) -> Tensor:
    """Videos of one frame as the pictures that they are."""
    return x.squeeze(2) if x.dim() == 5 else x


def _with_time(x: Tensor, like: Tensor) -> Tensor:
    return x.unsqueeze(2) if like.dim() > x.dim() else x
