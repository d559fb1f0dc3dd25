"""SDXL: CLIP-L and OpenCLIP-bigG, a UNet with deep transformers, the KL autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from torch import Tensor, nn

from darkroom.api.errors import RequestError
from darkroom.api.names import Module, PredictionType, SampleMethod, Scheduler
from darkroom.families.base import (
    TEXT_ENCODERS,
    Conditioning,
    Family,
    Frame,
    ModuleSpec,
    Predict,
    SampleDefaults,
    TextPrompt,
    on_meta,
)
from darkroom.families.latent_diffusion import INPAINTING, run_unet
from darkroom.families.sdxl.conditioner import CLIP_SKIP, add_sizes, encode
from darkroom.families.sdxl.config import CLIP_G, CLIP_L, LANDMARKS, LATENT, TITLE, VAE, SDXLConfig, detect
from darkroom.families.sdxl.keys import RULES
from darkroom.nets.te.clip import CLIPTextModel
from darkroom.nets.te.stack import TextEncoders
from darkroom.nets.unet import UNetModel
from darkroom.nets.vae.kl import AutoencoderKL
from darkroom.sampling.extra_args import ExtraArgs
from darkroom.weights.index import TensorIndex
from darkroom.weights.keys import KeyRules
from darkroom.weights.spellings import UNET


class StableDiffusionXL(Family[SDXLConfig]):
    """SDXL 1.0, Turbo, Lightning, SSD-1B, Segmind-Vega, CosXL, their fine-tunes and inpainting models."""

    name = "sdxl"
    title = TITLE
    latent = LATENT
    landmarks = LANDMARKS
    companions = (CLIP_L, CLIP_G, VAE)
    model_args: ClassVar[Mapping[str, str]] = {
        "sdxl_unturned_projection": "true to use CLIP-G's text_projection of a one-file checkpoint the way "
        "stable-diffusion.cpp does, for the same picture (default: false, the authors' way)",
    }

    def key_rules(self) -> KeyRules:  # noqa: D102
        return RULES

    def detect(self, index: TensorIndex) -> SDXLConfig | None:  # noqa: D102
        return detect(index)

    def configure(self, config: SDXLConfig, model_args: ExtraArgs) -> SDXLConfig:  # noqa: D102
        unturned = model_args.switch("sdxl_unturned_projection", False)
        if unturned and config.clip_g.projection_dim != config.clip_g.hidden_size:
            raise RequestError(
                "--model-args: sdxl_unturned_projection needs a square text_projection; "
                f"this one is {config.clip_g.projection_dim}x{config.clip_g.hidden_size}"
            )
        return replace(config, unturned_projection=unturned)

    def modules(self, config: SDXLConfig) -> Mapping[Module, ModuleSpec]:  # noqa: D102
        def text_encoders() -> TextEncoders:
            return TextEncoders(clip_l=CLIPTextModel(config.clip_l), clip_g=CLIPTextModel(config.clip_g))

        return {
            Module.TE: ModuleSpec(TEXT_ENCODERS, on_meta(text_encoders)),
            Module.DIFFUSION: ModuleSpec(UNET, on_meta(lambda: UNetModel(config.unet))),
            Module.VAE: ModuleSpec(VAE.role.prefix, on_meta(lambda: AutoencoderKL(config.vae))),
        }

    def inpaints(self, config: SDXLConfig) -> bool:  # noqa: D102
        return config.unet.in_channels == INPAINTING

    def encode(  # noqa: D102
        self, te: nn.Module, prompts: Sequence[TextPrompt], config: SDXLConfig
    ) -> Sequence[Conditioning]:
        return encode(te, prompts, config)

    def frame(self, cond: Conditioning, frame: Frame, config: SDXLConfig) -> Conditioning:  # noqa: D102
        return add_sizes(cond, frame)

    def predict(self, net: nn.Module, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:  # noqa: D102
        return run_unet(net, x, t, cond)

    def prediction(  # noqa: D102
        self, config: SDXLConfig, probe: Callable[[], Predict]
    ) -> PredictionType:
        return config.prediction

    def defaults(self, config: SDXLConfig) -> SampleDefaults:
        """The authors' guidance; sizes are multiples of 64, as in training."""
        return SampleDefaults(
            method=SampleMethod.EULER_A,
            scheduler=Scheduler.DISCRETE,
            steps=30,
            cfg_scale=5.0,
            width=config.width,
            height=config.height,
            size_multiple=64,
            clip_skip=CLIP_SKIP,
        )


FAMILY = StableDiffusionXL()
