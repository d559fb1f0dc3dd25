"""Tiny autoencoders in a file beside the model: which one it is, and whether it is for its latents."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from darkroom.api.errors import CheckpointError
from darkroom.families.base import on_meta
from darkroom.families.latents import LatentFormat
from darkroom.nets.vae.tae import TAESDConfig, TAESDDecoder
from darkroom.nets.vae.taehv import TAEHVConfig, TAEHVDecoder
from darkroom.weights.index import TensorIndex

TINY_FILES = {
    "taesd": "taesd_decoder.safetensors (madebyollin/taesd)",
    "taesdxl": "taesdxl_decoder.safetensors (madebyollin/taesdxl)",
    "taesd3": "taesd3_decoder.safetensors (madebyollin/taesd3)",
    "taef1": "taef1_decoder.safetensors (madebyollin/taef1)",
    "taew2_1": "taew2_1.safetensors (github.com/madebyollin/taehv)",
}
"""By the name of the tiny autoencoder, as latent formats say it: a file that fits."""

# Theirs, ComfyUI's, and diffusers' with stable-diffusion.cpp's before it, which counts without the clamp.
_NAME = re.compile(
    r"(?:tae\.)?(?:taesd_)?(?P<decoder>decoder\.)?(?P<layers>layers\.)?(?P<place>\d+)\.(?P<rest>.+)"
)


@dataclass(frozen=True)
class TinyDecoder:
    """A decoder for previews: its architecture, and how it is built on the meta device."""

    config: TAESDConfig | TAEHVConfig
    build: Callable[[], nn.Module]


def native_name(name: str) -> str | None:
    """The author's name of a decoder's tensor, whoever has written the file; None for any other tensor."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    return f"{int(match['place']) + (match['layers'] is not None)}.{match['rest']}"


def read_tiny(index: TensorIndex, path: object, needed_by: str, latent: LatentFormat) -> TinyDecoder:
    """The decoder in a file under native names.

    Raises CheckpointError for a file without one, and for one of other latents.
    """
    shapes = index.shapes()
    right = TINY_FILES[latent.tiny]
    memory = shapes.get("3.conv.0.weight", (1, 1))
    try:
        if memory[1] == 2 * memory[0]:
            video = TAEHVConfig.from_shapes(shapes)
            tiny = TinyDecoder(video, on_meta(lambda: TAEHVDecoder(video)))
        else:
            config = TAESDConfig.from_shapes(shapes)
            tiny = TinyDecoder(config, on_meta(lambda: TAESDDecoder(config)))
    except (KeyError, IndexError, ValueError, ZeroDivisionError):
        raise CheckpointError(
            f"--taesd: {path} holds no decoder of a tiny autoencoder that is known here; for {needed_by} "
            f"{right} fits"
        ) from None
    form = (tiny.config.latent_channels, tiny.config.downscale)
    of_videos = isinstance(tiny.config, TAEHVConfig)
    if form != (latent.channels, latent.downscale) or of_videos != (latent.tiny == "taew2_1"):
        raise CheckpointError(
            f"--taesd: {path} decodes {'videos of ' if of_videos else ''}latents with {form[0]} channels, "
            f"{form[1]} times smaller; those of {needed_by} have {latent.channels} and are "
            f"{latent.downscale} times smaller: {right} fits"
        )
    return tiny
