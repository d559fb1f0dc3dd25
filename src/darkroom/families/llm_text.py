"""Prompts through a language model: what Qwen-Image and Z-Image have in common."""

from __future__ import annotations

from darkroom.api.names import Role
from darkroom.families.companions import check_vocabulary
from darkroom.nets.te.qwen import QwenTextModel
from darkroom.tokenizers.base import TextTokenizer
from darkroom.tokenizers.prompt import WeightedTokens, parse_weights, weigh


def tokenize(
    prompt: str, llm: QwenTextModel, tokenizer: TextTokenizer, *, before: str, after: str
) -> WeightedTokens:
    """The tokens of a chat in which `prompt` stands between `before` and `after`, and the weight of each.

    Raises CheckpointError for a tokenizer that knows more than the model.
    """
    found = weigh(parse_weights(prompt), tokenizer, before=before, after=after)
    check_vocabulary(found.tokens, llm.config.vocab_size, Role.LLM)
    return found
