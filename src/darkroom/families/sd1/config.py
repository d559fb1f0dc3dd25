"""Recognises Stable Diffusion 1 by its tensors."""

from __future__ import annotations

from darkroom.families.latent_diffusion import OPEN_CLIP_WIDTH, LatentDiffusionConfig, read_config, read_unet
from darkroom.weights.index import TensorIndex


def detect(index: TensorIndex) -> LatentDiffusionConfig | None:
    """The architecture of a file under native names; None when it is another family's.

    1.x projects into its transformers with 1x1 convolutions, 2.x with linear layers.

    Raises CheckpointError when a Stable Diffusion 1 file lacks a network.
    """
    unet = read_unet(index)
    if unet is None or unet.linear_proj or unet.context_dim == OPEN_CLIP_WIDTH:
        return None
    return read_config(index, unet, "quick_gelu", "Stable Diffusion 1.x")
