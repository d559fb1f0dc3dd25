"""The latent diffusion UNet (arXiv 2112.10752) of SD 1.x, 2.x and SDXL, in the names of LDM checkpoints."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darkroom.layers.attention import attention, merge_heads, split_heads
from darkroom.layers.conv import Conv2d, UpsampleConv2d, join
from darkroom.layers.embed import timestep_embedding
from darkroom.layers.joint import project
from darkroom.layers.linear import GEGLU, Linear
from darkroom.layers.norm import GroupNorm, GroupNormSiLU, LayerNorm
from darkroom.layers.parts import Parts

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class UNetConfig:
    """The architecture, in LDM's words.

    model_channels: width of the first level; every width must be a multiple of 32.
    channel_mult: width of each level in model_channels.
    num_res_blocks: residual blocks of each level on the way down; there is one more on the way up.
    transformer_depth: transformer blocks after each residual block, for each level; 0 is none.
    output_depth: the same on the way up, for each level and block, lowest level first; None is as down.
    middle_depth: transformer blocks between the middle's two residual blocks; None is one of those alone.
    linear_proj: SD 2.x and SDXL project into their transformers with Linear and have heads of width 64;
    SD 1.x projects with a 1x1 convolution and has 8 heads.
    adm_in_channels: width of SDXL's vector of text and sizes, or None.
    """

    in_channels: int = 4
    out_channels: int = 4
    model_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: tuple[int, ...] = (2, 2, 2, 2)
    transformer_depth: tuple[int, ...] = (1, 1, 1, 0)
    output_depth: tuple[tuple[int, ...], ...] | None = None
    middle_depth: int | None = 1
    context_dim: int = 768
    linear_proj: bool = False
    adm_in_channels: int | None = None

    def heads(self, channels: int) -> int:
        """Attention heads at a level that is `channels` wide; no tensor shape tells them."""
        return channels // 64 if self.linear_proj else 8

    @property
    def output_depths(self) -> tuple[tuple[int, ...], ...]:
        """Transformer blocks after each residual block on the way up, lowest level first."""
        if self.output_depth is not None:
            return self.output_depth
        levels = zip(self.transformer_depth, self.num_res_blocks, strict=True)
        return tuple((depth,) * (blocks + 1) for depth, blocks in reversed(tuple(levels)))

    @classmethod
    def from_shapes(cls, shapes: Shapes) -> UNetConfig:
        """The architecture of an LDM-named UNet, from its tensors' shapes (prefix stripped).

        Raises KeyError when a tensor that every such UNet has is missing.
        """
        model_channels, in_channels = shapes["input_blocks.0.0.weight"][:2]
        levels = _levels(shapes)
        transformer = _first_transformer(shapes)
        middle_depth = _depth(shapes, "middle_block.")
        has_second = f"middle_block.{2 if middle_depth else 1}.in_layers.2.weight" in shapes
        like_down = cls(
            in_channels=in_channels,
            out_channels=shapes["out.2.weight"][0],
            model_channels=model_channels,
            channel_mult=tuple(
                shapes[f"{first}0.out_layers.3.weight"][0] // model_channels for first, _ in levels
            ),
            num_res_blocks=tuple(blocks for _, blocks in levels),
            transformer_depth=tuple(_depth(shapes, first) for first, _ in levels),
            middle_depth=middle_depth if has_second else None,
            context_dim=shapes[f"{transformer}transformer_blocks.0.attn2.to_k.weight"][1],
            linear_proj=len(shapes[f"{transformer}proj_in.weight"]) == 2,
            adm_in_channels=shapes["label_emb.0.0.weight"][1] if "label_emb.0.0.weight" in shapes else None,
        )
        output_depth = _output_depth(shapes, like_down.num_res_blocks)
        if output_depth == like_down.output_depths:
            return like_down
        return replace(like_down, output_depth=output_depth)


def _levels(shapes: Shapes) -> list[tuple[str, int]]:
    """Of each level on the way down: its first block, and how many residual blocks it has."""
    levels: list[tuple[str, int]] = []
    index, is_new = 1, True
    while (kind := _block_kind(shapes, index)) is not None:
        if kind == "down":
            is_new = True
        elif is_new:
            levels.append((f"input_blocks.{index}.", 1))
            is_new = False
        else:
            first, blocks = levels[-1]
            levels[-1] = (first, blocks + 1)
        index += 1
    return levels


def _block_kind(shapes: Shapes, index: int) -> str | None:
    if f"input_blocks.{index}.0.op.weight" in shapes:
        return "down"
    return "res" if f"input_blocks.{index}.0.in_layers.2.weight" in shapes else None


def _output_depth(shapes: Shapes, num_res_blocks: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    index = itertools.count()
    return tuple(
        tuple(_depth(shapes, f"output_blocks.{next(index)}.") for _ in range(blocks + 1))
        for blocks in reversed(num_res_blocks)
    )


def _depth(shapes: Shapes, block: str) -> int:
    """The transformer blocks of a block of the UNet. Raises KeyError where there is no such block."""
    if f"{block}0.in_layers.2.weight" not in shapes:
        raise KeyError(f"{block}0.in_layers.2.weight")
    depth = 0
    while f"{block}1.transformer_blocks.{depth}.attn1.to_q.weight" in shapes:
        depth += 1
    return depth


def _first_transformer(shapes: Shapes) -> str:
    """The first on the way down. Raises KeyError where there is none."""
    blocks = (f"input_blocks.{i}.1." for i in range(len(shapes)))
    proj_in = next((block for block in blocks if f"{block}proj_in.weight" in shapes), None)
    if proj_in is None:
        raise KeyError("input_blocks.1.1.proj_in.weight")
    return proj_in


class ResBlock(nn.Module):
    """Two convolutions with the timestep added between them.

    x: (b, c_in, h, w), shift: (b, c_out), this block's `emb_layers` of the timestep  ->  (b, c_out, h, w)
    """

    def __init__(self, in_channels: int, out_channels: int, emb_width: int) -> None:
        super().__init__()
        # Indices are LDM's: its SiLU and dropout stand where an Identity is here.
        self.in_layers = nn.Sequential(
            GroupNormSiLU(in_channels), nn.Identity(), Conv2d(in_channels, out_channels, 3)
        )
        self.emb_layers = nn.ModuleList((nn.Identity(), Linear(emb_width, out_channels)))
        self.out_layers = nn.ModuleList(
            (GroupNormSiLU(out_channels), nn.Identity(), nn.Identity(), Conv2d(out_channels, out_channels, 3))
        )
        self.skip_connection = (
            nn.Identity() if in_channels == out_channels else Conv2d(in_channels, out_channels, 1)
        )

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:  # noqa: D102
        norm_in, _, conv_in = self.in_layers
        norm_out, _, _, conv_out = self.out_layers
        h = norm_out(conv_in(norm_in(x), add_bias=False), shift=shift, conv_bias=conv_in.bias)
        out: Tensor = conv_out(h, residual=self.skip_connection(x))
        return out


class CrossAttention(nn.Module):
    """Attention of x to the context, or to itself where context_dim is None.

    x: (b, l, D), keys and values: (b, s, D), this block's `to_k` and `to_v` of the context, or None,
    residual: (b, l, D)  ->  (b, l, D), the residual added
    """

    def __init__(self, width: int, context_dim: int | None, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.is_self_attention = context_dim is None
        self.to_q = Linear(width, width, bias=False)
        self.to_k = Linear(context_dim or width, width, bias=False)
        self.to_v = Linear(context_dim or width, width, bias=False)
        self.to_out = nn.ModuleList((Linear(width, width),))

    def parts(self) -> Parts:
        """Heads."""
        width, out = (self.to_q.out_features,), self.to_out[0]
        return Parts({self.to_q: width, self.to_k: width, self.to_v: width}, {out: width}, ("heads",))

    def joint_projections(self) -> Sequence[Sequence[nn.Module]]:
        """Queries, keys and values of x; those of the context the UNet joins over all blocks."""
        return ((self.to_q, self.to_k, self.to_v),) if self.is_self_attention else ()

    def forward(  # noqa: D102
        self, x: Tensor, keys_values: tuple[Tensor, Tensor] | None, residual: Tensor
    ) -> Tensor:
        if keys_values is None:
            projected = project(x, (self.to_q, self.to_k, self.to_v))
        else:
            projected = (self.to_q(x), *keys_values)
        q, k, v = (split_heads(y, self.heads) for y in projected)
        out: Tensor = self.to_out[0](merge_heads(attention(q, k, v)), residual)
        return out


class FeedForward(nn.Module):
    """A gated projection to four times the width and back, plus residual, x: (b, l, D)  ->  (b, l, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.ModuleList((GEGLU(width, 4 * width), nn.Identity(), Linear(4 * width, width)))
        self.hidden = 4 * width

    def parts(self) -> Parts:
        """Hidden channels; values and gates lie side by side."""
        geglu = self.net[0].get_submodule("proj")
        return Parts({geglu: (self.hidden, self.hidden)}, {self.net[2]: (self.hidden,)})

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:  # noqa: D102
        out: Tensor = self.net[2](self.net[0](x), residual)
        return out


class BasicTransformerBlock(nn.Module):
    """Self attention, attention to the text, feed-forward.

    x: (b, l, D), contexts: keys and values (b, s, D) of the text for each block to come  ->  (b, l, D)
    """

    def __init__(self, width: int, context_dim: int, heads: int) -> None:
        super().__init__()
        self.attn1 = CrossAttention(width, None, heads)
        self.attn2 = CrossAttention(width, context_dim, heads)
        self.ff = FeedForward(width)
        self.norm1 = LayerNorm(width)
        self.norm2 = LayerNorm(width)
        self.norm3 = LayerNorm(width)

    def forward(self, x: Tensor, contexts: Iterator[Tensor]) -> Tensor:  # noqa: D102
        x = self.attn1(self.norm1(x), None, residual=x)
        x = self.attn2(self.norm2(x), (next(contexts), next(contexts)), residual=x)
        out: Tensor = self.ff(self.norm3(x), residual=x)
        return out


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels of a feature map.

    x: (b, c, h, w), contexts: keys and values of the text for each block to come  ->  (b, c, h, w)
    """

    def __init__(self, channels: int, context_dim: int, heads: int, depth: int, linear_proj: bool) -> None:
        super().__init__()
        self.linear_proj = linear_proj
        self.norm = GroupNorm(channels, eps=1e-6)
        self.proj_in = Linear(channels, channels) if linear_proj else Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList(
            BasicTransformerBlock(channels, context_dim, heads) for _ in range(depth)
        )
        self.proj_out = Linear(channels, channels) if linear_proj else Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, contexts: Iterator[Tensor]) -> Tensor:  # noqa: D102
        height = x.shape[2]
        h = self.norm(x)
        h = self.proj_in(_tokens(h)) if self.linear_proj else _tokens(self.proj_in(h))  # (b, l, c)
        for block in self.transformer_blocks:
            h = block(h, contexts)
        if self.linear_proj:
            return _image(self.proj_out(h, residual=_tokens(x)), height)
        out: Tensor = self.proj_out(_image(h, height), residual=x)
        return out


def _tokens(x: Tensor) -> Tensor:
    """(b, c, h, w) as (b, h*w, c): a view in channels_last memory."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _image(x: Tensor, height: int) -> Tensor:
    """(b, h*w, c) as (b, c, h, w): a view in channels_last memory."""
    return torch.unflatten(x, 1, (height, -1)).permute(0, 3, 1, 2)


class Downsample(nn.Module):
    """Halves an image with a strided convolution, x: (b, c, h, w)  ->  (b, c, h/2, w/2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        out: Tensor = self.op(x)
        return out


class Upsample(nn.Module):
    """Doubles an image, x: (b, c, h, w)  ->  (b, c, 2h, 2w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = UpsampleConv2d(channels)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        out: Tensor = self.conv(x)
        return out


class Block(nn.ModuleList):
    """What LDM calls a TimestepEmbedSequential: hands each layer what it takes."""

    def forward(  # noqa: D102
        self, x: Tensor, shifts: Iterator[Tensor], contexts: Iterator[Tensor]
    ) -> Tensor:
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, next(shifts))
            elif isinstance(layer, SpatialTransformer):
                x = layer(x, contexts)
            else:
                x = layer(x)
        return x


class UNetModel(nn.Module):
    """Predicts the noise (or v) of latents at a timestep, given the text.

    x: (b, c_in, h, w) with h and w multiples of 2^(levels - 1), timesteps: (b,) in [0, 1000),
    context: (b, s, D_context), y: (b, D_adm) where the config has a width for it
    ->  (b, c_out, h, w), in x's dtype
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.model_channels
        emb_width = 4 * width
        self.time_embed = nn.Sequential(Linear(width, emb_width), nn.SiLU(), Linear(emb_width, emb_width))
        if config.adm_in_channels is not None:
            label = nn.Sequential(
                Linear(config.adm_in_channels, emb_width), nn.SiLU(), Linear(emb_width, emb_width)
            )
            self.label_emb = nn.Sequential(label)

        def block(in_channels: int, out_channels: int, depth: int | None) -> Block:
            layers: list[nn.Module] = [ResBlock(in_channels, out_channels, emb_width)]
            if depth:
                layers.append(transformer(out_channels, depth))
            return Block(layers)

        def transformer(channels: int, depth: int) -> SpatialTransformer:
            heads = config.heads(channels)
            return SpatialTransformer(channels, config.context_dim, heads, depth, config.linear_proj)

        levels = tuple(zip(config.channel_mult, config.num_res_blocks, config.transformer_depth, strict=True))
        channels = width
        skips = [channels]
        self.input_blocks = nn.ModuleList((Block((Conv2d(config.in_channels, channels, 3),)),))
        for level, (mult, count, depth) in enumerate(levels):
            if level:
                self.input_blocks.append(Block((Downsample(channels),)))
                skips.append(channels)
            for _ in range(count):
                self.input_blocks.append(block(channels, mult * width, depth))
                channels = mult * width
                skips.append(channels)

        self.middle_block = block(channels, channels, config.middle_depth)
        if config.middle_depth is not None:
            self.middle_block.append(ResBlock(channels, channels, emb_width))

        self.output_blocks = nn.ModuleList()
        for mult, depths in zip(reversed(config.channel_mult), config.output_depths, strict=True):
            for depth in depths:
                self.output_blocks.append(block(channels + skips.pop(), mult * width, depth))
                channels = mult * width
            if skips:
                last: Block = self.output_blocks[-1]  # type: ignore[assignment]
                last.append(Upsample(channels))

        self.out = nn.Sequential(
            GroupNormSiLU(channels), nn.Identity(), Conv2d(channels, config.out_channels, 3)
        )

    def joint_projections(self) -> Sequence[Sequence[nn.Module]]:
        """Of the timestep for each residual block; of the text for each transformer block; as they run."""
        blocks = (*self.input_blocks, self.middle_block, *self.output_blocks)
        layers = [layer for block in blocks for layer in block]
        shifts = [layer.emb_layers[1] for layer in layers if isinstance(layer, ResBlock)]
        contexts = [
            linear
            for layer in layers
            if isinstance(layer, SpatialTransformer)
            for block in layer.transformer_blocks
            if isinstance(block, BasicTransformerBlock)
            for linear in (block.attn2.to_k, block.attn2.to_v)
        ]
        return shifts, contexts

    def forward(  # noqa: D102
        self, x: Tensor, timesteps: Tensor, context: Tensor, y: Tensor | None = None
    ) -> Tensor:
        emb = self.time_embed(timestep_embedding(timesteps, self.config.model_channels).to(x.dtype))
        if self.config.adm_in_channels is not None:
            assert y is not None, "such a network is given its vector"
            emb = emb + self.label_emb(y.to(x.dtype))
        time_projections, text_projections = self.joint_projections()
        shifts = iter(project(F.silu(emb), time_projections))
        contexts = iter(project(context, text_projections))
        skips: list[Tensor] = []
        for block in self.input_blocks:
            x = block(x, shifts, contexts)
            skips.append(x)
        x = self.middle_block(x, shifts, contexts)
        for block in self.output_blocks:
            x = block(join(x, skips.pop()), shifts, contexts)
        out: Tensor = self.out(x)
        return out
