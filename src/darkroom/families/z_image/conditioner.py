"""How Z-Image reads a prompt: Qwen3's second to last states over a chat that is the prompt and nothing else.

Template, layer and length are those of the authors' pipeline in diffusers, which lets the model think.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darkroom.families.base import Conditioning, TextPrompt
from darkroom.families.llm_text import tokenize
from darkroom.families.z_image.config import TITLE
from darkroom.families.z_image.model import TOKENS_MULTIPLE
from darkroom.nets.te.clip import emphasise
from darkroom.nets.te.qwen import QwenTextModel
from darkroom.tokenizers.base import TextTokenizer

logger = logging.getLogger(__name__)

BEFORE = "<|im_start|>user\n"
AFTER = "<|im_end|>\n<|im_start|>assistant\n"

MAX_TOKENS = 512
"""Of a prompt with its template; the rest is cut off."""

# The last block and the final norm, which make words of states, are not run.
_LAYER = -2


def encode(te: nn.Module, prompts: Sequence[TextPrompt], tokenizer: TextTokenizer) -> list[Conditioning]:
    """Each prompt as a context (1, l, D) and the mask of what fills it up to a multiple.

    One after the other: in a batch with another its numbers could differ in the last place.

    Raises CheckpointError for a text encoder with another vocabulary.
    """
    llm = cast("QwenTextModel", te.llm)
    return [_filled(_states(llm, prompt.text, tokenizer)) for prompt in prompts]


def _states(llm: QwenTextModel, text: str, tokenizer: TextTokenizer) -> Tensor:
    """(1, l, D), a state for each token of the chat."""
    tokens, weights = tokenize(text, llm, tokenizer, before=BEFORE, after=AFTER)
    if len(tokens) > MAX_TOKENS:
        logger.warning("%s: the prompt has more than %d tokens; the rest is cut off", TITLE, MAX_TOKENS)
    device = llm.model.norm.weight.device
    states = llm(torch.tensor([tokens[:MAX_TOKENS]], device=device), layer=_LAYER)
    return emphasise(states, torch.tensor([weights[:MAX_TOKENS]], device=device))


def _filled(states: Tensor) -> Conditioning:
    """Prompts of about one length become contexts of one size, which run as one batch or one recording."""
    length = states.shape[1]
    missing = -length % TOKENS_MULTIPLE
    mask = torch.arange(length + missing, device=states.device) < length
    return Conditioning(F.pad(states, (0, 0, 0, missing)), mask=mask[None])
