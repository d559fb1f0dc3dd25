"""How Stable Diffusion 1 reads a prompt: CLIP-L's last layer, chunks padded with EOS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import nn

from darkroom.families.base import Conditioning, TextPrompt
from darkroom.families.clip_text import encode_prompts
from darkroom.nets.te.clip import CLIPTextModel
from darkroom.tokenizers.clip import EOS

CLIP_SKIP = 1


def encode(te: nn.Module, prompts: Sequence[TextPrompt]) -> list[Conditioning]:
    """Each prompt as a context (1, 77 * chunks, D).

    Raises RequestError and CheckpointError as `encode_prompts` does.
    """
    te = cast("CLIPTextModel", te)  # or what stands for it on its device
    return encode_prompts(te, prompts, pad=EOS)
