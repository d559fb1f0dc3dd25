"""Qwen-Image's diffusion transformer (arXiv 2508.02324), in the names of its authors' checkpoints."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darkroom.layers.embed import timestep_embedding
from darkroom.layers.float16 import clamp_float16
from darkroom.layers.joint import project
from darkroom.layers.joint_attention import Stream, joint_attention
from darkroom.layers.linear import Linear, linear_gelu
from darkroom.layers.norm import RMSNorm, gated_residual, gated_residual_norm, modulated_layer_norm
from darkroom.layers.parts import Parts
from darkroom.layers.rope import rope_table, split_axes
from darkroom.nets.patches import PATCH, patchify, unpatchify

# Sinusoids that a timestep becomes.
_TIMESTEP_WIDTH = 256

_BLOCK = re.compile(r"transformer_blocks\.(\d+)\.")


@dataclass(frozen=True)
class QwenImageTransformerConfig:
    """The architecture.

    channels: of the latent. context_dim: of the text's tokens.
    zero_cond_t: whether reference images are seen as at timestep 0, whatever the picture's is (Edit-2511);
    no tensor's shape tells.
    """

    channels: int = 16
    context_dim: int = 3584
    num_layers: int = 60
    num_heads: int = 24
    head_size: int = 128
    zero_cond_t: bool = False

    @property
    def hidden_size(self) -> int:
        """Of the tokens in the blocks."""
        return self.num_heads * self.head_size

    @property
    def axes(self) -> tuple[int, int, int]:
        """Channels of a head that turn with an image's number, its rows, its columns: 16, 56, 56 of 128."""
        return split_axes(self.head_size, share=8)

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[int, ...]]) -> QwenImageTransformerConfig:
        """The architecture of a checkpoint, from its tensors' shapes (prefix stripped).

        Raises KeyError where a tensor that defines the architecture is missing.
        """
        width, patch_width = shapes["img_in.weight"]
        head_size = shapes["transformer_blocks.0.attn.norm_q.weight"][0]
        return cls(
            channels=patch_width // PATCH**2,
            context_dim=shapes["txt_in.weight"][1],
            num_layers=1 + max(int(match[1]) for name in shapes if (match := _BLOCK.match(name))),
            num_heads=width // head_size,
            head_size=head_size,
        )


class Modulation(NamedTuple):
    """What the timestep does to a stream around attention or feed-forward, (b, 1, D) each."""

    shift: Tensor
    scale: Tensor
    gate: Tensor


class TimestepEmbedding(nn.Module):
    """Two projections of a timestep's sinusoids, x: (b, 256)  ->  (b, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1 = Linear(_TIMESTEP_WIDTH, width)
        self.linear_2 = Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        out: Tensor = self.linear_2(F.silu(self.linear_1(x)))
        return out


class TimestepProjection(nn.Module):
    """Embeds timesteps t: (b,) in [0, 1000]  ->  (b, D) in the weights' type."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.timestep_embedder = TimestepEmbedding(width)

    def forward(self, t: Tensor, dtype: torch.dtype) -> Tensor:  # noqa: D102
        out: Tensor = self.timestep_embedder(timestep_embedding(t, _TIMESTEP_WIDTH).to(dtype))
        return out


