"""What Flux.1 and Chroma have in common: their autoencoder, their spellings and their steps."""

from __future__ import annotations

from darkroom.api.names import Role
from darkroom.families.companions import Companion
from darkroom.families.latents import FLUX_LATENT
from darkroom.nets.patches import PATCH
from darkroom.sampling.schedules import ResolutionShift
from darkroom.weights.spellings import DIFFUSERS_VAE
from darkroom.weights.t5_names import T5_NAMES

SIZE_MULTIPLE = FLUX_LATENT.downscale * PATCH

T5_TOKENS = 512
"""How much text Flux dev and Chroma are given; short text is filled up."""

NO_SHIFT = ResolutionShift(0.0, 0.0, (256, 4096))
"""Evenly spaced noise levels, whatever the picture's size: schnell's and Chroma's."""

VAE = Companion(Role.VAE, "Flux.1's autoencoder", ("ae.safetensors (black-forest-labs/FLUX.1-schnell)",))

COMPANION_RULES = T5_NAMES + DIFFUSERS_VAE
"""Spellings of the companions' names."""
