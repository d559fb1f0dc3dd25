"""The spellings that Stable Diffusion 2 files come in."""

from __future__ import annotations

import re
from collections.abc import Mapping

from darkroom.families.latent_diffusion import CONTEXT, OPEN_CLIP_WIDTH
from darkroom.weights.clip_names import BARE_CLIP, OPEN_CLIP
from darkroom.weights.keys import Derived, KeyRules, Rule, ToLinear
from darkroom.weights.spellings import LATENT_DIFFUSION, UNET


def _projections(shapes: Mapping[str, tuple[int, ...]]) -> tuple[Rule, ...]:
    """GGUF files by stable-diffusion.cpp of before 2025 have them as 1x1 convolutions, which 1.x's are."""
    if shapes.get(CONTEXT, ())[1:] != (OPEN_CLIP_WIDTH,):
        return ()
    return (ToLinear(rf"{re.escape(UNET)}.*\.proj_(?:in|out)\.weight"),)


RULES = LATENT_DIFFUSION + KeyRules((Derived(_projections),)) + OPEN_CLIP + BARE_CLIP
