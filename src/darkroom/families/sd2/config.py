"""Recognises Stable Diffusion 2 by its tensors."""

from __future__ import annotations

from darkroom.families.latent_diffusion import LatentDiffusionConfig, read_config, read_unet
from darkroom.weights.index import TensorIndex


def detect(index: TensorIndex) -> LatentDiffusionConfig | None:
    """The architecture of a file under native names; None when it is another family's.

    2.x projects into its transformers with linear layers, 1.x with 1x1 convolutions.

    Raises CheckpointError when a Stable Diffusion 2 file lacks a network.
    """
    unet = read_unet(index)
    if unet is None or not unet.linear_proj:
        return None
    return read_config(index, unet, "gelu", "Stable Diffusion 2.x")
