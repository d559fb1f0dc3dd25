"""What Flux (black-forest-labs/flux) and Chroma, which was made from it, consist of; in their authors' names.

A block is given the module that makes its modulation: Flux projects one vector for each block, Chroma has
computed the shifts, scales and gates of all blocks beforehand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darkroom.layers.float16 import clamp_float16
from darkroom.layers.joint_attention import Stream, joint_attention
from darkroom.layers.linear import Linear, linear_gelu
from darkroom.layers.norm import gated_residual, gated_residual_norm, modulated_layer_norm, rms_norm
from darkroom.layers.parallel_linear import joined_linear, linear_and_gelu
from darkroom.layers.parts import Parts
from darkroom.layers.rope import rope_table, split_axes
from darkroom.nets.patches import PATCH

Shapes = Mapping[str, tuple[int, ...]]
MakeModulation = Callable[[int], nn.Module]

# Rows of a modulation: shift, scale and gate, for attention and feed-forward; the last layer has no gate.
DOUBLE_ROWS, SINGLE_ROWS, LAST_ROWS = 6, 3, 2

_BLOCK = re.compile(r"(double|single)_blocks\.(\d+)\.")


@dataclass(frozen=True)
class StreamsConfig:
    """The architecture of the blocks, and of the layers before and after them.

    in_channels, out_channels: of a token, four latent pixels. mlp_size: hidden width of the feed-forwards.
    """

    in_channels: int = 64
    out_channels: int = 64
    context_dim: int = 4096
    hidden_size: int = 3072
    head_size: int = 128
    mlp_size: int = 12288
    depth: int = 19
    depth_single: int = 38

    @property
    def num_heads(self) -> int:
        """Attention heads."""
        return self.hidden_size // self.head_size

    @property
    def axes(self) -> tuple[int, int, int]:
        """Channels of a head that turn with the picture's number, the row and the column: 16, 56 and 56."""
        return split_axes(self.head_size, share=8)

    @classmethod
    def from_shapes(cls, shapes: Shapes) -> StreamsConfig:
        """Reads the architecture from the shapes of a file's tensors, prefix stripped.

        Raises KeyError where a tensor that defines the architecture is missing.
        """
        blocks = [match.groups() for name in shapes if (match := _BLOCK.match(name))]
        depth, depth_single = (
            1 + max((int(number) for kind, number in blocks if kind == asked), default=-1)
            for asked in ("double", "single")
        )
        hidden_size, in_channels = shapes["img_in.weight"]
        return cls(
            in_channels=in_channels,
            out_channels=shapes["final_layer.linear.weight"][0],
            context_dim=shapes["txt_in.weight"][1],
            hidden_size=hidden_size,
            head_size=shapes["double_blocks.0.img_attn.norm.query_norm.scale"][0],
            mlp_size=shapes["double_blocks.0.img_mlp.0.weight"][0],
            depth=depth,
            depth_single=depth_single,
        )


class RMSNorm(nn.Module):
    """Root-mean-square norm whose weight is called `scale`, x: (..., D)  ->  (..., D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return rms_norm(x, self.scale)


class QKNorm(nn.Module):
    """The norms of queries and keys."""

    def __init__(self, head_size: int) -> None:
        super().__init__()
        self.query_norm = RMSNorm(head_size)
        self.key_norm = RMSNorm(head_size)

    def stream(self, qkv: Tensor) -> Stream:
        """A stream of queries, keys and values side by side, (b, l, 3D)."""
        q, k, v = qkv.chunk(3, dim=-1)
        return Stream(q, k, v, self.query_norm.scale, self.key_norm.scale)


class SelfAttention(nn.Module):
    """One stream's projections before and after the attention of both."""

    def __init__(self, config: StreamsConfig) -> None:
        super().__init__()
        self.qkv = Linear(config.hidden_size, 3 * config.hidden_size)
        self.norm = QKNorm(config.head_size)
        self.proj = Linear(config.hidden_size, config.hidden_size)

    def parts(self) -> Parts:
        """Heads."""
        width = self.proj.in_features
        return Parts({self.qkv: (width, width, width)}, {self.proj: (width,)})

    def stream(self, x: Tensor) -> Stream:
        """Queries, keys and values of x (b, l, D)."""
        return self.norm.stream(self.qkv(x))


