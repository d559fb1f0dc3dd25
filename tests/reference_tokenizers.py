"""transformers' tokenizers over our vocabularies, for the diffusers pipelines that tests compare with."""

from __future__ import annotations

import json

from transformers import CLIPTokenizer

from darkroom.tokenizers import clip


def clip_tokenizer(pad_token: str = "<|endoftext|>") -> CLIPTokenizer:
    """CLIP's; the vocabulary itself is checked in tests/tokenizers/test_clip.py."""
    model = json.loads(clip._tokenizer().to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    tokenizer = CLIPTokenizer(vocab=model["vocab"], merges=merges, pad_token=pad_token)
    tokenizer.model_max_length = 77
    return tokenizer
