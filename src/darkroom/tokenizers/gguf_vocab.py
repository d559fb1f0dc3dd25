"""The tokenizer that a GGUF file carries in its metadata, as llama.cpp writes it (ggml's docs/gguf.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer

from darkroom.api.errors import CheckpointError
from darkroom.tokenizers.base import well_formed
from darkroom.tokenizers.byte_level import WORDS, byte_level_bpe, read_merges
from darkroom.tokenizers.unigram import unigram

_KEY = "tokenizer.ggml."

_MODELS = ("t5", "gpt2")


class TokenType(IntEnum):
    """What a token is for, llama.cpp's numbers."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


def model_of(metadata: Mapping[str, object]) -> str | None:
    """The kind of the tokenizer in the metadata, `t5` or `gpt2`; None where there is none that is read."""
    model = metadata.get(f"{_KEY}model")
    if model == "gpt2" and metadata.get(f"{_KEY}pre") not in WORDS:
        return None
    return str(model) if model in _MODELS else None


class GGUFTokenizer:
    """Text to the token ids of the model that the metadata belongs to.

    metadata: a GGUF file's, single values as text. Its arrays are read when the first text is encoded.
    Raises CheckpointError for a tokenizer of another kind, and at the first text for one that is damaged.
    """

    def __init__(self, metadata: Mapping[str, object]) -> None:
        self._metadata = metadata
        self.model = model_of(metadata)
        if self.model is None:
            model, pre = (metadata.get(_KEY + key) for key in ("model", "pre"))
            raise CheckpointError(
                f"{_KEY}model: is {model!r} with {_KEY}pre {pre!r}; what can be read is t5, and gpt2 with "
                f"{', '.join(WORDS)}"
            )

    def encode(self, text: str) -> list[int]:
        """The tokens of `text`, control tokens by name among them. Lone surrogates become U+FFFD."""
        return self._tokenizer.encode(well_formed(text), add_special_tokens=False).ids

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        tokens, types = self._array("tokens"), self._array("token_type")
        try:
            return self._unigram(tokens, types) if self.model == "t5" else self._byte_level(tokens, types)
        except Exception as err:  # the library knows no narrower one
            raise CheckpointError(
                f"{_KEY}tokens: make no tokenizer ({err}); the file's metadata is damaged, download it again"
            ) from err

    def _unigram(self, tokens: Sequence[str], types: Sequence[Any]) -> Tokenizer:
        scores = self._array("scores")
        used = [score for score, kind in zip(scores, types, strict=True) if kind == TokenType.NORMAL]
        # What fills up the vocabulary has a score of -10000: the unknown would be thought even less likely.
        lowest = min(used, default=0.0)
        return unigram(
            [(token, max(score, lowest)) for token, score in zip(tokens, scores, strict=True)],
            bytes(self._array("precompiled_charsmap")),
            int(str(self._metadata.get(f"{_KEY}unknown_token_id", 2))),
            _named(tokens, types, TokenType.UNKNOWN, TokenType.CONTROL, TokenType.USER_DEFINED),
        )

    def _byte_level(self, tokens: Sequence[str], types: Sequence[Any]) -> Tokenizer:
        pre = str(self._metadata[f"{_KEY}pre"])
        return byte_level_bpe(
            {token: i for i, token in enumerate(tokens)},
            read_merges([str(merge) for merge in self._array("merges")]),
            words=WORDS[pre],
            added=_named(tokens, types, TokenType.CONTROL, TokenType.USER_DEFINED),
            nfc=pre == "qwen2",
            whole_words_first=pre == "llama-bpe",
        )

    def _array(self, key: str) -> Sequence[Any]:
        array = self._metadata.get(_KEY + key)
        if isinstance(array, str) or not isinstance(array, Sequence):
            raise CheckpointError(
                f"{_KEY}{key}: is missing or no array; a tokenizer needs one entry for each token"
            )
        return array


def _named(tokens: Sequence[str], types: Sequence[Any], *kinds: TokenType) -> list[str]:
    return [token for token, kind in zip(tokens, types, strict=True) if kind in kinds]
