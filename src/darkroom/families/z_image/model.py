"""Z-Image's diffusion transformer (arXiv 2511.22699), in the names of ComfyUI's single files.

One stream of image and text tokens through all blocks, after two short stacks that refine each by itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darkroom.layers.embed import timestep_embedding
from darkroom.layers.joint_attention import Stream, joint_attention
from darkroom.layers.linear import Linear, SwiGLU, silu_gated
from darkroom.layers.norm import (
    RMSNorm,
    modulated_layer_norm,
    modulated_rms_norm,
    normed_residual,
    normed_residual_norm,
)
from darkroom.layers.parts import Parts
from darkroom.layers.rope import rope_table, split_axes
from darkroom.nets.patches import PATCH

TOKENS_MULTIPLE = 32
"""Image and text are each filled up to a multiple of it, with tokens that the network has learned."""

THETA = 256.0
EPS = 1e-5

# Sinusoids that a timestep becomes.
_TIMESTEP_WIDTH = 256

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class ZImageTransformerConfig:
    """The architecture.

    channels: of the latent. context_dim: of the text's tokens. mlp_size: of the feed-forward layers.
    time_hidden, time_width: of the timestep's embedding.
    """

    channels: int = 16
    context_dim: int = 2560
    num_layers: int = 30
    num_refiners: int = 2
    num_heads: int = 30
    head_size: int = 128
    mlp_size: int = 10240
    time_hidden: int = 1024
    time_width: int = 256

    @property
    def hidden_size(self) -> int:
        """Of the tokens in the blocks."""
        return self.num_heads * self.head_size

    @property
    def axes(self) -> tuple[int, int, int]:
        """Channels of a head that turn with a token's place in the text, its row, its column: 32, 48, 48."""
        return split_axes(self.head_size, share=4)

    @classmethod
    def from_shapes(cls, shapes: Shapes) -> ZImageTransformerConfig:
        """The architecture of a checkpoint, from its tensors' shapes (prefix stripped).

        Raises KeyError where a tensor that defines the architecture is missing.
        """
        width, patch_width = shapes["x_embedder.weight"]
        head_size = shapes["layers.0.attention.q_norm.weight"][0]
        time_width, time_hidden = shapes["t_embedder.mlp.2.weight"]
        return cls(
            channels=patch_width // PATCH**2,
            context_dim=shapes["cap_embedder.1.weight"][1],
            num_layers=_count(shapes, "layers"),
            num_refiners=_count(shapes, "noise_refiner"),
            num_heads=width // head_size,
            head_size=head_size,
            mlp_size=shapes["layers.0.feed_forward.w1.weight"][0],
            time_hidden=time_hidden,
            time_width=time_width,
        )


def _count(shapes: Shapes, blocks: str) -> int:
    numbers = [int(match[1]) for name in shapes if (match := re.match(rf"{blocks}\.(\d+)\.", name))]
    return 1 + max(numbers, default=-1)


class Attention(nn.Module):
    """Self-attention, x: (b, l, D), rope: (l, d/2, 2)  ->  (b, l, D)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width, bias=False)
        self.out = Linear(width, width, bias=False)
        self.q_norm = RMSNorm(width // heads)
        self.k_norm = RMSNorm(width // heads)

    def parts(self) -> Parts:
        """Heads."""
        width = self.out.in_features
        return Parts({self.qkv: (width, width, width)}, {self.out: (width,)}, ("heads",))

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:  # noqa: D102
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        stream = Stream(q, k, v, self.q_norm.weight, self.k_norm.weight)
        (attended,) = joint_attention([stream], self.heads, rope=rope, eps=EPS)
        return _finite(self.out(attended))


class FeedForward(SwiGLU):
    """Gated feed-forward, x: (b, l, D)  ->  (b, l, D)."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return _finite(self.w2(_finite(silu_gated(self.w1(x), self.w3(x)))))


