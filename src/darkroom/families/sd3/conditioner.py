"""How Stable Diffusion 3 reads a prompt: two CLIPs side by side, then T5, and one vector of both CLIPs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darkroom.families.base import Conditioning, TextPrompt
from darkroom.families.clip_text import EncodedPrompt, encode_for_several
from darkroom.families.sd3.config import SD3Config
from darkroom.families.t5_text import encode_chunks
from darkroom.nets.te.clip import CLIPTextModel, emphasise
from darkroom.nets.te.t5 import T5EncoderModel
from darkroom.tokenizers.base import TextTokenizer
from darkroom.tokenizers.clip import EOS
from darkroom.tokenizers.prompt import MaskedChunks, chunk_t5, parse_weights, weigh

CLIP_SKIP = 2

# The fewest tokens of each half of the context, T5's and CLIP's.
LENGTH = 77

# What fills up a chunk of CLIP-G, where CLIP-L's is filled with EOS.
CLIP_G_PAD = 0


def encode(te: nn.Module, prompts: Sequence[TextPrompt], config: SD3Config) -> list[Conditioning]:
    """Each prompt as a context (1, CLIP's tokens + T5's tokens, D) and a vector (1, P).

    Zeros stand for encoders that are not there, as in training, which left each out at times (section 4 of
    arXiv 2403.03206); for T5 as many tokens as CLIP has.

    Raises RequestError and CheckpointError as `encode_for_several` and `encode_chunks` do.
    """
    clip_l, clip_g = _clip(te, "clip_l", prompts, EOS), _clip(te, "clip_g", prompts, CLIP_G_PAD)
    t5: Sequence[Tensor | None] = [None] * len(prompts)
    if config.t5xxl is not None:
        rows = [_lay_out(prompt.text, config.t5_tokenizer, config.t5_chunks) for prompt in prompts]
        t5 = encode_chunks(cast("T5EncoderModel", te.t5xxl), rows)
    return [_join(*parts, config) for parts in zip(clip_l, clip_g, t5, strict=True)]


def _clip(
    te: nn.Module, role: str, prompts: Sequence[TextPrompt], pad: int
) -> Sequence[EncodedPrompt] | Sequence[None]:
    """The vector of CLIP-L is taken before its projection, CLIP-G's after: so the authors' code does."""
    clip = cast("CLIPTextModel | None", getattr(te, role, None))
    if clip is None:
        return [None] * len(prompts)
    return encode_for_several(clip, prompts, pad=pad, project=role == "clip_g")


def _lay_out(prompt: str, tokenizer: TextTokenizer, chunked: bool) -> MaskedChunks:
    """One row of at least LENGTH tokens, or rows of LENGTH; in one row BREAK parts nothing."""
    parts = parse_weights(prompt)
    if chunked:
        return chunk_t5(parts, tokenizer, length=LENGTH)
    length = 1 + len(weigh(parts, tokenizer).tokens)
    return chunk_t5([[*chain.from_iterable(parts)]], tokenizer, length=max(length, LENGTH))


def _join(
    clip_l: EncodedPrompt | None, clip_g: EncodedPrompt | None, t5: Tensor | None, config: SD3Config
) -> Conditioning:
    """CLIP-L's channels, CLIP-G's, zeros up to T5's width; then T5's tokens."""
    clips = [clip for clip in (clip_l, clip_g) if clip is not None]
    if clips:
        context = torch.cat([emphasise(clip.hidden, clip.weights) for clip in clips], dim=-1).flatten(0, 1)
        vector = torch.cat([clip.pooled for clip in clips], dim=-1)
    else:
        assert t5 is not None, "detection wants an encoder"
        context, vector = t5.new_zeros(LENGTH, 0), t5.new_zeros(1, 0)
    # CLIP-G's place is behind CLIP-L's, whose vector is as wide as its hidden states.
    before = config.net.vector_dim - vector.shape[-1] if clip_l is None and clip_g is not None else 0
    context = _placed(context, before, config.net.context_dim)[None]
    t5 = torch.zeros_like(context) if t5 is None else t5
    return Conditioning(torch.cat((context, t5), dim=1), _placed(vector, before, config.net.vector_dim))


def _placed(x: Tensor, before: int, width: int) -> Tensor:
    """x among zeros: (..., d)  ->  (..., width)."""
    return F.pad(x, (before, width - before - x.shape[-1]))
