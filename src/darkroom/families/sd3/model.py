"""The diffusion transformer of Stable Diffusion 3 and 3.5 (MMDiT, arXiv 2403.03206), in Stability's names."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darkroom.layers.conv import Conv2d
from darkroom.layers.embed import timestep_embedding
from darkroom.layers.joint import project
from darkroom.layers.joint_attention import Stream, joint_attention
from darkroom.layers.linear import Linear, linear_gelu
from darkroom.layers.norm import RMSNorm, gated_residual, gated_residual_norm, modulated_layer_norm
from darkroom.layers.parts import Parts, Sections

# Of Stable Diffusion 3 medium, which has no norms in its attention that would tell.
HEAD_SIZE = 64

_BLOCK = re.compile(r"joint_blocks\.(\d+)\.")
_DUAL = re.compile(r"joint_blocks\.(\d+)\.x_block\.attn2\.qkv\.weight")
_FIRST = "joint_blocks.0.x_block."


@dataclass(frozen=True)
class MMDiTConfig:
    """The architecture.

    positions: patches along a side of the table of position embeddings. vector_dim: width of the pooled text.
    qk_norm: whether queries and keys are normalised (3.5). dual_blocks: the blocks in which the picture
    attends to itself a second time (MMDiT-X, 3.5 medium).
    """

    hidden_size: int = 1536
    num_layers: int = 24
    num_heads: int = 24
    mlp_size: int = 6144
    in_channels: int = 16
    out_channels: int = 16
    patch_size: int = 2
    positions: int = 192
    context_dim: int = 4096
    vector_dim: int = 2048
    timestep_dim: int = 256
    qk_norm: bool = False
    dual_blocks: tuple[int, ...] = ()

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[int, ...]]) -> MMDiTConfig:
        """The architecture of a network under Stability's names, from its tensors' shapes (prefix stripped).

        Raises KeyError when a tensor that every such network has is missing.
        """
        hidden_size, in_channels, patch_size, _ = shapes["x_embedder.proj.weight"]
        norm = shapes.get(f"{_FIRST}attn.ln_q.weight")
        return cls(
            hidden_size=hidden_size,
            num_layers=1 + max(int(match[1]) for name in shapes if (match := _BLOCK.match(name))),
            num_heads=hidden_size // (norm[0] if norm else HEAD_SIZE),
            mlp_size=shapes[f"{_FIRST}mlp.fc1.weight"][0],
            in_channels=in_channels,
            out_channels=shapes["final_layer.linear.weight"][0] // patch_size**2,
            patch_size=patch_size,
            positions=math.isqrt(shapes["pos_embed"][1]),
            context_dim=shapes["context_embedder.weight"][1],
            vector_dim=shapes["y_embedder.mlp.0.weight"][1],
            timestep_dim=shapes["t_embedder.mlp.0.weight"][1],
            qk_norm=norm is not None,
            dual_blocks=tuple(sorted(int(m[1]) for name in shapes if (m := _DUAL.fullmatch(name)))),
        )


class PatchEmbed(nn.Module):
    """Patches of the latent as tokens, x: (b, c, h, w)  ->  (b, l, D), row by row."""

    def __init__(self, config: MMDiTConfig) -> None:
        super().__init__()
        patch = config.patch_size
        self.proj = Conv2d(config.in_channels, config.hidden_size, patch, stride=patch, padding=0)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        patches: Tensor = self.proj(x)
        return patches.permute(0, 2, 3, 1).flatten(1, 2)


class Embedder(nn.Module):
    """What the modulations hear: of the timestep's sinusoids, or of the pooled text; (b, d)  ->  (b, D)."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(Linear(width_in, width), nn.SiLU(), Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        out: Tensor = self.mlp(x)
        return out


