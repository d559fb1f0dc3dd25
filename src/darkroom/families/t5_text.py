"""Prompts through T5: what Stable Diffusion 3, Flux and Chroma have in common."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from darkroom.api.names import Role
from darkroom.families.companions import Companion, check_vocabulary, read_companion, unfit_width
from darkroom.nets.te.clip import emphasise
from darkroom.nets.te.t5 import T5Config, T5EncoderModel
from darkroom.tokenizers.prompt import MaskedChunks
from darkroom.weights.index import TensorIndex

T5XXL = Companion(
    Role.T5XXL,
    "the T5-XXL v1.1 text encoder",
    (
        "t5xxl_fp16.safetensors (comfyanonymous/flux_text_encoders)",
        "t5-v1_1-xxl-encoder-Q8_0.gguf (city96/t5-v1_1-xxl-encoder-gguf)",
    ),
)


def read_t5(index: TensorIndex, needed_by: str, width: int) -> T5Config:
    """The text encoder, whose hidden size must be `width`. Raises CheckpointError as read_companion does."""

    def problem(t5: T5Config) -> str | None:
        if t5.bias_in_every_block:
            return "it has a position bias in every block"
        return unfit_width("text", t5.d_model, width)

    return read_companion(index, T5XXL, needed_by, T5Config.from_shapes, problem)


def encode_chunks(
    te: T5EncoderModel, prompts: Sequence[MaskedChunks], *, masked: bool = False
) -> list[Tensor]:
    """The hidden states of each prompt, (1, l, D), its chunks one after the other.

    Chunks of one length run as one batch. masked: whether padding is hidden from the tokens.

    Raises CheckpointError for prompts from a tokenizer that knows more than the encoder.
    """
    highest = [max(row) for prompt in prompts for row in prompt.tokens]
    check_vocabulary(highest, te.config.vocab_size, Role.T5XXL)
    if len({len(row) for prompt in prompts for row in prompt.tokens}) > 1:
        return [hidden for prompt in prompts for hidden in encode_chunks(te, [prompt], masked=masked)]
    device = te.encoder.final_layer_norm.weight.device
    tokens = torch.tensor([row for prompt in prompts for row in prompt.tokens], device=device)
    weights = torch.tensor([row for prompt in prompts for row in prompt.weights], device=device)
    mask = torch.tensor([row for prompt in prompts for row in prompt.mask], device=device)
    hidden = emphasise(te(tokens, mask if masked else None), weights)  # (k, l, D)
    counts = [len(prompt.tokens) for prompt in prompts]
    return [rows.flatten(0, 1)[None] for rows in torch.split(hidden, counts)]
