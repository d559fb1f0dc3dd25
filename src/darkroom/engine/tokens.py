"""How long a prompt is, in the tokens of the model that it is for."""

from __future__ import annotations

from darkroom.engine.model import Model
from darkroom.tokenizers.base import TextTokenizer
from darkroom.tokenizers.clip import ClipTokenizer


def tokenizer_of(model: Model) -> TextTokenizer:
    """What cuts a model's prompts up; of several text encoders the one that sees the longest prompt."""
    for name in ("tokenizer", "t5_tokenizer"):
        tokenizer: TextTokenizer | None = getattr(model.architecture, name, None)
        if tokenizer is not None:
            return tokenizer
    return ClipTokenizer()
