"""transformers' tokenizers over our vocabularies, for the diffusers pipelines that tests compare with."""

from __future__ import annotations

import json

from transformers import AddedToken, CLIPTokenizer, Qwen2Tokenizer

from darkroom.tokenizers import clip, qwen


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
