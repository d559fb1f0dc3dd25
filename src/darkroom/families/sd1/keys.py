"""The spellings that Stable Diffusion 1 files come in."""

from __future__ import annotations

from darkroom.weights.clip_names import BARE_CLIP
from darkroom.weights.spellings import LATENT_DIFFUSION

RULES = LATENT_DIFFUSION + BARE_CLIP
