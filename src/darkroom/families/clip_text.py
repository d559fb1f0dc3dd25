"""Prompts through one CLIP text encoder: what Stable Diffusion 1 and 2 have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path

import torch
from torch import Tensor

from darkroom.api.errors import CheckpointError, RequestError
from darkroom.families.base import Conditioning, TextPrompt
from darkroom.families.embeddings import load_embedding
from darkroom.nets.te.clip import CLIPTextModel, encode_chunks
from darkroom.tokenizers.clip import VOCAB_SIZE, ClipTokenizer
from darkroom.tokenizers.prompt import PromptChunks, chunk, find_words, parse_weights


def encode_prompts(
    te: CLIPTextModel, prompts: Sequence[TextPrompt], *, pad: int, layers_cut: int = 0
) -> list[Conditioning]:
    """Each prompt as a context (1, 77 * chunks, D); the chunks of all prompts run as one batch.

    pad: the token that fills up a chunk. layers_cut: blocks that the file has already left out at the end.

    Raises RequestError for a clip_skip that leaves no layer, CheckpointError for an unfit embedding and for
    a text encoder with another vocabulary.
    """
    if te.config.vocab_size < VOCAB_SIZE:
        raise CheckpointError(
            f"model: its text encoder knows {te.config.vocab_size} tokens; CLIP's vocabulary has {VOCAB_SIZE}"
        )
    inversions = _Inversions(te.config.vocab_size, te.config.hidden_size)
    chunks = [_chunks(prompt, te.config.num_positions, pad, inversions) for prompt in prompts]
    contexts: dict[int, Tensor] = {}
    for clip_skip in {prompt.clip_skip for prompt in prompts}:
        chosen = [i for i, prompt in enumerate(prompts) if prompt.clip_skip == clip_skip]
        skip = _checked_skip(clip_skip, te.config.num_layers, layers_cut)
        hidden = _encode(te, [chunks[i] for i in chosen], skip, inversions.table())
        contexts |= dict(zip(chosen, hidden, strict=True))
    return [Conditioning(contexts[i]) for i in range(len(prompts))]


@dataclass
class _Inversions:
    """The embeddings that the prompts use, stacked; their ids follow the vocabulary's."""

    first_id: int
    width: int
    ids: dict[Path, range] = field(default_factory=dict)
    vectors: list[Tensor] = field(default_factory=list)

    def ids_of(self, path: Path) -> range:
        """The ids that stand for the vectors of an embedding file, which is read at its first use."""
        if path not in self.ids:
            loaded = load_embedding(path, self.width)
            start = self.first_id + sum(map(len, self.vectors))
            self.ids[path] = range(start, start + len(loaded))
            self.vectors.append(loaded)
        return self.ids[path]

    def table(self) -> Tensor | None:
        """All vectors, (m, D), or None when no prompt uses any."""
        return torch.cat(self.vectors) if self.vectors else None


def _chunks(prompt: TextPrompt, length: int, pad: int, inversions: _Inversions) -> PromptChunks:
    parts = parse_weights(prompt.text)
    words = {
        word: inversions.ids_of(prompt.embeddings[word]) for word in find_words(parts, prompt.embeddings)
    }
    return chunk(parts, ClipTokenizer(), pad=pad, length=length, words=words)


def _encode(
    te: CLIPTextModel, prompts: Sequence[PromptChunks], clip_skip: int, table: Tensor | None
) -> list[Tensor]:
    """The contexts of several prompts, each (1, length * chunks, D)."""
    device = te.text_model.embeddings.token_embedding.weight.device
    tokens = torch.tensor([row for prompt in prompts for row in prompt.tokens], device=device)
    weights = torch.tensor([row for prompt in prompts for row in prompt.weights], device=device)
    table = None if table is None else table.to(device)
    hidden = encode_chunks(te, tokens, weights, clip_skip=clip_skip, extra=table)  # (k, length, D)
    ends = list(accumulate(len(prompt.tokens) for prompt in prompts))
    return [hidden[start:end].flatten(0, 1)[None] for start, end in pairwise([0, *ends])]


def _checked_skip(clip_skip: int, num_layers: int, layers_cut: int) -> int:
    lowest, highest = 1 + layers_cut, num_layers + layers_cut
    if not lowest <= clip_skip <= highest:
        raise RequestError(f"--clip-skip: {clip_skip} is outside {lowest} to {highest}, this model's layers")
    return clip_skip - layers_cut