class MLP(nn.Sequential):
    """Two linear layers with a GELU between them, x: (b, l, D)  ->  (b, l, D)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(Linear(width, hidden), nn.GELU(approximate="tanh"), Linear(hidden, width))
        self.hidden = hidden

    def parts(self) -> Parts:
        """Hidden channels."""
        return Parts({self[0]: (self.hidden,)}, {self[2]: (self.hidden,)})

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        out: Tensor = self[2](linear_gelu(x, self[0]))
        return out


class MLPEmbedder(nn.Module):
    """A vector that conditions the network, x: (..., d)  ->  (..., D)."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.in_layer = Linear(width_in, width)
        self.out_layer = Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        out: Tensor = self.out_layer(F.silu(self.in_layer(x)))
        return out


class DoubleStreamBlock(nn.Module):
    """Attention over picture and text, each with its own weights, then a feed-forward for each.

    img: (b, l, D), txt: (b, s, D), img_vec, txt_vec: what the modulations take, rope: (s + l, d/2, 2)
    ->  img, txt
    """

    def __init__(self, config: StreamsConfig, modulation: MakeModulation) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.img_mod = modulation(DOUBLE_ROWS)
        self.img_attn = SelfAttention(config)
        self.img_mlp = MLP(config.hidden_size, config.mlp_size)
        self.txt_mod = modulation(DOUBLE_ROWS)
        self.txt_attn = SelfAttention(config)
        self.txt_mlp = MLP(config.hidden_size, config.mlp_size)

    def parts(self) -> Parts:
        """Heads; the projections say the rest."""
        return Parts(counts=("num_heads",))

    def forward(  # noqa: D102
        self, img: Tensor, txt: Tensor, img_vec: Tensor, txt_vec: Tensor, rope: Tensor
    ) -> tuple[Tensor, Tensor]:
        img1, img2 = _modulations(self.img_mod(img_vec), DOUBLE_ROWS)
        txt1, txt2 = _modulations(self.txt_mod(txt_vec), DOUBLE_ROWS)
        streams = (
            self.txt_attn.stream(modulated_layer_norm(txt, txt1.shift, txt1.scale)),
            self.img_attn.stream(modulated_layer_norm(img, img1.shift, img1.scale)),
        )
        txt_out, img_out = joint_attention(streams, self.num_heads, rope=rope)
        img_out, txt_out = self.img_attn.proj(img_out), self.txt_attn.proj(txt_out)
        img, normed = gated_residual_norm(img, img1.gate, img_out, img2.shift, img2.scale)
        img = gated_residual(img, img2.gate, self.img_mlp(normed))
        txt, normed = gated_residual_norm(txt, txt1.gate, txt_out, txt2.shift, txt2.scale)
        txt = gated_residual(txt, txt2.gate, self.txt_mlp(normed))
        return img, clamp_float16(txt)  # it leaves that range in the last blocks


class SingleStreamBlock(nn.Module):
    """Attention and feed-forward side by side (arXiv 2302.05442), over text and picture as one stream.

    x: (b, l, D), vec: what the modulation takes, rope: (l, d/2, 2)  ->  (b, l, D)
    """

    def __init__(self, config: StreamsConfig, modulation: MakeModulation) -> None:
        super().__init__()
        width = config.hidden_size
        self.width, self.num_heads = width, config.num_heads
        self.modulation = modulation(SINGLE_ROWS)
        self.linear1 = Linear(width, 3 * width + config.mlp_size)
        self.norm = QKNorm(config.head_size)
        self.linear2 = Linear(width + config.mlp_size, width)

    def parts(self) -> Parts:
        """Heads and hidden channels."""
        width, hidden = self.width, self.linear2.in_features - self.width
        return Parts(
            {self.linear1: (width, width, width, hidden)},
            {self.linear2: (width, hidden)},
            ("width", "num_heads"),
        )

    def forward(self, x: Tensor, vec: Tensor, rope: Tensor) -> Tensor:  # noqa: D102
        (mod,) = _modulations(self.modulation(vec), SINGLE_ROWS)
        normed = modulated_layer_norm(x, mod.shift, mod.scale)
        qkv, hidden = linear_and_gelu(normed, self.linear1, 3 * self.width)
        (out,) = joint_attention((self.norm.stream(qkv),), self.num_heads, rope=rope)
        return clamp_float16(gated_residual(x, mod.gate, joined_linear(out, hidden, self.linear2)))


