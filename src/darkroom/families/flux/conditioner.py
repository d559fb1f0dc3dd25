"""How Flux reads a prompt: T5's text, filled up with tokens that are seen like any, and CLIP-L's vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import nn

from darkroom.families.base import Conditioning, TextPrompt
from darkroom.families.clip_text import encode_for_several
from darkroom.families.t5_text import encode_chunks
from darkroom.nets.te.clip import CLIPTextModel
from darkroom.nets.te.t5 import T5EncoderModel
from darkroom.tokenizers.base import TextTokenizer
from darkroom.tokenizers.clip import EOS
from darkroom.tokenizers.prompt import chunk_t5, parse_weights


def encode(
    te: nn.Module, prompts: Sequence[TextPrompt], tokenizer: TextTokenizer, t5_tokens: int
) -> list[Conditioning]:
    """Each prompt as a context (1, t5_tokens * chunks, D) and a vector (1, D').

    te: `clip_l` and `t5xxl`, or what stands for them on their device. The vector knows the first 75 tokens.
    Raises RequestError and CheckpointError as `encode_for_several` and `encode_chunks` do.
    """
    clip_l, t5xxl = cast("CLIPTextModel", te.clip_l), cast("T5EncoderModel", te.t5xxl)
    vectors = encode_for_several(clip_l, prompts, pad=EOS, project=False)
    chunks = [chunk_t5(parse_weights(prompt.text), tokenizer, length=t5_tokens) for prompt in prompts]
    return [
        Conditioning(context, vector=vector.pooled)
        for context, vector in zip(encode_chunks(t5xxl, chunks), vectors, strict=True)
    ]
