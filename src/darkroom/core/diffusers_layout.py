"""A model as a folder, the way diffusers keeps it."""

from __future__ import annotations

FOLDERS = {
    "unet": "unet.",
    "transformer": "transformer.",
    "vae": "vae.",
    "text_encoder": "te.",
    "text_encoder_2": "te2.",
    "text_encoder_3": "te3.",
}
"""The folders with weights in them and the prefixes that their tensors get, stable-diffusion.cpp's."""
