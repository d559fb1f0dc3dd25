"""The KL-regularised autoencoder of latent diffusion (arXiv 2112.10752), in the names of LDM checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darkroom.layers.attention import attention, merge_heads, split_heads
from darkroom.layers.conv import Conv2d, UpsampleConv2d
from darkroom.layers.norm import GroupNorm, GroupNormSiLU
from darkroom.nets.vae.tiling import Route, Segment, Staged

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class KLConfig:
    """The architecture, in LDM's words.

    ch: width of the first level; every width must be a multiple of 32. ch_mult: width of each level in ch.
    num_res_blocks: residual blocks of each encoder level; the decoder has one more.
    z_channels: of the encoder's and decoder's inner latent; embed_dim: of the latent that diffusion sees.
    use_quant_conv: whether 1x1 convolutions stand between the two. SD3 and Flux have none.
    """

    in_channels: int = 3
    out_channels: int = 3
    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    z_channels: int = 4
    embed_dim: int = 4
    use_quant_conv: bool = True

    @property
    def downscale(self) -> int:
        """Pixels on one side of a latent pixel."""
        return 1 << (len(self.ch_mult) - 1)

    @classmethod
    def from_shapes(cls, shapes: Shapes) -> KLConfig:
        """The architecture of an LDM-named autoencoder, from its tensors' shapes (prefix stripped).

        Raises KeyError when a tensor that every such autoencoder has is missing.
        """
        ch = shapes["encoder.conv_in.weight"][0]
        widths: list[int] = []
        while (key := f"encoder.down.{len(widths)}.block.0.conv1.weight") in shapes:
            widths.append(shapes[key][0])
        blocks = 1
        while f"encoder.down.0.block.{blocks}.conv1.weight" in shapes:
            blocks += 1
        z_channels = shapes["decoder.conv_in.weight"][1]
        use_quant_conv = "post_quant_conv.weight" in shapes
        return cls(
            in_channels=shapes["encoder.conv_in.weight"][1],
            out_channels=shapes["decoder.conv_out.weight"][0],
            ch=ch,
            ch_mult=tuple(width // ch for width in widths),
            num_res_blocks=blocks,
            z_channels=z_channels,
            embed_dim=shapes["post_quant_conv.weight"][1] if use_quant_conv else z_channels,
            use_quant_conv=use_quant_conv,
        )


class ResnetBlock(nn.Module):
    """Two convolutions and a shortcut, x: (b, c_in, h, w)  ->  (b, c_out, h, w)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = GroupNormSiLU(in_channels, eps=1e-6)
        self.conv1 = Conv2d(in_channels, out_channels, 3)
        self.norm2 = GroupNormSiLU(out_channels, eps=1e-6)
        self.conv2 = Conv2d(out_channels, out_channels, 3)
        if in_channels != out_channels:
            self.nin_shortcut = Conv2d(in_channels, out_channels, 1)
        else:
            self.register_module("nin_shortcut", None)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        # In one expression, and the shortcut last: at full size every image that is kept costs 100 MB.
        h = self.norm2(self.conv1(self.norm1(x), add_bias=False), conv_bias=self.conv1.bias)
        shortcut = x if self.nin_shortcut is None else self.nin_shortcut(x)
        out: Tensor = self.conv2(h, residual=shortcut)
        return out

    def staged(self, x: Tensor, before: Callable[[Tensor], Tensor] | None = None) -> Staged:
        """`forward` after `before`, stopping at each norm."""
        x = x if before is None else before(x)
        h = yield self.norm1, x
        h = yield self.norm2, self.conv1(h)
        shortcut = x if self.nin_shortcut is None else self.nin_shortcut(x)
        out: Tensor = self.conv2(h, residual=shortcut)
        return out

    def segment(
        self, before: Callable[[Tensor], Tensor] | None = None, *, margin: int = 2, up: int = 1, down: int = 1
    ) -> Segment:
        """The block, after what else works on the surroundings of each pixel."""
        in_place = before is None and self.nin_shortcut is None
        return Segment(partial(self.staged, before=before), margin, 2, up, down, in_place)


class AttnBlock(nn.Module):
    """One head of attention over all pixels, x: (b, c, h, w)  ->  (b, c, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = GroupNorm(channels, eps=1e-6)
        self.q = Conv2d(channels, channels, 1)
        self.k = Conv2d(channels, channels, 1)
        self.v = Conv2d(channels, channels, 1)
        self.proj_out = Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        h = self.norm(x)
        q, k, v = (
            split_heads(y.permute(0, 2, 3, 1).flatten(1, 2), 1) for y in (self.q(h), self.k(h), self.v(h))
        )
        h = torch.unflatten(merge_heads(attention(q, k, v)), 1, x.shape[2:]).permute(
            0, 3, 1, 2
        )  # (b, c, h, w)
        out: Tensor = self.proj_out(h, residual=x)
        return out


class Downsample(nn.Module):
    """Halves an image, padded on the right and below only, x: (b, c, h, w)  ->  (b, c, h/2, w/2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, stride=2, padding=0)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class Upsample(nn.Module):
    """Doubles an image, x: (b, c, h, w)  ->  (b, c, 2h, 2w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = UpsampleConv2d(channels)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        out: Tensor = self.conv(x)
        return out


class Mid(nn.Module):
    """The narrowest part of encoder and decoder, x: (b, c, h, w)  ->  (b, c, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels)
        self.attn_1 = AttnBlock(channels)
        self.block_2 = ResnetBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        out: Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return out


