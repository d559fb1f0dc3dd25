"""Qwen's decoders as text encoders: Qwen2.5 (arXiv 2412.15115), with Qwen2.5-VL's positions for images
(arXiv 2502.13923), and Qwen3 (arXiv 2505.09388). Named as Hugging Face names them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from darkroom.layers.attention import attention, merge_heads, split_heads
from darkroom.layers.embed import embedding
from darkroom.layers.joint import project
from darkroom.layers.linear import Linear, silu_gated
from darkroom.layers.norm import RMSNorm
from darkroom.layers.parts import Parts, Sections
from darkroom.layers.rope import apply_rope_halves, rope_table

# Of every Qwen2.5 and Qwen3 that pictures are made with; Qwen2.5's shapes do not tell.
HEAD_WIDTH = 128
THETA = 1e6
EPS = 1e-6

IMAGE_PAD = 151655
"""The token `<|image_pad|>`, which stands for one embedding of an image."""

_TOKENS = "model.embed_tokens.weight"
_LAYER = re.compile(r"model\.layers\.(\d+)\.")
_ATTENTION = "model.layers.0.self_attn."


@dataclass(frozen=True)
class QwenConfig:
    """The architecture. has_bias: of q, k and v, as in Qwen2.5. has_qk_norm: of every head, as in Qwen3."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_width: int
    has_bias: bool
    has_qk_norm: bool
    image_token: int = IMAGE_PAD

    @classmethod
    def from_shapes(
        cls, shapes: Mapping[str, tuple[int, ...]], *, head_width: int | None = None
    ) -> QwenConfig:
        """Reads the architecture from the shapes of a file's tensors, `model.` names.

        head_width: where neither it nor a norm of the heads is given, 128, or the widest that divides the
        queries and the keys.

        Raises KeyError where a tensor that defines the architecture is missing.
        """
        vocab_size, hidden_size = shapes[_TOKENS]
        queries, keys = (shapes[f"{_ATTENTION}{part}_proj.weight"][0] for part in "qk")
        q_norm = shapes.get(f"{_ATTENTION}q_norm.weight")
        if head_width is None:
            head_width = q_norm[0] if q_norm else _head_width(math.gcd(queries, keys))
        return cls(
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            intermediate_size=shapes["model.layers.0.mlp.gate_proj.weight"][0],
            num_layers=1 + max(int(match[1]) for name in shapes if (match := _LAYER.match(name))),
            num_heads=queries // head_width,
            num_kv_heads=keys // head_width,
            head_width=head_width,
            has_bias=f"{_ATTENTION}q_proj.bias" in shapes,
            has_qk_norm=q_norm is not None,
        )

    @property
    def sections(self) -> tuple[int, int, int]:
        """How many of a head's frequencies turn with time, height and width: (16, 24, 24) of 64."""
        frequencies = self.head_width // 2
        time = frequencies // 4
        height = (frequencies - time) // 2
        return time, height, frequencies - time - height


def _head_width(width: int) -> int:
    return next(divisor for divisor in range(min(HEAD_WIDTH, width), 0, -1) if width % divisor == 0)


