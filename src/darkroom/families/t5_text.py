"""Prompts through T5: what Stable Diffusion 3, Flux and Chroma have in common."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from darkroom.api.errors import CheckpointError
from darkroom.nets.te.clip import emphasise
from darkroom.nets.te.t5 import T5EncoderModel
from darkroom.tokenizers.prompt import MaskedChunks


def encode_chunks(
    te: T5EncoderModel, prompts: Sequence[MaskedChunks], *, masked: bool = False
) -> list[Tensor]:
    """The hidden states of each prompt, (1, l, D), its chunks one after the other.

    Chunks of one length run as one batch. masked: whether padding is hidden from the tokens.

    Raises CheckpointError for prompts from a tokenizer that knows more than the encoder.
    """
    if (highest := max(max(row) for prompt in prompts for row in prompt.tokens)) >= te.config.vocab_size:
        raise CheckpointError(
            f"--t5xxl: knows {te.config.vocab_size} tokens, the prompt has token {highest}; "
            "the encoder's own vocabulary is needed"
        )
    if len({len(row) for prompt in prompts for row in prompt.tokens}) > 1:
        return [hidden for prompt in prompts for hidden in encode_chunks(te, [prompt], masked=masked)]
    device = te.encoder.final_layer_norm.weight.device
    tokens = torch.tensor([row for prompt in prompts for row in prompt.tokens], device=device)
    weights = torch.tensor([row for prompt in prompts for row in prompt.weights], device=device)
    mask = torch.tensor([row for prompt in prompts for row in prompt.mask], device=device)
    hidden = emphasise(te(tokens, mask if masked else None), weights)  # (k, l, D)
    counts = [len(prompt.tokens) for prompt in prompts]
    return [rows.flatten(0, 1)[None] for rows in torch.split(hidden, counts)]
