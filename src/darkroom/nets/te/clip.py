"""CLIP's text transformer (arXiv 2103.00020), OpenAI's and OpenCLIP's, named as Hugging Face names it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darkroom.layers.attention import attention, merge_heads, split_heads
from darkroom.layers.embed import embedding
from darkroom.layers.linear import Linear
from darkroom.layers.norm import LayerNorm

Activation = Literal["quick_gelu", "gelu"]

# CLIP-L, OpenCLIP-H and OpenCLIP-bigG all have heads of this width; the file's shapes do not tell.
HEAD_WIDTH = 64

# The end token of CLIP's vocabulary. The first one of a row has seen the whole text: it is the pooled vector.
EOS = 49407

_TOKENS = "text_model.embeddings.token_embedding.weight"
_POSITIONS = "text_model.embeddings.position_embedding.weight"
_PROJECTION = "text_projection.weight"
_LAYER = re.compile(r"text_model\.encoder\.layers\.(\d+)\.")


@dataclass(frozen=True)
class CLIPTextConfig:
    """The architecture.

    activation: quick_gelu in OpenAI's models, gelu in OpenCLIP's. projection_dim: width of the pooled vector,
    or None where the file does not project it.
    """

    vocab_size: int
    num_positions: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    activation: Activation = "quick_gelu"
    projection_dim: int | None = None

    @classmethod
    def from_shapes(
        cls, shapes: Mapping[str, tuple[int, ...]], activation: Activation, num_heads: int | None = None
    ) -> CLIPTextConfig:
        """Reads the architecture from the shapes of a file's tensors, `text_model.` names.

        num_heads: where not given, one for each 64 channels, or the next number that divides them.

        Raises KeyError where a tensor that defines the architecture is missing.
        """
        vocab_size, hidden_size = shapes[_TOKENS]
        layers = [int(match[1]) for name in shapes if (match := _LAYER.match(name))]
        return cls(
            vocab_size=vocab_size,
            num_positions=shapes[_POSITIONS][0],
            hidden_size=hidden_size,
            intermediate_size=shapes["text_model.encoder.layers.0.mlp.fc1.weight"][0],
            num_layers=max(layers) + 1,
            num_heads=num_heads or _num_heads(hidden_size),
            activation=activation,
            projection_dim=shapes[_PROJECTION][0] if _PROJECTION in shapes else None,
        )


def _num_heads(hidden_size: int) -> int:
    most = max(1, hidden_size // HEAD_WIDTH)
    return next(heads for heads in range(most, 0, -1) if hidden_size % heads == 0)


class CLIPTextEmbeddings(nn.Module):
    """Tokens and positions to vectors.

    input_ids: (b, l); ids from vocab_size on are rows of `extra` (m, D)  ->  (b, l, D)
    """

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.token_embedding = embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = embedding(config.num_positions, config.hidden_size)

    def forward(self, input_ids: Tensor, extra: Tensor | None = None) -> Tensor:  # noqa: D102
        vocab_size = self.token_embedding.num_embeddings
        x = self.token_embedding(input_ids.clamp(max=vocab_size - 1) if extra is not None else input_ids)
        if extra is not None:
            rows = (input_ids - vocab_size).clamp(min=0)  # (b, l)
            x = torch.where((input_ids >= vocab_size)[..., None], extra.to(x)[rows], x)
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        out: Tensor = x + self.position_embedding(positions)  # (b, l, D)
        return out


class CLIPAttention(nn.Module):
    """Multi-head self-attention.

    x: (b, l, D), mask: (l, l), residual: (b, l, D)  ->  (b, l, D)
    """

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.q_proj = Linear(config.hidden_size, config.hidden_size)
        self.k_proj = Linear(config.hidden_size, config.hidden_size)
        self.v_proj = Linear(config.hidden_size, config.hidden_size)
        self.out_proj = Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, mask: Tensor, residual: Tensor) -> Tensor:  # noqa: D102
        q, k, v = (split_heads(proj(x), self.num_heads) for proj in (self.q_proj, self.k_proj, self.v_proj))
        out: Tensor = self.out_proj(merge_heads(attention(q, k, v, mask)), residual)
        return out


class CLIPMLP(nn.Module):
    """Two linear layers with a GELU between them.

    x: (b, l, D), residual: (b, l, D)  ->  (b, l, D)
    """

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.activation = config.activation
        self.fc1 = Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:  # noqa: D102
        h = self.fc1(x)
        h = F.gelu(h) if self.activation == "gelu" else h * torch.sigmoid(1.702 * h)
        out: Tensor = self.fc2(h, residual)
        return out


class CLIPEncoderLayer(nn.Module):
    """Pre-norm transformer block, x: (b, l, D)  ->  (b, l, D)."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.self_attn = CLIPAttention(config)
        self.layer_norm1 = LayerNorm(config.hidden_size)
        self.mlp = CLIPMLP(config)
        self.layer_norm2 = LayerNorm(config.hidden_size)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # noqa: D102
        x = self.self_attn(self.layer_norm1(x), mask, residual=x)
        out: Tensor = self.mlp(self.layer_norm2(x), residual=x)
        return out


