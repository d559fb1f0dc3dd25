"""Z-Image: Qwen3-4B, a single-stream diffusion transformer, Flux.1's autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from darkroom.api.names import Module, PredictionType, SampleMethod, Scheduler
from darkroom.families.base import (
    TEXT_ENCODERS,
    Conditioning,
    Family,
    ModuleSpec,
    Predict,
    SampleDefaults,
    TextPrompt,
    on_meta,
)
from darkroom.families.latents import FLUX_LATENT
from darkroom.families.z_image.conditioner import encode
from darkroom.families.z_image.config import LANDMARKS, LLM, TITLE, VAE, ZImageConfig, detect
from darkroom.families.z_image.keys import RULES
from darkroom.families.z_image.model import ZImageTransformer
from darkroom.nets.patches import PATCH
from darkroom.nets.te.qwen import QwenTextModel
from darkroom.nets.te.stack import TextEncoders
from darkroom.nets.vae.kl import AutoencoderKL
from darkroom.weights.dit_names import NET
from darkroom.weights.index import TensorIndex
from darkroom.weights.keys import KeyRules


class ZImage(Family[ZImageConfig]):
    """Z-Image, Z-Image-Turbo and their fine-tunes."""

    name = "z_image"
    title = TITLE
    latent = FLUX_LATENT
    landmarks = LANDMARKS
    companions = (LLM, VAE)

    def key_rules(self) -> KeyRules:  # noqa: D102
        return RULES

    def detect(self, index: TensorIndex) -> ZImageConfig | None:  # noqa: D102
        return detect(index)

    def modules(self, config: ZImageConfig) -> Mapping[Module, ModuleSpec]:  # noqa: D102
        def text_encoders() -> TextEncoders:
            return TextEncoders(llm=QwenTextModel(config.llm))

        return {
            Module.TE: ModuleSpec(TEXT_ENCODERS, on_meta(text_encoders), keep_packed=True),
            Module.DIFFUSION: ModuleSpec(NET, on_meta(lambda: ZImageTransformer(config.net))),
            Module.VAE: ModuleSpec(VAE.role.prefix, on_meta(lambda: AutoencoderKL(config.vae))),
        }

    def encode(  # noqa: D102
        self, te: nn.Module, prompts: Sequence[TextPrompt], config: ZImageConfig
    ) -> Sequence[Conditioning]:
        return encode(te, prompts, config.tokenizer)

    def predict(self, net: nn.Module, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:  # noqa: D102
        out: Tensor = net(x, t, cond.context, cond.mask)
        return out

    def prediction(  # noqa: D102
        self, config: ZImageConfig, probe: Callable[[], Predict]
    ) -> PredictionType:
        return PredictionType.SD3_FLOW

    def defaults(self, config: ZImageConfig) -> SampleDefaults:
        """Turbo's: 8 steps without guidance at 1024x1024. Nothing in a file tells it from Z-Image."""
        return SampleDefaults(
            method=SampleMethod.EULER,
            scheduler=Scheduler.SIMPLE,
            steps=8,
            cfg_scale=1.0,
            width=1024,
            height=1024,
            size_multiple=config.vae.downscale * PATCH,
            flow_shift=3.0,
            patch=PATCH,
        )


FAMILY = ZImage()
