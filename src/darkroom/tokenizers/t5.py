"""T5's tokenizer, 32100 pieces, from the vocabulary packed beside it."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from tokenizers import Tokenizer

from darkroom.tokenizers.base import TextTokenizer, read_packed, well_formed
from darkroom.tokenizers.gguf_vocab import GGUFTokenizer, model_of
from darkroom.tokenizers.unigram import unigram

PAD = 0
EOS = 1
UNKNOWN = 2
VOCAB_SIZE = 32100

_SENTINELS = 100


@dataclass(frozen=True)
class T5Tokenizer:
    """Text to T5's token ids.

    Equal to Google's sentencepiece over the same model, but for ties in runs of one sign such as `-----`, and
    for an accent on a sign that is written out, as ½ is; in both as transformers'.
    """

    def encode(self, text: str) -> list[int]:
        """The tokens of `text`, without EOS. Lone surrogates become U+FFFD."""
        return _tokenizer().encode(well_formed(text), add_special_tokens=False).ids


def load_tokenizer(metadata: Mapping[str, object]) -> TextTokenizer:
    """The tokenizer in the metadata of the text encoder's file, or else T5's own.

    Nothing is read or made before the first text is encoded; keep the tokenizer, it is made once.
    """
    return GGUFTokenizer(metadata) if model_of(metadata) == "t5" else T5Tokenizer()


@cache
def _tokenizer() -> Tokenizer:
    """The compiled tokenizer, made on first use: about 50 ms."""
    pieces = read_packed("t5_pieces.txt").decode().split("\n")
    scores = struct.unpack(f"<{VOCAB_SIZE}f", read_packed("t5_scores.f32"))
    return unigram(
        list(zip(pieces, scores, strict=True)),
        read_packed("t5_charsmap.bin"),
        UNKNOWN,
        [*pieces[: UNKNOWN + 1], *pieces[-_SENTINELS:]],
    )
