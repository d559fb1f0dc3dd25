"""Latents: how they relate to pictures, and the autoencoders that make them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from darkroom.api.errors import CheckpointError
from darkroom.families.companions import Companion, read_companion
from darkroom.families.latent_rgb import FLUX_RGB, ChannelMix
from darkroom.nets.vae.kl import KLConfig
from darkroom.weights.index import TensorIndex


@dataclass(frozen=True)
class LatentFormat:
    """How pictures and latents relate: latent = (z - shift) * scale, `downscale` pixels to a latent pixel.

    scale, shift: one number, or one for each channel. rgb: about the colours of a latent. tiny: the tiny
    autoencoder that is made for it, by name. sampled: whether a picture's latent is drawn from the encoder's
    distribution, as stable-diffusion.cpp draws it; if not, it is the mean.
    """

    channels: int
    downscale: int
    scale: float | tuple[float, ...]
    rgb: ChannelMix
    tiny: str
    shift: float | tuple[float, ...] = 0.0
    sampled: bool = True

    def from_vae(self, z: Tensor) -> Tensor:
        """What the diffusion network sees of the autoencoder's z (b, c, h, w)."""
        return (z - _column(self.shift, z)) * _column(self.scale, z)

    def to_vae(self, latent: Tensor) -> Tensor:
        """The autoencoder's z of a latent (b, c, h, w)."""
        return latent / _column(self.scale, latent) + _column(self.shift, latent)


FLUX_LATENT = LatentFormat(channels=16, downscale=8, scale=0.3611, rgb=FLUX_RGB, tiny="taef1", shift=0.1159)
"""Of Flux.1's autoencoder, which Chroma and Z-Image have as well."""


def read_autoencoder(
    index: TensorIndex, companion: Companion, needed_by: str, latent: LatentFormat
) -> KLConfig:
    """The KL autoencoder, whose latents must be of this format. Raises CheckpointError as read_companion."""

    def problem(vae: KLConfig) -> str | None:
        if vae.embed_dim != latent.channels:
            return f"its latents have {vae.embed_dim} channels, not {latent.channels}"
        return None if vae.downscale == latent.downscale else f"its latents are {vae.downscale} times smaller"

    return read_companion(index, companion, needed_by, KLConfig.from_shapes, problem)


def check_channels(channels: int, latent: LatentFormat, title: str) -> None:
    """Raises CheckpointError for a diffusion network that draws latents of another format."""
    if channels != latent.channels:
        raise CheckpointError(
            f"model: built like {title}, but for latents with {channels} channels; "
            f"{title}'s have {latent.channels}"
        )


def _column(values: float | tuple[float, ...], like: Tensor) -> Tensor | float:
    return values if isinstance(values, float) else like.new_tensor(values)[:, None, None]
