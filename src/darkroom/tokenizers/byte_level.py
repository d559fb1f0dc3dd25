"""Byte-pair encoding over bytes (arXiv 1508.07909, GPT-2's variant), over merges from wherever they come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

WORDS = {
    "qwen2": rf"{_LETTERS}|\p{{N}}|{_SIGNS}",
    "llama-bpe": rf"{_LETTERS}|\p{{N}}{{1,3}}|{_SIGNS}",
    "gpt-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
}
"""What may become one token, by llama.cpp's name of the rule: runs of letters, digits, signs, blanks."""

Merges = list[tuple[str, str]]


def byte_level_bpe(
    vocab: Mapping[str, int],
    merges: Merges,
    *,
    words: str,
    added: Sequence[str],
    nfc: bool,
    whole_words_first: bool = False,
) -> Tokenizer:
    """A compiled tokenizer of the GPT-2 kind.

    vocab: tokens in byte letters, and the added ones. merges: best first. words: the pattern of what may
    become one token. added: tokens found in the raw text first. nfc: compose characters before.
    whole_words_first: a word that is a token is taken whole, whatever the merges would make of it.
    """
    model = models.BPE(vocab=dict(vocab), merges=merges, ignore_merges=whole_words_first)
    tokenizer = Tokenizer(model)
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in added])
    return tokenizer


def read_merges(lines: Sequence[str]) -> Merges:
    """Pairs from lines such as `Ġ t`."""
    return [(first, second) for first, second in (line.split(" ") for line in lines)]


def byte_letters() -> list[str]:
    """A printable letter for every byte, in token order (GPT-2's bytes_to_unicode)."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = 256 - len(printable)
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(others)]
