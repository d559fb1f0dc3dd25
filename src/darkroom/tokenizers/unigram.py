"""SentencePiece's unigram model (arXiv 1804.10959, 1808.06226), over pieces from wherever they come."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers


def unigram(
    pieces: Sequence[tuple[str, float]], charsmap: bytes, unknown: int, added: Sequence[str]
) -> Tokenizer:
    """A compiled tokenizer of Google's sentencepiece, which T5 was trained with.

    pieces: each with its log probability, in token order. charsmap: SentencePiece's precompiled map that
    normalises text. unknown: the token of what no piece covers. added: pieces found in the raw text first.
    """
    tokenizer = Tokenizer(models.Unigram(list(pieces), unk_id=unknown, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Precompiled(charsmap),
            normalizers.Strip(),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    tokenizer.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in added])
    return tokenizer
