"""transformers' tokenizers over our vocabularies, for the diffusers pipelines that tests compare with."""

from __future__ import annotations

import json

from tokenizers.processors import TemplateProcessing
from transformers import AddedToken, CLIPTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer

from darkroom.tokenizers import clip, qwen, t5


def clip_tokenizer(pad_token: str = "<|endoftext|>") -> CLIPTokenizer:
    """CLIP's; the vocabulary itself is checked in tests/tokenizers/test_clip.py."""
    model = json.loads(clip._tokenizer().to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    tokenizer = CLIPTokenizer(vocab=model["vocab"], merges=merges, pad_token=pad_token)
    tokenizer.model_max_length = 77
    return tokenizer


def qwen_tokenizer() -> Qwen2Tokenizer:
    """Qwen's; the vocabulary itself is checked in tests/tokenizers/test_qwen.py."""
    model = json.loads(qwen._tokenizer().to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    tokenizer = Qwen2Tokenizer(vocab=model["vocab"], merges=merges)
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in qwen.ADDED])
    return tokenizer


def t5_tokenizer() -> PreTrainedTokenizerFast:
    """T5's; the vocabulary itself is checked in tests/tokenizers/test_t5.py."""
    backend = type(t5._tokenizer()).from_str(t5._tokenizer().to_str())
    backend.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", t5.EOS)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="<pad>")