class Attention(nn.Module):
    """A stream's projections around an attention; the text of the last block needs none behind it."""

    def __init__(self, config: MMDiTConfig, is_last: bool = False) -> None:
        super().__init__()
        width, self.num_heads = config.hidden_size, config.num_heads
        self.is_last = is_last
        self.qkv = Linear(width, 3 * width)
        self.ln_q = RMSNorm(width // config.num_heads) if config.qk_norm else None
        self.ln_k = RMSNorm(width // config.num_heads) if config.qk_norm else None
        if not is_last:
            self.proj = Linear(width, width)

    def parts(self) -> Parts:
        """Heads; where no projection follows, they are needed all the same: those are thrown away."""
        width = self.qkv.in_features
        inputs: dict[nn.Module, Sections] = {} if self.is_last else {self.proj: (width,)}
        return Parts({self.qkv: (width, width, width)}, inputs, ("num_heads",))

    def stream(self, x: Tensor) -> Stream:
        """Queries, keys and values of x: (b, l, D)."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q_norm, k_norm = (None if norm is None else norm.weight for norm in (self.ln_q, self.ln_k))
        return Stream(q, k, v, q_norm, k_norm)

    def forward(self, x: Tensor) -> Tensor:
        """x attends to itself alone, (b, l, D)  ->  (b, l, D)."""
        out: Tensor = self.proj(*joint_attention((self.stream(x),), self.num_heads))
        return out


class MLP(nn.Module):
    """Two linear layers with a GELU between them, x: (b, l, D)  ->  (b, l, D)."""

    def __init__(self, config: MMDiTConfig) -> None:
        super().__init__()
        self.fc1 = Linear(config.hidden_size, config.mlp_size)
        self.fc2 = Linear(config.mlp_size, config.hidden_size)

    def parts(self) -> Parts:
        """Hidden channels."""
        hidden = (self.fc1.out_features,)
        return Parts({self.fc1: hidden}, {self.fc2: hidden})

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        out: Tensor = self.fc2(linear_gelu(x, self.fc1))
        return out


class Block(nn.Module):
    """One stream's half of a joint block.

    x: (b, l, D), attended: (b, l, D), what the joint attention gave this stream, modulations: (b, 1, D) each,
    shift, scale and gate of attention, feed-forward and second attention  ->  (b, l, D)
    """

    def __init__(self, config: MMDiTConfig, *, is_dual: bool = False, is_last: bool = False) -> None:
        super().__init__()
        width = config.hidden_size
        self.is_last = is_last
        self.attn = Attention(config, is_last)
        self.attn2 = Attention(config) if is_dual else None
        if not is_last:
            self.mlp = MLP(config)
        self.num_modulations = 2 if is_last else 9 if is_dual else 6
        # Indices are Stability's: its SiLU stands where an Identity is here.
        self.adaLN_modulation = nn.ModuleList((nn.Identity(), Linear(width, self.num_modulations * width)))

    def forward(self, x: Tensor, attended: Tensor, modulations: Sequence[Tensor]) -> Tensor:  # noqa: D102
        gate, shift_mlp, scale_mlp, gate_mlp, *second = modulations[2:]
        y = self.attn.proj(attended)
        if self.attn2 is not None:
            shift2, scale2, gate2 = second
            y2 = self.attn2(modulated_layer_norm(x, shift2, scale2))
            x, gate, y = gated_residual(x, gate, y), gate2, y2
        x, normed = gated_residual_norm(x, gate, y, shift_mlp, scale_mlp)
        return gated_residual(x, gate_mlp, self.mlp(normed))


class JointBlock(nn.Module):
    """Text and picture, each with weights of its own, in one attention; figure 2 b of the paper.

    context: (b, s, D), x: (b, l, D), c: (b, D), what modulates  ->  both; the last block leaves the text
    """

    def __init__(self, config: MMDiTConfig, number: int) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.context_block = Block(config, is_last=number == config.num_layers - 1)
        self.x_block = Block(config, is_dual=number in config.dual_blocks)

    def parts(self) -> Parts:
        """Heads; the projections say the rest."""
        return Parts(counts=("num_heads",))

    def joint_projections(self) -> Sequence[Sequence[nn.Module]]:
        """The modulations of both streams."""
        return ((self.context_block.adaLN_modulation[1], self.x_block.adaLN_modulation[1]),)

    def forward(self, context: Tensor, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        blocks, tokens = (self.context_block, self.x_block), (context, x)
        (projections,) = self.joint_projections()
        modulations = [
            projected[:, None].chunk(block.num_modulations, dim=-1)
            for block, projected in zip(blocks, project(c, projections), strict=True)
        ]
        streams = [
            block.attn.stream(modulated_layer_norm(y, shift, scale))
            for block, y, (shift, scale, *_) in zip(blocks, tokens, modulations, strict=True)
        ]
        attended = joint_attention(streams, self.num_heads)
        if not self.context_block.is_last:
            context = self.context_block(context, attended[0], modulations[0])
        return context, self.x_block(x, attended[1], modulations[1])


class FinalLayer(nn.Module):
    """Tokens to patches of the latent, x: (b, l, D), c: (b, D)  ->  (b, l, p * p * c_out)."""

    def __init__(self, config: MMDiTConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.adaLN_modulation = nn.ModuleList((nn.Identity(), Linear(width, 2 * width)))
        self.linear = Linear(width, config.patch_size**2 * config.out_channels)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:  # noqa: D102
        shift, scale = self.adaLN_modulation[1](c)[:, None].chunk(2, dim=-1)
        out: Tensor = self.linear(modulated_layer_norm(x, shift, scale))
        return out


class MMDiT(nn.Module):
    """Predicts the velocity noise - latent of a latent on its way, given the text.

    x: (b, c, h, w) with h and w multiples of the patch, t: (b,) in [0, 1000], context: (b, s, D_context),
    y: (b, D_vector), the pooled text  ->  (b, c_out, h, w), in x's dtype
    """

    pos_embed: Tensor

    def __init__(self, config: MMDiTConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.x_embedder = PatchEmbed(config)
        self.t_embedder = Embedder(config.timestep_dim, width)
        self.y_embedder = Embedder(config.vector_dim, width)
        self.context_embedder = Linear(config.context_dim, width)
        self.register_buffer("pos_embed", torch.zeros(1, config.positions**2, width))
        self.joint_blocks = nn.ModuleList(JointBlock(config, i) for i in range(config.num_layers))
        self.final_layer = FinalLayer(config)

    def forward(self, x: Tensor, t: Tensor, context: Tensor, y: Tensor) -> Tensor:  # noqa: D102
        patch = self.config.patch_size
        height, width = x.shape[2] // patch, x.shape[3] // patch
        c = self.t_embedder(timestep_embedding(t, self.config.timestep_dim).to(x.dtype)) + self.y_embedder(y)
        c = F.silu(c)
        tokens = self.x_embedder(x) + self._positions(height, width)
        context = self.context_embedder(context)
        for block in self.joint_blocks:
            context, tokens = block(context, tokens, c)
        patches = torch.unflatten(self.final_layer(tokens, c), 1, (height, width))
        patches = torch.unflatten(patches, -1, (patch, patch, -1))  # (b, h, w, p, p, c)
        return patches.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)

    def _positions(self, height: int, width: int) -> Tensor:
        """The middle of the table, (1, height * width, D): every size is a cut of the largest."""
        side = self.config.positions
        top, left = (side - height) // 2, (side - width) // 2
        table = torch.unflatten(self.pos_embed, 1, (side, side))
        return table[:, top : top + height, left : left + width].flatten(1, 2)
