"""How Stable Diffusion 2 reads a prompt: OpenCLIP-H's second to last layer, chunks padded with token 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import nn

from darkroom.families.base import Conditioning, TextPrompt
from darkroom.families.clip_text import encode_prompts
from darkroom.nets.te.clip import CLIPTextModel

CLIP_SKIP = 2

# open_clip pads its token rows with zeros, which is the token "!".
PAD = 0

# OpenCLIP-H has 24 layers; diffusers' files leave out the last one, which Stable Diffusion 2 never runs.
_DIFFUSERS_LAYERS = 23


def encode(te: nn.Module, prompts: Sequence[TextPrompt]) -> list[Conditioning]:
    """Each prompt as a context (1, 77 * chunks, D).

    Raises RequestError and CheckpointError as `encode_prompts` does.
    """
    te = cast("CLIPTextModel", te)  # or what stands for it on its device
    layers_cut = 1 if te.config.num_layers == _DIFFUSERS_LAYERS else 0
    return encode_prompts(te, prompts, pad=PAD, layers_cut=layers_cut)
