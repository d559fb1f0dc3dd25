"""Chroma: T5, Flux schnell's diffusion transformer with its modulations distilled, Flux's autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

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
from darkroom.families.chroma.conditioner import encode
from darkroom.families.chroma.config import LANDMARKS, TITLE, ChromaConfig, detect
from darkroom.families.chroma.keys import RULES
from darkroom.families.chroma.model import Chroma
from darkroom.families.flux_parts import NO_SHIFT, SIZE_MULTIPLE, T5_TOKENS, VAE
from darkroom.families.latents import FLUX_LATENT
from darkroom.families.t5_text import T5XXL
from darkroom.nets.patches import PATCH
from darkroom.nets.te.stack import TextEncoders
from darkroom.nets.te.t5 import T5EncoderModel
from darkroom.nets.vae.kl import AutoencoderKL
from darkroom.sampling.extra_args import ExtraArgs
from darkroom.weights.dit_names import NET
from darkroom.weights.index import TensorIndex
from darkroom.weights.keys import KeyRules


class Chroma1(Family[ChromaConfig]):
    """Chroma1-HD, Chroma1-Base, the versions before them (chroma-unlocked-v...) and their fine-tunes."""

    name = "chroma"
    title = TITLE
    latent = FLUX_LATENT
    landmarks = LANDMARKS
    companions = (T5XXL, VAE)
    model_args: ClassVar[Mapping[str, str]] = {
        "chroma_use_t5_mask": "whether the text encoder's tokens are kept from seeing what fills the text up "
        "(default: true, as in training; stable-diffusion.cpp's is false)",
        "chroma_use_dit_mask": "whether the network is kept from seeing it (default: true)",
        "chroma_t5_mask_pad": "how many tokens of the filling the network sees all the same (default: 1)",
    }

    def key_rules(self) -> KeyRules:  # noqa: D102
        return RULES

    def detect(self, index: TensorIndex) -> ChromaConfig | None:  # noqa: D102
        return detect(index)

    def configure(self, config: ChromaConfig, model_args: ExtraArgs) -> ChromaConfig:  # noqa: D102
        return replace(
            config,
            t5_mask=model_args.switch("chroma_use_t5_mask", config.t5_mask),
            dit_mask=model_args.switch("chroma_use_dit_mask", config.dit_mask),
            pad=model_args.integer("chroma_t5_mask_pad", config.pad, lambda count: 0 <= count <= T5_TOKENS),
        )

    def modules(self, config: ChromaConfig) -> Mapping[Module, ModuleSpec]:  # noqa: D102
        def text_encoders() -> TextEncoders:
            return TextEncoders(t5xxl=T5EncoderModel(config.t5xxl))

        return {
            Module.TE: ModuleSpec(TEXT_ENCODERS, on_meta(text_encoders), keep_packed=True),
            Module.DIFFUSION: ModuleSpec(NET, on_meta(lambda: Chroma(config.net))),
            Module.VAE: ModuleSpec(VAE.role.prefix, on_meta(lambda: AutoencoderKL(config.vae))),
        }

    def encode(  # noqa: D102
        self, te: nn.Module, prompts: Sequence[TextPrompt], config: ChromaConfig
    ) -> Sequence[Conditioning]:
        return encode(te, prompts, config)

    def predict(self, net: nn.Module, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:  # noqa: D102
        out: Tensor = net(x, t, cond.context)
        return out

    def prediction(self, config: ChromaConfig, probe: Callable[[], Predict]) -> PredictionType:  # noqa: D102
        return PredictionType.FLUX_FLOW

    def defaults(self, config: ChromaConfig) -> SampleDefaults:
        """The authors', of Chroma1-HD's page: 40 evenly spaced steps with guidance 3."""
        return SampleDefaults(
            method=SampleMethod.EULER,
            scheduler=Scheduler.FLUX,
            steps=40,
            cfg_scale=3.0,
            width=1024,
            height=1024,
            size_multiple=SIZE_MULTIPLE,
            flow_shift=0.0,
            patch=PATCH,
            resolution_shift=NO_SHIFT,
        )


FAMILY = Chroma1()
