"""How Chroma reads a prompt: T5's text, and of what fills it up one token."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import cast

import torch
from torch import nn

from darkroom.families.base import Conditioning, TextPrompt
from darkroom.families.chroma.config import ChromaConfig
from darkroom.families.flux_parts import T5_TOKENS
from darkroom.families.t5_text import encode_chunks
from darkroom.nets.te.t5 import T5EncoderModel
from darkroom.tokenizers.prompt import chunk_t5, parse_weights


def encode(te: nn.Module, prompts: Sequence[TextPrompt], config: ChromaConfig) -> list[Conditioning]:
    """Each prompt as a context (1, l, D).

    Text that the network must not see is left out: to it, that is the same as text behind a mask, and faster.
    te: `t5xxl`, or what stands for it on its device.
    Raises RequestError and CheckpointError as `encode_chunks` does.
    """
    t5xxl = cast("T5EncoderModel", te.t5xxl)
    chunks = [
        chunk_t5(parse_weights(prompt.text), config.t5_tokenizer, length=T5_TOKENS) for prompt in prompts
    ]
    contexts = encode_chunks(t5xxl, chunks, masked=config.t5_mask)
    if not config.dit_mask:
        return [Conditioning(context) for context in contexts]
    seen = [_seen(list(chain.from_iterable(prompt.mask)), config.pad) for prompt in chunks]
    return [
        Conditioning(context[:, torch.tensor(places, device=context.device)])
        for context, places in zip(contexts, seen, strict=True)
    ]


def _seen(mask: Sequence[bool], pad: int) -> list[int]:
    """The places of the text, and of the first `pad` tokens that fill it up."""
    filling = [place for place, is_text in enumerate(mask) if not is_text]
    return sorted({place for place, is_text in enumerate(mask) if is_text} | set(filling[:pad]))
