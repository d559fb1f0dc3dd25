"""Stable Diffusion 1.x: CLIP-L, a UNet that predicts noise, the KL autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from darkroom.api.names import Module, PredictionType
from darkroom.families.base import (
    Conditioning,
    Family,
    ModuleSpec,
    Predict,
    SampleDefaults,
    TextPrompt,
)
from darkroom.families.latent_diffusion import (
    INPAINTING,
    LANDMARKS,
    LATENT,
    LatentDiffusionConfig,
    defaults,
    modules,
    predict,
)
from darkroom.families.sd1.conditioner import CLIP_SKIP, encode
from darkroom.families.sd1.config import detect
from darkroom.families.sd1.keys import RULES
from darkroom.weights.index import TensorIndex
from darkroom.weights.keys import KeyRules


class StableDiffusion1(Family[LatentDiffusionConfig]):
    """Stable Diffusion 1.1 to 1.5, their fine-tunes and inpainting models."""

    name = "sd1"
    title = "Stable Diffusion 1.x"
    latent = LATENT
    landmarks = LANDMARKS

    def key_rules(self) -> KeyRules:  # noqa: D102
        return RULES

    def detect(self, index: TensorIndex) -> LatentDiffusionConfig | None:  # noqa: D102
        return detect(index)

    def modules(self, config: LatentDiffusionConfig) -> Mapping[Module, ModuleSpec]:  # noqa: D102
        return modules(config)

    def inpaints(self, config: LatentDiffusionConfig) -> bool:  # noqa: D102
        return config.unet.in_channels == INPAINTING

    def encode(  # noqa: D102
        self, te: nn.Module, prompts: Sequence[TextPrompt], config: LatentDiffusionConfig
    ) -> Sequence[Conditioning]:
        return encode(te, prompts)

    def predict(self, net: nn.Module, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:  # noqa: D102
        return predict(net, x, t, cond)

    def prediction(  # noqa: D102
        self, config: LatentDiffusionConfig, probe: Callable[[], Predict]
    ) -> PredictionType:
        return PredictionType.EPS

    def defaults(self, config: LatentDiffusionConfig) -> SampleDefaults:  # noqa: D102
        return defaults(config, clip_skip=CLIP_SKIP)


FAMILY = StableDiffusion1()
