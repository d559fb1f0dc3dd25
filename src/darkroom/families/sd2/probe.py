"""Finds out what a Stable Diffusion 2 UNet predicts: no tensor's name or shape tells noise from v."""

from __future__ import annotations

import torch

from darkroom.api.names import PredictionType
from darkroom.families.base import Predict
from darkroom.families.latent_diffusion import TEXT_TO_IMAGE, LatentDiffusionConfig

_X, _TIMESTEP, _CONTEXT, _SIDE, _TOKENS = 0.5, 999.0, 0.5, 8, 2


def probe_prediction(predict: Predict, config: LatentDiffusionConfig) -> PredictionType:
    """Runs the network once on constants, as stable-diffusion.cpp does.

    At the last timestep x is almost pure noise: a network that predicts noise answers with about x, one that
    predicts v (arXiv 2202.00512) with about minus the picture, which for these constants is far lower.
    """
    channels = config.unet.in_channels
    x = torch.full((1, channels, _SIDE, _SIDE), _X)
    x[:, TEXT_TO_IMAGE:] = 0.0  # an inpainting model: nothing is hidden
    context = torch.full((1, _TOKENS, config.unet.context_dim), _CONTEXT)
    out = predict(x, torch.full((1,), _TIMESTEP), context)
    difference = (out - x[:, :TEXT_TO_IMAGE].to(out)).mean().item()
    return PredictionType.V if difference < -1.0 else PredictionType.EPS