def _finite(x: Tensor) -> Tensor:
    """Numbers between these layers outgrow float16; what follows is normalised."""
    return x.nan_to_num() if x.dtype == torch.float16 else x


class TransformerBlock(nn.Module):
    """Attention and feed-forward, with norms before and after each."""

    def __init__(self, config: ZImageTransformerConfig) -> None:
        super().__init__()
        self.attention = Attention(config.hidden_size, config.num_heads)
        self.feed_forward = FeedForward(config.hidden_size, config.mlp_size)
        self.attention_norm1 = RMSNorm(config.hidden_size, EPS)
        self.attention_norm2 = RMSNorm(config.hidden_size, EPS)
        self.ffn_norm1 = RMSNorm(config.hidden_size, EPS)
        self.ffn_norm2 = RMSNorm(config.hidden_size, EPS)


class ContextBlock(TransformerBlock):
    """For text alone, which knows no timestep; x: (b, l, D), rope: (l, d/2, 2)  ->  (b, l, D)."""

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:  # noqa: D102
        x = x + self.attention_norm2(self.attention(self.attention_norm1(x), rope))
        out: Tensor = x + self.ffn_norm2(self.feed_forward(self.ffn_norm1(x)))
        return out


class ModulatedBlock(TransformerBlock):
    """Scaled and gated by the timestep's embedding; emb: (b, 1, D_time), x, rope as above  ->  (b, l, D)."""

    def __init__(self, config: ZImageTransformerConfig) -> None:
        super().__init__(config)
        self.adaLN_modulation = nn.ModuleList((Linear(config.time_width, 4 * config.hidden_size),))

    def forward(self, x: Tensor, rope: Tensor, emb: Tensor) -> Tensor:  # noqa: D102
        scale_attn, gate_attn, scale_mlp, gate_mlp = self.adaLN_modulation[0](emb).chunk(4, dim=-1)
        h = modulated_rms_norm(x, self.attention_norm1.weight, scale_attn, EPS)
        h = self.attention(h, rope)
        x, h = normed_residual_norm(
            x, gate_attn.tanh(), h, self.attention_norm2.weight, self.ffn_norm1.weight, scale_mlp, EPS
        )
        h = self.feed_forward(h)
        return normed_residual(x, gate_mlp.tanh(), h, self.ffn_norm2.weight, EPS)


class TimestepEmbedder(nn.Module):
    """Embeds timesteps t: (b,) in [0, 1000]  ->  (b, D_time)."""

    def __init__(self, config: ZImageTransformerConfig) -> None:
        super().__init__()
        # Index 1 is the SiLU.
        self.mlp = nn.ModuleList(
            (
                Linear(_TIMESTEP_WIDTH, config.time_hidden),
                nn.Identity(),
                Linear(config.time_hidden, config.time_width),
            )
        )

    def forward(self, t: Tensor, dtype: torch.dtype) -> Tensor:  # noqa: D102
        out: Tensor = self.mlp[2](F.silu(self.mlp[0](timestep_embedding(t, _TIMESTEP_WIDTH).to(dtype))))
        return out


class FinalLayer(nn.Module):
    """Tokens back to patches, x: (b, l, D), emb: (b, 1, D_time)  ->  (b, l, c*2*2)."""

    def __init__(self, config: ZImageTransformerConfig) -> None:
        super().__init__()
        self.linear = Linear(config.hidden_size, config.channels * PATCH**2)
        # Index 0 is the SiLU.
        self.adaLN_modulation = nn.ModuleList((nn.Identity(), Linear(config.time_width, config.hidden_size)))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:  # noqa: D102
        scale = self.adaLN_modulation[1](F.silu(emb))
        out: Tensor = self.linear(modulated_layer_norm(x, torch.zeros_like(scale), scale))
        return out