class Level(nn.Module):
    """The residual blocks of one width, and what leads to the next one."""

    def __init__(self, in_channels: int, out_channels: int, blocks: int) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            ResnetBlock(out_channels if i else in_channels, out_channels) for i in range(blocks)
        )
        self.downsample: Downsample | None = None
        self.upsample: Upsample | None = None

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        for block in self.block:
            x = block(x)
        if self.downsample is not None:
            x = self.downsample(x)
        if self.upsample is not None:
            x = self.upsample(x)
        return x


class Encoder(nn.Module):
    """Pixels to the moments of the latent, x: (b, 3, H, W)  ->  (b, 2*z, h, w)."""

    def __init__(self, config: KLConfig) -> None:
        super().__init__()
        self.conv_in = Conv2d(config.in_channels, config.ch, 3)
        channels = config.ch
        self.down = nn.ModuleList()
        for i, mult in enumerate(config.ch_mult):
            level = Level(channels, mult * config.ch, config.num_res_blocks)
            channels = mult * config.ch
            if i < len(config.ch_mult) - 1:
                level.downsample = Downsample(channels)
            self.down.append(level)
        self.mid = Mid(channels)
        self.norm_out = GroupNormSiLU(channels, eps=1e-6)
        self.conv_out = Conv2d(channels, 2 * config.z_channels, 3)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.finish(x)

    def finish(self, x: Tensor) -> Tensor:
        """What follows the levels, x: (b, c, h, w)  ->  (b, 2*z, h, w)."""
        out: Tensor = self.conv_out(self.norm_out(self.mid(x)))
        return out

    def segments(self) -> Iterator[Segment]:
        """The levels, from pixels on."""
        before: nn.Module | None = self.conv_in
        down = 1
        for level in self.down:
            assert isinstance(level, Level)
            for block in level.block:
                assert isinstance(block, ResnetBlock)
                # Margins on the coarser side: two convolutions, and the one before them.
                yield block.segment(before, margin=2 if before is None else 3, down=down)
                before, down = None, 1
            before, down = level.downsample, 2


class Decoder(nn.Module):
    """Latents to pixels, z: (b, z, h, w)  ->  (b, 3, H, W). `up` counts down to the latent, as in LDM."""

    def __init__(self, config: KLConfig) -> None:
        super().__init__()
        channels = config.ch * config.ch_mult[-1]
        self.conv_in = Conv2d(config.z_channels, channels, 3)
        self.mid = Mid(channels)
        levels: list[Level] = []
        for i, mult in reversed(tuple(enumerate(config.ch_mult))):
            level = Level(channels, mult * config.ch, config.num_res_blocks + 1)
            channels = mult * config.ch
            if i:
                level.upsample = Upsample(channels)
            levels.append(level)
        self.up = nn.ModuleList(reversed(levels))
        self.norm_out = GroupNormSiLU(channels, eps=1e-6)
        self.conv_out = Conv2d(channels, config.out_channels, 3)

    def forward(self, z: Tensor) -> Tensor:  # noqa: D102
        x = self.start(z)
        for level in reversed(self.up):
            x = level(x)
        out: Tensor = self.conv_out(self.norm_out(x))
        return out

    def start(self, z: Tensor) -> Tensor:
        """What precedes the levels, z: (b, z, h, w)  ->  (b, c, h, w)."""
        out: Tensor = self.mid(self.conv_in(z))
        return out

    def segments(self) -> Iterator[Segment]:
        """The levels and what follows them, up to the pixels."""
        before: nn.Module | None = None
        up = 1
        for level in reversed(self.up):
            assert isinstance(level, Level)
            for block in level.block:
                assert isinstance(block, ResnetBlock)
                yield block.segment(before, up=up)
                before, up = None, 1
            before, up = level.upsample, 2
        yield Segment(self._finished, margin=1, norms=1)

    def _finished(self, x: Tensor) -> Staged:
        h = yield self.norm_out, x
        out: Tensor = self.conv_out(h)
        return out


class AutoencoderKL(nn.Module):
    """Pictures to latents and back. Latents here are unscaled; the family's LatentFormat scales them."""

    def __init__(self, config: KLConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        if config.use_quant_conv:
            self.quant_conv = Conv2d(2 * config.z_channels, 2 * config.embed_dim, 1)
            self.post_quant_conv = Conv2d(config.embed_dim, config.z_channels, 1)
        else:
            self.register_module("quant_conv", None)
            self.register_module("post_quant_conv", None)

    @property
    def downscale(self) -> int:
        """Pixels on one side of a latent pixel."""
        return self.config.downscale

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the latent's normal distribution.

        x: (b, 3, H, W), pixels in [-1, 1]  ->  mean, logvar (b, c, h, w), logvar within [-30, 20]
        """
        mean, logvar = self._quantised(self.encoder(x)).chunk(2, dim=1)
        return mean, logvar.clamp(-30.0, 20.0)

    def decode(self, z: Tensor) -> Tensor:
        """z: (b, c, h, w)  ->  (b, 3, H, W), pixels in about [-1, 1]."""
        out: Tensor = self.decoder(self._dequantised(z))
        return out

    def encoding(self) -> Route:
        """`encode` by segments, up to the moments."""
        segments = tuple(self.encoder.segments())
        return Route(lambda x: x, segments, lambda x: self._quantised(self.encoder.finish(x)))

    def decoding(self) -> Route:
        """`decode` by segments."""
        segments = tuple(self.decoder.segments())
        return Route(lambda z: self.decoder.start(self._dequantised(z)), segments, lambda x: x)

    def _quantised(self, moments: Tensor) -> Tensor:
        out: Tensor = moments if self.quant_conv is None else self.quant_conv(moments)
        return out

    def _dequantised(self, z: Tensor) -> Tensor:
        out: Tensor = z if self.post_quant_conv is None else self.post_quant_conv(z)
        return out