class CLIPEncoder(nn.Module):
    """The stack of blocks, or those from `start` up to but without `stop`. x: (b, l, D)  ->  (b, l, D)."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(CLIPEncoderLayer(config) for _ in range(config.num_layers))

    def forward(self, x: Tensor, start: int = 0, stop: int | None = None) -> Tensor:  # noqa: D102
        length = x.shape[1]
        # A token sees itself and those before it.
        mask = x.new_ones((length, length), dtype=torch.bool).tril()
        for layer in self.layers[start:stop]:
            x = layer(x, mask)
        return x


class CLIPTextTransformer(nn.Module):
    """Embeddings, blocks, final norm."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.embeddings = CLIPTextEmbeddings(config)
        self.encoder = CLIPEncoder(config)
        self.final_layer_norm = LayerNorm(config.hidden_size)

    def forward(self, input_ids: Tensor, clip_skip: int, extra: Tensor | None) -> Tensor:
        """(b, l) token ids  ->  (b, l, D), after the final norm."""
        x = self.encoder(self.embeddings(input_ids, extra), stop=self._stop(clip_skip))
        out: Tensor = self.final_layer_norm(x)
        return out

    def hidden_and_pooled(
        self, input_ids: Tensor, clip_skip: int, extra: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(b, l) token ids  ->  (b, l, D) before the final norm, (b, D) after it, of the last block."""
        stop = self._stop(clip_skip)
        hidden = self.encoder(self.embeddings(input_ids, extra), stop=stop)  # (b, l, D)
        last = self.encoder(hidden, start=stop)  # (b, l, D)
        rows = torch.arange(len(last), device=last.device)
        ends = (input_ids == EOS).int().argmax(dim=1)  # (b,), the first of each row
        return hidden, self.final_layer_norm(last[rows, ends])

    def _stop(self, clip_skip: int) -> int:
        return len(self.encoder.layers) + 1 - clip_skip


class CLIPTextModel(nn.Module):
    """The text encoder of Stable Diffusion 1 and 2, of SDXL and SD3 (two each) and, pooled, of Flux."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.config = config
        self.text_model = CLIPTextTransformer(config)
        if config.projection_dim is not None:
            self.text_projection = Linear(config.hidden_size, config.projection_dim, bias=False)

    def forward(self, input_ids: Tensor, clip_skip: int = 1, extra: Tensor | None = None) -> Tensor:
        """Hidden states after the final norm.

        input_ids: (b, l), l at most num_positions; ids from vocab_size on stand for rows of `extra` (m, D).
        clip_skip: 1 runs every block, n leaves out the last n - 1; the final norm is always applied.
        ->  (b, l, D)
        """
        out: Tensor = self.text_model(input_ids, clip_skip, extra)
        return out

    def hidden_and_pooled(
        self, input_ids: Tensor, clip_skip: int = 2, extra: Tensor | None = None, *, project: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Hidden states before the final norm, and the whole text as one vector.

        input_ids, extra: as for a call, with an EOS in each row. clip_skip: of the hidden states alone; 2 are
        those that enter the last block. The vector is the last block's at the first EOS, after the final
        norm, and through text_projection if `project` is set and the file has one.
        ->  (b, l, D), (b, projection_dim or D)
        """
        hidden, pooled = self.text_model.hidden_and_pooled(input_ids, clip_skip, extra)
        if project and self.config.projection_dim is not None:
            pooled = self.text_projection(pooled)
        return hidden, pooled


def encode_chunks(
    net: CLIPTextModel, tokens: Tensor, weights: Tensor, *, clip_skip: int = 1, extra: Tensor | None = None
) -> Tensor:
    """Hidden states of weighted chunks of a prompt after the final norm, each chunk on its own.

    tokens: (k, 77), weights: (k, 77) float32, extra: (m, D) or None as in CLIPTextModel  ->  (k, 77, D)
    """
    return emphasise(net(tokens, clip_skip, extra), weights)


def emphasise(hidden: Tensor, weights: Tensor) -> Tensor:
    """Hidden states of chunks of a prompt, each token as strong as its weight.

    hidden: (k, l, D), weights: (k, l) float32  ->  (k, l, D)

    A token's weight multiplies its hidden state; then the whole chunk is scaled so that its mean is what it
    was (stable-diffusion-webui's emphasis "Original", stable-diffusion.cpp's apply_token_weights).
    """
    emphasised = (weights != 1).any(dim=1)  # (k,)
    if not bool(emphasised.any()):
        return hidden
    plain = hidden.float()
    weighted = plain * weights[..., None]
    means = plain.mean(dim=(1, 2)), weighted.mean(dim=(1, 2))
    ratio = torch.where(means[1] == 0, 1.0, means[0] / means[1])  # (k,)
    weighted = weighted * ratio[:, None, None]
    return torch.where(emphasised[:, None, None], weighted, plain).to(hidden)
