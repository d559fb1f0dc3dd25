"""CLIP's byte-pair tokenizer, 49408 tokens, from the vocabulary packed beside it."""

from __future__ import annotations

from functools import cache

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from darkroom.tokenizers.base import read_packed, well_formed
from darkroom.tokenizers.byte_level import byte_letters, read_merges

BOS = 49406
EOS = 49407
VOCAB_SIZE = 49408

# The words of OpenAI's CLIP (simple_tokenizer.py): contractions, runs of letters, single digits, the rest.
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class ClipTokenizer:
    """Text to CLIP token ids.

    Equal to transformers' CLIPTokenizer over the same vocabulary. OpenAI's own also repairs broken encodings
    and HTML entities first (ftfy), which neither transformers' fast tokenizer nor stable-diffusion.cpp does.
    """

    def encode(self, text: str) -> list[int]:
        """The tokens of `text`, without BOS and EOS. Lone surrogates become U+FFFD."""
        return _tokenizer().encode(well_formed(text), add_special_tokens=False).ids


@cache
def _tokenizer() -> Tokenizer:
    """The compiled tokenizer, made on first use: about 60 ms."""
    lines = read_packed("clip_merges.txt").decode().split("\n")
    merges = read_merges(lines[1:-1])  # the first line is a version
    letters = byte_letters()
    tokens = [
        *letters,
        *(letter + "</w>" for letter in letters),
        *(first + second for first, second in merges),
    ]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: i for i, token in enumerate(tokens)},
            merges=merges,
            unk_token="<|endoftext|>",
            end_of_word_suffix="</w>",
            continuing_subword_prefix="",
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in ("<|startoftext|>", "<|endoftext|>")]
    )
    return tokenizer
