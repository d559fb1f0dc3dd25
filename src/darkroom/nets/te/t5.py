"""The encoder of T5 v1.1 (arXiv 1910.10683, 2002.05202) and of umT5, named as Hugging Face names it."""

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
from darkroom.layers.linear import Linear, linear_gelu
from darkroom.layers.norm import RMSNorm
from darkroom.layers.parts import Parts, Sections

MAX_DISTANCE = 128
"""From this distance on all positions share one bucket; the same in every published model."""

# What `wo` sums up exceeds float16 in T5-XXL. A power of two: in other types it changes no bit.
_WO_SCALE = 1 / 32

_TOKENS = "shared.weight"
_BLOCK = re.compile(r"encoder\.block\.(\d+)\.")
_BIAS = "encoder.block.{}.layer.0.SelfAttention.relative_attention_bias.weight"


@dataclass(frozen=True)
class T5Config:
    """The architecture. bias_in_every_block: umT5; T5 has one relative bias for all blocks, in the first."""

    vocab_size: int
    d_model: int
    d_ff: int
    inner_dim: int
    num_layers: int
    num_heads: int
    num_buckets: int
    bias_in_every_block: bool = False

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[int, ...]]) -> T5Config:
        """Reads the architecture from the shapes of a file's tensors, `shared.` and `encoder.` names.

        Raises KeyError where a tensor that defines the architecture is missing.
        """
        vocab_size, d_model = shapes[_TOKENS]
        num_buckets, num_heads = shapes[_BIAS.format(0)]
        blocks = [int(match[1]) for name in shapes if (match := _BLOCK.match(name))]
        return cls(
            vocab_size=vocab_size,
            d_model=d_model,
            d_ff=shapes["encoder.block.0.layer.1.DenseReluDense.wi_0.weight"][0],
            inner_dim=shapes["encoder.block.0.layer.0.SelfAttention.q.weight"][0],
            num_layers=max(blocks) + 1,
            num_heads=num_heads,
            num_buckets=num_buckets,
            bias_in_every_block=_BIAS.format(1) in shapes,
        )


class T5LayerNorm(RMSNorm):
    """RMS norm of the float32 stream in the weights' type, x: (b, l, D) float32  ->  (b, l, D)."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return super().forward(x).to(self.weight.dtype)


class T5Attention(nn.Module):
    """Self-attention without scaling, with a bias for every bucket of distances.

    x: (b, l, D), buckets: (l, l), mask: (b, l) bool or None, bias: (b or 1, n, l, l), of the block before
    ->  (b, l, D), the bias for the next block
    """

    def __init__(self, config: T5Config, has_bias: bool) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.q = Linear(config.d_model, config.inner_dim, bias=False)
        self.k = Linear(config.d_model, config.inner_dim, bias=False)
        self.v = Linear(config.d_model, config.inner_dim, bias=False)
        self.o = Linear(config.inner_dim, config.d_model, bias=False)
        self.has_bias = has_bias
        if has_bias:
            self.relative_attention_bias = embedding(config.num_buckets, config.num_heads)

    def parts(self) -> Parts:
        """Heads."""
        inner = (self.o.in_features,)
        outputs: dict[nn.Module, Sections] = {self.q: inner, self.k: inner, self.v: inner}
        if self.has_bias:
            outputs[self.relative_attention_bias] = (self.num_heads,)
        return Parts(outputs, {self.o: inner}, ("num_heads",))

    def joint_projections(self) -> Sequence[Sequence[nn.Module]]:
        """The projections that one matrix product can compute."""
        return ((self.q, self.k, self.v),)

    def forward(  # noqa: D102
        self, x: Tensor, buckets: Tensor, mask: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        if self.has_bias:
            bias = self._bias(buckets, mask)
        projected = project(x, (self.q, self.k, self.v))
        q, k, v = (split_heads(y, self.num_heads) for y in projected)
        return self.o(merge_heads(attention(q, k, v, bias, scale=1.0))), bias

    def _bias(self, buckets: Tensor, mask: Tensor | None) -> Tensor:
        values: Tensor = self.relative_attention_bias(buckets)  # (l, l, n)
        bias = values.permute(2, 0, 1)[None].contiguous()
        if mask is None:
            return bias
        # Not minus infinity: where nothing may be seen, all is seen alike, and no NaN arises.
        return bias.masked_fill(~mask[:, None, None], torch.finfo(bias.dtype).min)


class T5DenseGatedActDense(nn.Module):
    """Gated feed-forward; the result is `_WO_SCALE` times too small, x: (b, l, D)  ->  (b, l, D)."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.wi_0 = Linear(config.d_model, config.d_ff, bias=False)
        self.wi_1 = Linear(config.d_model, config.d_ff, bias=False)
        self.wo = Linear(config.d_ff, config.d_model, bias=False)

    def parts(self) -> Parts:
        """Hidden channels."""
        hidden = (self.wo.in_features,)
        return Parts({self.wi_0: hidden, self.wi_1: hidden}, {self.wo: hidden})

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        out: Tensor = self.wo(linear_gelu(x, self.wi_0) * _WO_SCALE * self.wi_1(x))
        return out


