"""Stable Diffusion 1.x: CLIP-L, a UNet that predicts noise, the KL autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from darkroom.api.names import PredictionType
from darkroom.families.base import Conditioning, Predict, TextPrompt
from darkroom.families.latent_diffusion import LatentDiffusion, LatentDiffusionConfig
from darkroom.families.latent_rgb import BUILTIN_RGB, ChannelMix
from darkroom.families.sd1.conditioner import CLIP_SKIP, encode
from darkroom.families.sd1.config import detect
from darkroom.families.sd1.keys import RULES
from darkroom.weights.index import TensorIndex
from darkroom.weights.keys import KeyRules

BUILTIN_WIDTH = 96


class StableDiffusion1(LatentDiffusion):
    """Stable Diffusion 1.1 to 1.5, their fine-tunes and inpainting models."""

    name = "sd1"
    title = "Stable Diffusion 1.x"
    clip_skip = CLIP_SKIP

    def key_rules(self) -> KeyRules:  # noqa: D102
        return RULES

    def detect(self, index: TensorIndex) -> LatentDiffusionConfig | None:  # noqa: D102
        return detect(index)

    def encode(  # noqa: D102
        self, te: nn.Module, prompts: Sequence[TextPrompt], config: LatentDiffusionConfig
    ) -> Sequence[Conditioning]:
        return encode(te, prompts)

    def latent_rgb(self, config: LatentDiffusionConfig) -> ChannelMix:
        """The built-in model's autoencoder, the only one so wide, is not Stable Diffusion's."""
        return BUILTIN_RGB if config.vae.ch == BUILTIN_WIDTH else self.latent.rgb

    def prediction(  # noqa: D102
        self, config: LatentDiffusionConfig, probe: Callable[[], Predict]
    ) -> PredictionType:
        return PredictionType.EPS


FAMILY = StableDiffusion1()
