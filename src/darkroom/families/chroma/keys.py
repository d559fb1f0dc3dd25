"""The spellings that Chroma's files come in."""

from __future__ import annotations

from darkroom.families.flux_parts import COMPANION_RULES
from darkroom.weights.flux_names import FLUX_NAMES

RULES = COMPANION_RULES + FLUX_NAMES
