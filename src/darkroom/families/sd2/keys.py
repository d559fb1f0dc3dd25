"""The spellings that Stable Diffusion 2 files come in."""

from __future__ import annotations

from darkroom.weights.clip_names import BARE_CLIP, OPEN_CLIP
from darkroom.weights.spellings import LATENT_DIFFUSION

RULES = LATENT_DIFFUSION + OPEN_CLIP + BARE_CLIP
