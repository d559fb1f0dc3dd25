"""What Flux.1 and Chroma have in common: their companions, latents and spellings."""

from __future__ import annotations

from darkroom.api.errors import CheckpointError
from darkroom.api.names import Role
from darkroom.families.base import LatentFormat
from darkroom.families.companions import Companion, read_companion
from darkroom.nets.flux_blocks import PATCH
from darkroom.nets.te.t5 import T5Config
from darkroom.nets.vae.kl import KLConfig
from darkroom.sampling.schedules import ResolutionShift
from darkroom.weights.index import TensorIndex
from darkroom.weights.keys import KeyRules, Rename
from darkroom.weights.spellings import DIFFUSERS_VAE
from darkroom.weights.t5_names import T5_NAMES

LATENT = LatentFormat(channels=16, downscale=8, scale=0.3611, shift=0.1159)

SIZE_MULTIPLE = LATENT.downscale * PATCH

T5_TOKENS = 512
"""How much text Flux dev and Chroma are given; short text is filled up."""

NO_SHIFT = ResolutionShift(0.0, 0.0, (256, 4096))
"""Evenly spaced noise levels, whatever the picture's size: schnell's and Chroma's."""

T5XXL = Companion(
    Role.T5XXL,
    "the T5-XXL v1.1 text encoder",
    (
        "t5xxl_fp16.safetensors (comfyanonymous/flux_text_encoders)",
        "t5-v1_1-xxl-encoder-Q8_0.gguf (city96/t5-v1_1-xxl-encoder-gguf)",
    ),
)
VAE = Companion(Role.VAE, "Flux.1's autoencoder", ("ae.safetensors (black-forest-labs/FLUX.1-schnell)",))

COMPANION_RULES = (
    T5_NAMES + KeyRules((Rename(r"^vae\.(?:first_stage_model\.)?", VAE.role.prefix),)) + DIFFUSERS_VAE
)
"""Spellings of the companions' names."""


def read_t5(index: TensorIndex, needed_by: str, width: int) -> T5Config:
    """The text encoder, whose hidden size must be `width`. Raises CheckpointError as read_companion does."""

    def problem(t5: T5Config) -> str | None:
        if t5.bias_in_every_block:
            return "it has a position bias in every block"
        return None if t5.d_model == width else f"the network takes text of width {width}"

    return read_companion(index, T5XXL, needed_by, T5Config.from_shapes, problem)


def read_vae(index: TensorIndex, needed_by: str) -> KLConfig:
    """The autoencoder, whose latents must be Flux's. Raises CheckpointError as read_companion does."""

    def problem(vae: KLConfig) -> str | None:
        if vae.embed_dim != LATENT.channels:
            return f"the network takes latents with {LATENT.channels} channels"
        return None if vae.downscale == LATENT.downscale else f"its latents are {vae.downscale} times smaller"

    return read_companion(index, VAE, needed_by, KLConfig.from_shapes, problem)


def check_channels(out_channels: int, title: str) -> None:
    """Raises CheckpointError for a network that draws other latents than Flux's."""
    channels = out_channels // PATCH**2
    if channels != LATENT.channels:
        raise CheckpointError(
            f"model: built like {title}, but for latents with {channels} channels; "
            f"{title}'s have {LATENT.channels}"
        )
