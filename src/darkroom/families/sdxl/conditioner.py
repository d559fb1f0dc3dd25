"""How SDXL reads a prompt (arXiv 2307.01952): two CLIPs side by side, and a vector of text and sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from darkroom.api.errors import CheckpointError
from darkroom.api.names import PredictionType
from darkroom.families.base import Conditioning, Frame, TextPrompt
from darkroom.families.clip_text import EncodedPrompt, encode_for_several
from darkroom.families.sdxl.config import SIZE_WIDTH, SDXLConfig
from darkroom.layers.embed import timestep_embedding
from darkroom.nets.te.clip import CLIPTextModel, emphasise
from darkroom.tokenizers.clip import EOS

CLIP_SKIP = 2

# open_clip pads its token rows with zeros, which is the token "!".
PAD_L, PAD_G = EOS, 0


def encode(te: nn.Module, prompts: Sequence[TextPrompt], config: SDXLConfig) -> list[Conditioning]:
    """Each prompt as a context (1, 77 * chunks, D_l + D_g) and the first chunk as a vector (1, P).

    Raises RequestError and CheckpointError as `encode_for_several` does.
    """
    clip_l, clip_g = cast("CLIPTextModel", te.clip_l), cast("CLIPTextModel", te.clip_g)
    left = encode_for_several(clip_l, prompts, pad=PAD_L)
    right = encode_for_several(clip_g, prompts, pad=PAD_G, project=not config.unturned_projection)
    contexts = [_context(*halves) for halves in zip(left, right, strict=True)]
    # The UNet was trained on zeros for a text that was left out. CosXL is given the empty text, as it is by
    # stable-diffusion.cpp.
    if config.prediction is not PredictionType.EDM_V:
        is_empty = [prompt.negative and not prompt.text for prompt in prompts]
        contexts = [
            torch.zeros_like(context) if empty else context
            for context, empty in zip(contexts, is_empty, strict=True)
        ]
    vectors = [half.pooled for half in right]
    if config.unturned_projection:
        vectors = [vector @ clip_g.text_projection.weight for vector in vectors]
    return [Conditioning(context, vector) for context, vector in zip(contexts, vectors, strict=True)]


def _context(left: EncodedPrompt, right: EncodedPrompt) -> Tensor:
    """The chunks (k, 77, D) of both encoders as one context (1, 77 * k, D_l + D_g)."""
    if left.lengths.tolist() != right.lengths.tolist():
        raise CheckpointError(
            "--embd-dir: an embedding of this prompt has more vectors for one of SDXL's text encoders than "
            "for the other; it needs as many in clip_l as in clip_g"
        )
    hidden = torch.cat((left.hidden, right.hidden.to(left.hidden)), dim=-1)
    return emphasise(hidden, left.weights).flatten(0, 1)[None]


def add_sizes(cond: Conditioning, frame: Frame) -> Conditioning:
    """The conditioning with the vector that the UNet takes: pooled text, then six sizes as sinusoids.

    They are the height and width that the picture was cut from, the corner of the cut, and the height and
    width aimed at. Here all is one uncut picture.
    """
    assert cond.vector is not None, "encode gives one"
    size = (float(frame.height), float(frame.width))
    sizes = torch.tensor((*size, 0.0, 0.0, *size), device=cond.vector.device)
    embedded = timestep_embedding(sizes, SIZE_WIDTH).flatten()[None]  # (1, 6 * 256)
    vector = torch.cat((cond.vector, embedded.to(cond.vector)), dim=1)
    return replace(cond, vector=vector)
