"""The spellings that Flux.1's files come in."""

from __future__ import annotations

from darkroom.families.flux_parts import COMPANION_RULES
from darkroom.weights.clip_names import CLIP_L
from darkroom.weights.flux_names import FLUX_NAMES

RULES = CLIP_L + COMPANION_RULES + FLUX_NAMES