class ProjectionGELU(nn.Module):
    """A projection and GELU, x: (..., D_in)  ->  (..., D_out)."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.proj = Linear(width_in, width_out)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return linear_gelu(x, self.proj)


class FeedForward(nn.Module):
    """To four times the width, GELU, and back, x: (b, l, D)  ->  (b, l, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # Index 1 is the authors' dropout.
        self.net = nn.Sequential(ProjectionGELU(width, 4 * width), nn.Identity(), Linear(4 * width, width))
        self.hidden = 4 * width

    def parts(self) -> Parts:
        """Hidden channels."""
        hidden = (self.hidden,)
        return Parts({self.net[0].get_submodule("proj"): hidden}, {self.net[2]: hidden})

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        out: Tensor = self.net(x)
        return out


class JointAttention(nn.Module):
    """Attention of text and images to each other, the text with weights of its own.

    text: (b, s, D), images: (b, l_i, D) each, rope: for all tokens, text first,
    mask: (b, s + sum l_i) or None  ->  text and images, as they came in
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        head_size = width // heads
        self.to_q = Linear(width, width)
        self.to_k = Linear(width, width)
        self.to_v = Linear(width, width)
        self.norm_q = RMSNorm(head_size)
        self.norm_k = RMSNorm(head_size)
        self.add_q_proj = Linear(width, width)
        self.add_k_proj = Linear(width, width)
        self.add_v_proj = Linear(width, width)
        self.norm_added_q = RMSNorm(head_size)
        self.norm_added_k = RMSNorm(head_size)
        self.to_out = nn.ModuleList((Linear(width, width),))
        self.to_add_out = Linear(width, width)

    def parts(self) -> Parts:
        """Heads."""
        width = (self.to_q.out_features,)
        outputs = [linear for group in self.joint_projections() for linear in group]
        inputs = (self.to_out[0], self.to_add_out)
        return Parts(dict.fromkeys(outputs, width), dict.fromkeys(inputs, width), ("heads",))

    def joint_projections(self) -> Sequence[Sequence[nn.Module]]:
        """Queries, keys and values: of the images, and of the text."""
        return (self.to_q, self.to_k, self.to_v), (self.add_q_proj, self.add_k_proj, self.add_v_proj)

    def forward(  # noqa: D102
        self, text: Tensor, images: Sequence[Tensor], rope: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, ...]:
        of_images, of_text = self.joint_projections()
        q, k, v = project(text, of_text)
        streams = [Stream(q, k, v, self.norm_added_q.weight, self.norm_added_k.weight)]
        for image in images:
            q, k, v = project(image, of_images)
            streams.append(Stream(q, k, v, self.norm_q.weight, self.norm_k.weight))
        text, *images = joint_attention(streams, self.heads, rope=rope, mask=mask)
        return self.to_add_out(text), *(self.to_out[0](image) for image in images)


class QwenImageTransformerBlock(nn.Module):
    """Attention and feed-forward over text and images, which the timestep modulates.

    text: (b, s, D), images: (b, l_i, D) each, embs: (b, 1, D) for each image, the first for the text, too,
    rope, mask: as JointAttention takes them  ->  text and images, as they came in
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        # Index 0 is the SiLU, which all blocks share.
        self.img_mod = nn.ModuleList((nn.Identity(), Linear(width, 6 * width)))
        self.txt_mod = nn.ModuleList((nn.Identity(), Linear(width, 6 * width)))
        self.attn = JointAttention(width, heads)
        self.img_mlp = FeedForward(width)
        self.txt_mlp = FeedForward(width)

    def joint_projections(self) -> Sequence[Sequence[nn.Module]]:
        """Of the timestep, for the text and for the picture."""
        return ((self.txt_mod[1], self.img_mod[1]),)

    def forward(  # noqa: D102
        self,
        text: Tensor,
        images: Sequence[Tensor],
        embs: Sequence[Tensor],
        rope: Tensor,
        mask: Tensor | None,
    ) -> tuple[Tensor, list[Tensor]]:
        mods = [*project(embs[0], (self.txt_mod[1], self.img_mod[1]))]
        mods += [self.img_mod[1](emb) for emb in embs[1:]]
        around_attn, around_mlp = zip(*map(_modulations, mods), strict=True)
        mlps = (self.txt_mlp, *[self.img_mlp] * len(images))

        tokens = [text, *images]
        text, *images = (
            modulated_layer_norm(x, mod.shift, mod.scale) for x, mod in zip(tokens, around_attn, strict=True)
        )
        attended = self.attn(text, images, rope, mask)
        changed = []
        for x, y, attn, mlp, feed in zip(tokens, attended, around_attn, around_mlp, mlps, strict=True):
            x, normed = gated_residual_norm(x, attn.gate, y, mlp.shift, mlp.scale)
            changed.append(clamp_float16(gated_residual(x, mlp.gate, feed(normed))))  # as the authors do
        return changed[0], changed[1:]


def _modulations(mods: Tensor) -> tuple[Modulation, Modulation]:
    """Around attention, and around the feed-forward: (b, 1, 6D) in six."""
    parts = mods.chunk(6, dim=-1)
    return Modulation(*parts[:3]), Modulation(*parts[3:])


class OutputNorm(nn.Module):
    """The last norm, modulated by the timestep, x: (b, l, D), emb: (b, 1, D)  ->  (b, l, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = Linear(width, 2 * width)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:  # noqa: D102
        scale, shift = self.linear(emb).chunk(2, dim=-1)
        return modulated_layer_norm(x, shift, scale)


class QwenImageTransformer(nn.Module):
    """Predicts the flow from latents to noise, given text and reference images."""

    def __init__(self, config: QwenImageTransformerConfig) -> None:
        super().__init__()
        self.config = config
        width, patch_width = config.hidden_size, config.channels * PATCH**2
        self.img_in = Linear(patch_width, width)
        self.txt_norm = RMSNorm(config.context_dim)
        self.txt_in = Linear(config.context_dim, width)
        self.time_text_embed = TimestepProjection(width)
        self.transformer_blocks = nn.ModuleList(
            QwenImageTransformerBlock(width, config.num_heads) for _ in range(config.num_layers)
        )
        self.norm_out = OutputNorm(width)
        self.proj_out = Linear(width, patch_width)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        context: Tensor,
        mask: Tensor | None = None,
        references: tuple[Tensor, ...] = (),
        increase_index: bool = True,
    ) -> Tensor:
        """The flow at x.

        x: (b, c, h, w) with even h and w. t: (b,) in [0, 1000]. context: (b, s, D_context).
        mask: (b, s) bool, False for padding of the context, or None.
        references: latents of reference images, (b, c, h_i, w_i) each with even h_i and w_i.
        increase_index: whether their numbers are 1, 2, ... or all 1.
        ->  (b, c, h, w), in x's type
        """
        sizes = [(image.shape[2] // PATCH, image.shape[3] // PATCH) for image in (x, *references)]
        positions = token_positions(context.shape[1], sizes, x.device, increase_index=increase_index)
        rope = rope_table(positions, self.config.axes)
        text = self.txt_in(self.txt_norm(context))
        images = [self.img_in(torch.cat([patchify(image) for image in (x, *references)], dim=1))]
        if mask is not None:
            mask = F.pad(mask, (0, images[0].shape[1]), value=True)  # images hide nothing

        embs = [F.silu(self.time_text_embed(t, x.dtype))[:, None]]  # (b, 1, D)
        length = sizes[0][0] * sizes[0][1]
        if references and self.config.zero_cond_t:
            images = list(images[0].tensor_split([length], dim=1))
            embs.append(F.silu(self.time_text_embed(torch.zeros_like(t), x.dtype))[:, None])

        for block in self.transformer_blocks:
            text, images = block(text, images, embs, rope, mask)
        picture = self.proj_out(self.norm_out(images[0][:, :length], embs[0]))
        return unpatchify(picture, x.shape[2], x.shape[3])


def token_positions(
    text: int, sizes: Sequence[tuple[int, int]], device: torch.device, *, increase_index: bool = True
) -> Tensor:
    """Where each token is: the image's number, row and column, the centre of every image being (0, 0).

    text: number of its tokens; they stand on the diagonal that leaves from the largest image's corner.
    sizes: rows and columns of tokens of each image, the picture first. increase_index: whether reference
    images are numbered, or all have the number 1.  ->  (text + sum h*w, 3)
    """
    corner = max(max(size) // 2 for size in sizes)
    parts = [(corner + torch.arange(text, device=device))[:, None].expand(-1, 3)]
    for number, (height, width) in enumerate(sizes):
        rows = torch.arange(height, device=device) - (height - height // 2)
        columns = torch.arange(width, device=device) - (width - width // 2)
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        number = number if increase_index else min(number, 1)
        parts.append(torch.stack((torch.full_like(y, number), y, x), dim=-1).flatten(0, 1))
    return torch.cat(parts)