class T5LayerSelfAttention(nn.Module):
    """Norm, attention and residual sum, as T5Attention, x: (b, l, D) float32."""

    def __init__(self, config: T5Config, has_bias: bool) -> None:
        super().__init__()
        self.SelfAttention = T5Attention(config, has_bias)
        self.layer_norm = T5LayerNorm(config.d_model)

    def forward(  # noqa: D102
        self, x: Tensor, buckets: Tensor, mask: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        out, bias = self.SelfAttention(self.layer_norm(x), buckets, mask, bias)
        return x + out, bias


class T5LayerFF(nn.Module):
    """Norm, feed-forward and residual sum, x: (b, l, D) float32  ->  (b, l, D) float32."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.DenseReluDense = T5DenseGatedActDense(config)
        self.layer_norm = T5LayerNorm(config.d_model)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return x.add(self.DenseReluDense(self.layer_norm(x)), alpha=1 / _WO_SCALE)


class T5Block(nn.Module):
    """Attention, then feed-forward, as T5Attention, x: (b, l, D) float32."""

    def __init__(self, config: T5Config, has_bias: bool) -> None:
        super().__init__()
        self.layer = nn.ModuleList((T5LayerSelfAttention(config, has_bias), T5LayerFF(config)))

    def forward(  # noqa: D102
        self, x: Tensor, buckets: Tensor, mask: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        x, bias = self.layer[0](x, buckets, mask, bias)
        return self.layer[1](x), bias


class T5Stack(nn.Module):
    """The blocks and the final norm, x: (b, l, D), mask: (b, l) bool or None  ->  (b, l, D).

    The residual stream is float32 whatever the weights are: T5-XXL's leaves the range of float16.
    """

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.num_buckets = config.num_buckets
        self.block = nn.ModuleList(
            T5Block(config, has_bias=i == 0 or config.bias_in_every_block) for i in range(config.num_layers)
        )
        self.final_layer_norm = T5LayerNorm(config.d_model)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:  # noqa: D102
        buckets = position_buckets(x.shape[1], self.num_buckets, x.device)
        x, bias = x.float(), None
        for block in self.block:
            x, bias = block(x, buckets, mask, bias)
        out: Tensor = self.final_layer_norm(x)
        return out


class T5EncoderModel(nn.Module):
    """The text encoder of Stable Diffusion 3, Flux and Chroma (T5-XXL) and of Wan (umT5-XXL)."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        self.shared = embedding(config.vocab_size, config.d_model)
        self.encoder = T5Stack(config)

    def forward(self, input_ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Hidden states after the final norm.

        input_ids: (b, l). mask: (b, l) bool, False for tokens that nobody may see, or None  ->  (b, l, D)
        """
        out: Tensor = self.encoder(self.shared(input_ids), mask)
        return out


def position_buckets(length: int, num_buckets: int, device: torch.device) -> Tensor:
    """The bucket of every pair of positions, arXiv 1910.10683 section 2.1, both directions.

    One half of the buckets is for what comes before, the other for what comes after. Of each half, one half
    is for single distances, the other for ranges that grow exponentially up to MAX_DISTANCE.

    ->  (length, length) int64, rows the positions that look
    """
    positions = torch.arange(length, device=device)
    offset = positions[None] - positions[:, None]  # (l, l)
    distance, half = offset.abs(), num_buckets // 2
    exact = half // 2
    grown = (distance.clamp(min=1) / exact).log() * ((half - exact) / math.log(MAX_DISTANCE / exact))
    # Where a range begins `grown` is whole, on some devices less the last bit.
    far = (exact + (grown + 1e-4).long()).clamp(max=half - 1)
    return torch.where(distance < exact, distance, far) + half * (offset > 0)
