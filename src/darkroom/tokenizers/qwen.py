"""The tokenizer of Qwen2, Qwen2.5-VL and Qwen3, 151669 tokens, from the vocabulary packed beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from tokenizers import Tokenizer

from darkroom.tokenizers.base import TextTokenizer, read_packed, well_formed
from darkroom.tokenizers.byte_level import WORDS, byte_letters, byte_level_bpe, read_merges
from darkroom.tokenizers.gguf_vocab import GGUFTokenizer, model_of

ADDED = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
    "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>",
    "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>",
    "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>",
)  # fmt: skip
"""The tokens that text may hold by name; they follow those of the merges, from ENDOFTEXT on."""

ENDOFTEXT, IM_START, IM_END = 151643, 151644, 151645
VISION_START, VISION_END, IMAGE_PAD = 151652, 151653, 151655
PAD = ENDOFTEXT
VOCAB_SIZE = 151669


@dataclass(frozen=True)
class QwenTokenizer:
    """Text to Qwen's token ids; Qwen2's models know the same tokens but for the last few of ADDED.

    Equal to Qwen's own tokenizer over tiktoken, on text of composed characters (NFC).
    """

    def encode(self, text: str) -> list[int]:
        """The tokens of `text`, those of ADDED by name among them. Lone surrogates become U+FFFD."""
        return _tokenizer().encode(well_formed(text), add_special_tokens=False).ids


def load_tokenizer(metadata: Mapping[str, object]) -> TextTokenizer:
    """The tokenizer in the metadata of the text encoder's file, or else Qwen's own.

    Nothing is read or made before the first text is encoded; keep the tokenizer, it is made once.
    """
    return GGUFTokenizer(metadata) if model_of(metadata) == "gpt2" else QwenTokenizer()


@cache
def _tokenizer() -> Tokenizer:
    """The compiled tokenizer, made on first use: about 400 ms."""
    merges = read_merges(read_packed("qwen_merges.txt").decode().split("\n")[:-1])
    tokens = [*byte_letters(), *(first + second for first, second in merges), *ADDED]
    vocab = {token: i for i, token in enumerate(tokens)}
    return byte_level_bpe(vocab, merges, words=WORDS["qwen2"], added=ADDED, nfc=True)
