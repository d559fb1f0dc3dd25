"""Stable Diffusion 2.x: OpenCLIP-H, a UNet that predicts noise or v, the KL autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from darkroom.api.names import PredictionType
from darkroom.families.base import Conditioning, Predict, TextPrompt
from darkroom.families.latent_diffusion import LatentDiffusion, LatentDiffusionConfig
from darkroom.families.sd2.conditioner import CLIP_SKIP, encode
from darkroom.families.sd2.config import detect
from darkroom.families.sd2.keys import RULES
from darkroom.families.sd2.probe import probe_prediction
from darkroom.weights.index import TensorIndex
from darkroom.weights.keys import KeyRules


class StableDiffusion2(LatentDiffusion):
    """Stable Diffusion 2.0 and 2.1, their fine-tunes and inpainting models."""

    name = "sd2"
    title = "Stable Diffusion 2.x"
    clip_skip = CLIP_SKIP

    def key_rules(self) -> KeyRules:  # noqa: D102
        return RULES

    def detect(self, index: TensorIndex) -> LatentDiffusionConfig | None:  # noqa: D102
        return detect(index)

    def encode(  # noqa: D102
        self, te: nn.Module, prompts: Sequence[TextPrompt], config: LatentDiffusionConfig
    ) -> Sequence[Conditioning]:
        return encode(te, prompts)

    def prediction(  # noqa: D102
        self, config: LatentDiffusionConfig, probe: Callable[[], Predict]
    ) -> PredictionType:
        return probe_prediction(probe(), config)


FAMILY = StableDiffusion2()