class QwenAttention(nn.Module):
    """Causal self-attention, several heads of queries for each of keys and values (arXiv 2305.13245).

    x, residual: (b, l, D), rope: (l, d/2, 2) or (b, l, d/2, 2), mask: (l, l) or (b, 1, l, l)  ->  (b, l, D)
    """

    def __init__(self, config: QwenConfig) -> None:
        super().__init__()
        self.head_width = config.head_width
        queries, keys = config.num_heads * config.head_width, config.num_kv_heads * config.head_width
        self.num_heads, self.num_kv_heads = config.num_heads, config.num_kv_heads
        self.q_proj = Linear(config.hidden_size, queries, bias=config.has_bias)
        self.k_proj = Linear(config.hidden_size, keys, bias=config.has_bias)
        self.v_proj = Linear(config.hidden_size, keys, bias=config.has_bias)
        self.o_proj = Linear(queries, config.hidden_size, bias=False)
        self.q_norm = RMSNorm(config.head_width, EPS) if config.has_qk_norm else nn.Identity()
        self.k_norm = RMSNorm(config.head_width, EPS) if config.has_qk_norm else nn.Identity()

    def forward(self, x: Tensor, rope: Tensor, mask: Tensor, residual: Tensor) -> Tensor:  # noqa: D102
        q, k, v = project(x, (self.q_proj, self.k_proj, self.v_proj))
        q = self.q_norm(split_heads(q, self.num_heads))  # (b, n, l, d)
        k = self.k_norm(split_heads(k, self.num_kv_heads))
        q, k = apply_rope_halves(q, rope), apply_rope_halves(k, rope)
        k, v = self._for_every_query(k), self._for_every_query(split_heads(v, self.num_kv_heads))
        out: Tensor = self.o_proj(merge_heads(attention(q, k, v, mask)), residual)
        return out

    def _for_every_query(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(self.num_heads // self.num_kv_heads, dim=1)

    def parts(self) -> Parts:
        """Heads, those of keys and values being fewer."""
        queries, keys = (self.q_proj.out_features,), (self.k_proj.out_features,)
        outputs: dict[nn.Module, Sections] = {self.q_proj: queries, self.k_proj: keys, self.v_proj: keys}
        return Parts(outputs, {self.o_proj: queries}, ("num_heads", "num_kv_heads"))

    def joint_projections(self) -> Sequence[Sequence[nn.Module]]:
        """All three, of the same tokens."""
        return ((self.q_proj, self.k_proj, self.v_proj),)


class QwenMLP(nn.Module):
    """Gated feed-forward with SiLU (arXiv 2002.05202).

    x: (..., D), residual: (..., D)  ->  (..., D)
    """

    def __init__(self, width: int, hidden: int, bias: bool = False) -> None:
        super().__init__()
        self.gate_proj = Linear(width, hidden, bias=bias)
        self.up_proj = Linear(width, hidden, bias=bias)
        self.down_proj = Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:  # noqa: D102
        gate, up = project(x, (self.gate_proj, self.up_proj))
        out: Tensor = self.down_proj(silu_gated(gate, up), residual)
        return out

    def parts(self) -> Parts:
        """Hidden channels."""
        hidden = (self.down_proj.in_features,)
        return Parts({self.gate_proj: hidden, self.up_proj: hidden}, {self.down_proj: hidden})

    def joint_projections(self) -> Sequence[Sequence[nn.Module]]:
        """Gate and value, of the same tokens."""
        return ((self.gate_proj, self.up_proj),)


class QwenBlock(nn.Module):
    """Pre-norm transformer block, x: (b, l, D)  ->  (b, l, D)."""

    def __init__(self, config: QwenConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, EPS)
        self.self_attn = QwenAttention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, EPS)
        self.mlp = QwenMLP(config.hidden_size, config.intermediate_size)

    def forward(self, x: Tensor, rope: Tensor, mask: Tensor) -> Tensor:  # noqa: D102
        x = self.self_attn(self.input_layernorm(x), rope, mask, residual=x)
        out: Tensor = self.mlp(self.post_attention_layernorm(x), residual=x)
        return out


class QwenDecoder(nn.Module):
    """The stack of blocks between embeddings and final norm."""

    def __init__(self, config: QwenConfig) -> None:
        super().__init__()
        self.embed_tokens = embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(QwenBlock(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, EPS)


class QwenTextModel(nn.Module):
    """The text encoder of Qwen-Image (Qwen2.5-VL 7B) and Z-Image (Qwen3 4B), without its language head."""

    def __init__(self, config: QwenConfig) -> None:
        super().__init__()
        self.config = config
        self.model = QwenDecoder(config)

    def forward(
        self,
        input_ids: Tensor,
        mask: Tensor | None = None,
        *,
        images: Tensor | None = None,
        positions: Tensor | None = None,
        layer: int = -1,
    ) -> Tensor:
        """Hidden states, numbered as transformers' `hidden_states`.

        input_ids: (b, l). mask: (b, l) bool, False for padding, which follows the text; None for no padding.
        images: (m, D), what the image tokens of all prompts stand for, in order (nets.te.qwen_vision).
        positions: (3, b, l), of time, height and width, from `image_positions`; None counts the tokens.
        layer: k for what the first k blocks give, -1 for what all give after the final norm, -2 for what all
        but the last give, and so on; blocks past it are not run.
        ->  (b, l, D)
        """
        x = self.model.embed_tokens(input_ids)
        if images is not None:
            x = place_images(x, input_ids == self.config.image_token, images)
        rope = self._rope(input_ids, positions)
        sees = causal_mask(input_ids, mask)
        blocks = layer if layer >= 0 else self.config.num_layers + 1 + layer
        for block in self.model.layers[:blocks]:
            x = block(x, rope, sees)
        out: Tensor = self.model.norm(x) if layer == -1 else x
        return out

    def _rope(self, input_ids: Tensor, positions: Tensor | None) -> Tensor:
        """(l, d/2, 2), or (b, l, d/2, 2) with positions: a part of the frequencies for each of three axes."""
        width = (self.config.head_width,)
        if positions is None:
            counted = torch.arange(input_ids.shape[1], device=input_ids.device)
            return rope_table(counted[:, None], width, THETA)
        tables = rope_table(positions.reshape(-1, 1), width, THETA).view(*positions.shape, -1, 2)
        parts = [table.split(self.config.sections, dim=2)[axis] for axis, table in enumerate(tables)]
        return torch.cat(parts, dim=2)


def causal_mask(input_ids: Tensor, mask: Tensor | None) -> Tensor:
    """A token sees itself and those before it, but no padding: (l, l), or (b, 1, l, l) with a mask (b, l)."""
    length = input_ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=input_ids.device).tril()
    return causal if mask is None else causal & mask[:, None, None]


def place_images(x: Tensor, is_image: Tensor, images: Tensor) -> Tensor:
    """Puts the rows of `images` (m, D) one after the other where is_image (b, l) holds in x (b, l, D)."""
    rows = (is_image.flatten().cumsum(0) - 1).clamp(min=0).view(is_image.shape)  # (b, l)
    return torch.where(is_image[..., None], images.to(x)[rows], x)


def image_positions(
    input_ids: Sequence[int], grids: Sequence[tuple[int, int]], image_token: int = IMAGE_PAD
) -> Tensor:
    """Positions of a prompt's tokens in time, height and width (arXiv 2409.12191, section 2.1).

    Text counts on all three axes at once. An image's tokens stand at one time, on a grid that starts where
    the text stopped; the text after it goes on from one past the largest of them.

    grids: rows and columns of each image's tokens, in order.  ->  (3, l) int64
    """
    parts: list[Tensor] = []
    start = at = 0
    for rows, columns in grids:
        first = input_ids.index(image_token, at)
        text = torch.arange(first - at) + start
        start += first - at
        parts.append(text.expand(3, -1))
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        parts.append(start + torch.stack((torch.zeros_like(y), y, x)).flatten(1))
        start, at = start + max(rows, columns), first + rows * columns
    parts.append((torch.arange(len(input_ids) - at) + start).expand(3, -1))
    return torch.cat(parts, dim=1)