class ZImageTransformer(nn.Module):
    """Predicts the flow from latents to noise, given text."""

    def __init__(self, config: ZImageTransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.x_embedder = Linear(config.channels * PATCH**2, config.hidden_size)
        self.cap_embedder = nn.Sequential(
            RMSNorm(config.context_dim, EPS), Linear(config.context_dim, config.hidden_size)
        )
        self.t_embedder = TimestepEmbedder(config)
        self.x_pad_token = nn.Parameter(torch.zeros(1, config.hidden_size))
        self.cap_pad_token = nn.Parameter(torch.zeros(1, config.hidden_size))
        self.noise_refiner = nn.ModuleList(ModulatedBlock(config) for _ in range(config.num_refiners))
        self.context_refiner = nn.ModuleList(ContextBlock(config) for _ in range(config.num_refiners))
        self.layers = nn.ModuleList(ModulatedBlock(config) for _ in range(config.num_layers))
        self.final_layer = FinalLayer(config)

    def forward(self, x: Tensor, t: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """The flow at x.

        x: (b, c, h, w) with even h and w. t: (b,) in [0, 1000], 1000 is noise.
        context: (b, s, D_context), s a multiple of TOKENS_MULTIPLE.
        mask: (b, s) bool, False for what fills up the context, or None when nothing does.
        ->  (b, c, h, w), in x's type
        """
        height, width = x.shape[2] // PATCH, x.shape[3] // PATCH
        positions = token_positions(context.shape[1], height, width, x.device)
        rope = rope_table(positions, self.config.axes, THETA)
        image_rope, text_rope = rope.tensor_split([len(rope) - context.shape[1]])
        # The authors count time from noise to picture, and so their flow points the other way.
        emb = self.t_embedder(1000 - t, x.dtype)[:, None]

        image = self._filled(self.x_embedder(patchify(x)))
        for block in self.noise_refiner:
            image = block(image, image_rope, emb)

        text = self.cap_embedder(context)
        if mask is not None:
            text = torch.where(mask[..., None], text, self.cap_pad_token)
        for block in self.context_refiner:
            text = block(text, text_rope)

        tokens = torch.cat((image, text), dim=1)
        for block in self.layers:
            tokens = block(tokens, rope, emb)
        return -unpatchify(self.final_layer(tokens[:, : height * width], emb), height)

    def _filled(self, image: Tensor) -> Tensor:
        """The image's tokens, filled up to a multiple."""
        missing = -image.shape[1] % TOKENS_MULTIPLE
        if missing == 0:
            return image
        return torch.cat((image, self.x_pad_token.expand(len(image), missing, -1)), dim=1)


def patchify(x: Tensor) -> Tensor:
    """2x2 pixels as a token, (b, c, 2h, 2w)  ->  (b, h*w, 2*2*c)."""
    b, c, h, w = x.shape
    patches = x.reshape(b, c, h // PATCH, PATCH, w // PATCH, PATCH)
    return patches.permute(0, 2, 4, 3, 5, 1).reshape(b, -1, PATCH**2 * c)


def unpatchify(tokens: Tensor, height: int) -> Tensor:
    """Tokens as an image again, (b, h*w, 2*2*c)  ->  (b, c, 2h, 2w); height: h."""
    b, l, _ = tokens.shape
    patches = tokens.reshape(b, height, l // height, PATCH, PATCH, -1)  # (b, h, w, 2, 2, c)
    return patches.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def token_positions(text: int, height: int, width: int, device: torch.device) -> Tensor:
    """Where each token is: its place in the text, its row and its column.

    The text counts from 1, with what fills it up; the image stands where that ends, but what fills the
    image up is at 0.  ->  (h*w filled up + text, 3), the image first
    """
    y, x = torch.meshgrid(
        torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
    )
    image = torch.stack((torch.full_like(y, text + 1), y, x), dim=-1).flatten(0, 1)
    words = torch.arange(1, text + 1, device=device)[:, None]
    return torch.cat((F.pad(image, (0, 0, 0, -len(image) % TOKENS_MULTIPLE)), F.pad(words, (0, 2))))