class LastLayer(nn.Module):
    """Norm and projection to latent pixels, x: (b, l, D), vec as above  ->  (b, l, out_channels)."""

    def __init__(self, config: StreamsConfig, modulation: MakeModulation) -> None:
        super().__init__()
        self.adaLN_modulation = modulation(LAST_ROWS)
        self.linear = Linear(config.hidden_size, config.out_channels)

    def forward(self, x: Tensor, vec: Tensor) -> Tensor:  # noqa: D102
        shift, scale = _rows(self.adaLN_modulation(vec), LAST_ROWS)  # (b, 1, D) each
        out: Tensor = self.linear(modulated_layer_norm(x, shift, scale))
        return out


class StreamsTransformer(nn.Module):
    """Double and single blocks between patches and patches: all of the network but its conditioning.

    modulation: makes the modulation of a block with so many rows; last_modulation: the last layer's.
    """

    def __init__(
        self, config: StreamsConfig, modulation: MakeModulation, last_modulation: MakeModulation
    ) -> None:
        super().__init__()
        self.axes = config.axes
        self.img_in = Linear(config.in_channels, config.hidden_size)
        self.txt_in = Linear(config.context_dim, config.hidden_size)
        self.double_blocks = nn.ModuleList(DoubleStreamBlock(config, modulation) for _ in range(config.depth))
        self.single_blocks = nn.ModuleList(
            SingleStreamBlock(config, modulation) for _ in range(config.depth_single)
        )
        self.final_layer = LastLayer(config, last_modulation)

    def run(
        self,
        patches: Sequence[Tensor],
        positions: Tensor,
        context: Tensor,
        double_vecs: Sequence[tuple[Tensor, Tensor]],
        single_vecs: Sequence[Tensor],
        last_vec: Tensor,
    ) -> Tensor:
        """The network's answer for the tokens of the first picture.

        patches: (b, l_i, in_channels) each, the picture's and those of what it refers to.
        positions: (l, 3), of all their tokens. context: (b, s, context_dim).
        double_vecs: for each double block what its two modulations take; single_vecs, last_vec likewise.
        ->  (b, l_0, out_channels)
        """
        img, txt = self.img_in(torch.cat(tuple(patches), dim=1)), self.txt_in(context)
        text_length, length = txt.shape[1], patches[0].shape[1]
        rope = rope_table(F.pad(positions, (0, 0, text_length, 0)), self.axes)  # text is at the origin
        for block, (img_vec, txt_vec) in zip(self.double_blocks, double_vecs, strict=True):
            img, txt = block(img, txt, img_vec, txt_vec, rope)
        x = torch.cat((txt, img), dim=1)
        for block, vec in zip(self.single_blocks, single_vecs, strict=True):
            x = block(x, vec, rope)
        out: Tensor = self.final_layer(x[:, text_length : text_length + length], last_vec)
        return out


def image_positions(latent: Tensor, *, number: int = 0, top: int = 0, left: int = 0) -> Tensor:
    """Where the tokens of a latent (b, c, h, w) are: the picture's number, row and column.

    top, left: row and column of the first one  ->  (h/2 * w/2, 3) float32
    """
    height, width = (side // PATCH for side in latent.shape[2:])
    grid = torch.zeros(height, width, 3, device=latent.device)
    grid[..., 0].fill_(number)
    grid[..., 1] = torch.arange(top, top + height, device=latent.device)[:, None]
    grid[..., 2] = torch.arange(left, left + width, device=latent.device)
    return grid.flatten(0, 1)


class _Modulation(NamedTuple):
    shift: Tensor  # (b, 1, D), as the others
    scale: Tensor
    gate: Tensor


def _modulations(modulation: Tensor, count: int) -> list[_Modulation]:
    rows = _rows(modulation, count)
    return [_Modulation(*rows[i : i + 3]) for i in range(0, count, 3)]


def _rows(modulation: Tensor, count: int) -> tuple[Tensor, ...]:
    """(b, count * D) or (b, count, D) as `count` tensors (b, 1, D)."""
    return modulation.reshape(len(modulation), count, 1, -1).unbind(1)
