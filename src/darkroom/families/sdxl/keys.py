"""The spellings that SDXL files come in."""

from __future__ import annotations

import re

from darkroom.weights.clip_names import CLIP_G, CLIP_L
from darkroom.weights.keys import KeyRules, Rename, ToLinear
from darkroom.weights.spellings import DIFFUSERS_UNET, DIFFUSERS_VAE, PREFIXES, UNET

MARKS = ("v_pred", "ztsnr", "edm_vpred.sigma_max", "edm_vpred.sigma_min", "edm_mean", "edm_std")
"""Tensors that belong to no network: they say what the UNet predicts."""

# A file of the UNet alone has them beside the UNet's own.
_MARKS = KeyRules((Rename(rf"^{re.escape(UNET)}({'|'.join(map(re.escape, MARKS))})$", r"\1"),))

# GGUF files by stable-diffusion.cpp of before 2025 have them as 1x1 convolutions.
_PROJECTIONS = KeyRules((ToLinear(rf"{re.escape(UNET)}.*\.proj_(?:in|out)\.weight"),))

RULES = PREFIXES + _MARKS + DIFFUSERS_UNET + _PROJECTIONS + DIFFUSERS_VAE + CLIP_G + CLIP_L
