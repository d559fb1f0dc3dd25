"""Prompts through a CLIP text encoder: what Stable Diffusion 1, 2, SDXL and 3 have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path

import torch
from torch import Tensor

from darkroom.api.errors import CheckpointError, RequestError
from darkroom.families.base import Conditioning, TextPrompt
from darkroom.families.embeddings import load_embedding
from darkroom.nets.te.clip import CLIPTextModel, encode_chunks
from darkroom.tokenizers.clip import EOS, VOCAB_SIZE, ClipTokenizer
from darkroom.tokenizers.prompt import PromptChunks, chunk, find_words, parse_weights


def encode_prompts(
    te: CLIPTextModel, prompts: Sequence[TextPrompt], *, pad: int, layers_cut: int = 0
) -> list[Conditioning]:
    """Each prompt as a context (1, 77 * chunks, D); the chunks of all prompts run as one batch.

    pad: the token that fills up a chunk. layers_cut: blocks that the file has already left out at the end.

    Raises RequestError for a clip_skip that leaves no layer, CheckpointError for an unfit embedding and for
    a text encoder with another vocabulary.
    """
    contexts: dict[int, Tensor] = {}
    for batch in _batches(te, prompts, pad, layers_cut):
        hidden = encode_chunks(te, batch.tokens, batch.weights, clip_skip=batch.clip_skip, extra=batch.extra)
        contexts |= {i: hidden[rows].flatten(0, 1)[None] for i, rows in batch.rows.items()}
    return [Conditioning(contexts[i]) for i in range(len(prompts))]


@dataclass(frozen=True)
class EncodedPrompt:
    """What a text encoder makes of a prompt's chunks before any weight counts.

    hidden: (k, 77, D) before the final norm. weights: (k, 77) float32, for `nets.te.clip.emphasise`.
    lengths: (k,) tokens of each chunk up to its first EOS. pooled: the first chunk as one vector (1, P).
    """

    hidden: Tensor
    weights: Tensor
    lengths: Tensor
    pooled: Tensor


def encode_for_several(
    te: CLIPTextModel, prompts: Sequence[TextPrompt], *, pad: int, project: bool = True
) -> list[EncodedPrompt]:
    """Each prompt through one of a model's several text encoders; the chunks of all run as one batch.

    pad, errors: as for `encode_prompts`, but for a chunk that BREAK ended, which is filled with `pad`, too.
    project: whether the vector goes through text_projection.
    """
    encoded: dict[int, EncodedPrompt] = {}
    for batch in _batches(te, prompts, pad):
        lengths = (batch.tokens == EOS).int().argmax(dim=1)  # (k,)
        places = torch.arange(batch.tokens.shape[1], device=lengths.device)
        tokens = batch.tokens.masked_fill(places > lengths[:, None], pad)
        hidden, pooled = te.hidden_and_pooled(tokens, batch.clip_skip, batch.extra, project=project)
        for i, rows in batch.rows.items():
            encoded[i] = EncodedPrompt(hidden[rows], batch.weights[rows], lengths[rows], pooled[rows][:1])
    return [encoded[i] for i in range(len(prompts))]


@dataclass(frozen=True)
class _Batch:
    """The chunks of all prompts that are taken from one layer.

    tokens, weights: (k, 77). extra: vectors (m, D) of ids past the vocabulary, or None. rows: the chunks of
    each prompt, by its number.
    """

    tokens: Tensor
    weights: Tensor
    clip_skip: int
    extra: Tensor | None
    rows: Mapping[int, slice]


def _batches(
    te: CLIPTextModel, prompts: Sequence[TextPrompt], pad: int, layers_cut: int = 0
) -> Iterator[_Batch]:
    if te.config.vocab_size < VOCAB_SIZE:
        raise CheckpointError(
            f"model: its text encoder knows {te.config.vocab_size} tokens; CLIP's vocabulary has {VOCAB_SIZE}"
        )
    inversions = _Inversions(te.config.vocab_size, te.config.hidden_size)
    chunks = [_chunks(prompt, te.config.num_positions, pad, inversions) for prompt in prompts]
    device = te.text_model.embeddings.token_embedding.weight.device
    extra = inversions.table()
    for clip_skip in dict.fromkeys(prompt.clip_skip for prompt in prompts):
        chosen = [i for i, prompt in enumerate(prompts) if prompt.clip_skip == clip_skip]
        ends = list(accumulate(len(chunks[i].tokens) for i in chosen))
        yield _Batch(
            torch.tensor([row for i in chosen for row in chunks[i].tokens], device=device),
            torch.tensor([row for i in chosen for row in chunks[i].weights], device=device),
            _checked_skip(clip_skip, te.config.num_layers, layers_cut),
            None if extra is None else extra.to(device),
            {i: slice(start, end) for i, (start, end) in zip(chosen, pairwise([0, *ends]), strict=True)},
        )


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


def _checked_skip(clip_skip: int, num_layers: int, layers_cut: int) -> int:
    lowest, highest = 1 + layers_cut, num_layers + layers_cut
    if not lowest <= clip_skip <= highest:
        raise RequestError(f"--clip-skip: {clip_skip} is outside {lowest} to {highest}, this model's layers")
    return clip_skip - layers_cut
