"""Stable Diffusion 3 and 3.5: up to three text encoders, a transformer of two streams, a KL autoencoder."""

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
from darkroom.families.sd3.conditioner import CLIP_SKIP, encode
from darkroom.families.sd3.config import ENCODERS, LANDMARKS, LATENT, TITLE, VAE, SD3Config, detect
from darkroom.families.sd3.keys import RULES
from darkroom.families.sd3.model import MMDiT
from darkroom.nets.te.clip import CLIPTextModel
from darkroom.nets.te.stack import TextEncoders
from darkroom.nets.te.t5 import T5EncoderModel
from darkroom.nets.vae.kl import AutoencoderKL
from darkroom.sampling.extra_args import ExtraArgs
from darkroom.weights.dit_names import NET
from darkroom.weights.index import TensorIndex
from darkroom.weights.keys import KeyRules


class StableDiffusion3(Family[SD3Config]):
    """Stable Diffusion 3 medium, 3.5 medium, 3.5 large and 3.5 large turbo."""

    name = "sd3"
    title = TITLE
    latent = LATENT
    landmarks = LANDMARKS
    companions = (*ENCODERS, VAE)
    model_args: ClassVar = {"t5_chunks": "T5 reads a long prompt in pieces of 77 tokens (default: false)"}

    def key_rules(self) -> KeyRules:  # noqa: D102
        return RULES

    def detect(self, index: TensorIndex) -> SD3Config | None:  # noqa: D102
        return detect(index)

    def configure(self, config: SD3Config, model_args: ExtraArgs) -> SD3Config:  # noqa: D102
        return replace(config, t5_chunks=model_args.switch("t5_chunks", config.t5_chunks))

    def modules(self, config: SD3Config) -> Mapping[Module, ModuleSpec]:  # noqa: D102
        def text_encoders() -> nn.Module:
            encoders: dict[str, nn.Module] = {}
            if config.clip_l is not None:
                encoders["clip_l"] = CLIPTextModel(config.clip_l)
            if config.clip_g is not None:
                encoders["clip_g"] = CLIPTextModel(config.clip_g)
            if config.t5xxl is not None:
                encoders["t5xxl"] = T5EncoderModel(config.t5xxl)
            return TextEncoders(**encoders)

        return {
            Module.TE: ModuleSpec(TEXT_ENCODERS, on_meta(text_encoders), keep_packed=True),
            Module.DIFFUSION: ModuleSpec(NET, on_meta(lambda: MMDiT(config.net))),
            Module.VAE: ModuleSpec(VAE.role.prefix, on_meta(lambda: AutoencoderKL(config.vae))),
        }

    def encode(  # noqa: D102
        self, te: nn.Module, prompts: Sequence[TextPrompt], config: SD3Config
    ) -> Sequence[Conditioning]:
        return encode(te, prompts, config)

    def predict(self, net: nn.Module, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:  # noqa: D102
        out: Tensor = net(x, t, cond.context, cond.vector)
        return out

    def prediction(  # noqa: D102
        self, config: SD3Config, probe: Callable[[], Predict]
    ) -> PredictionType:
        return PredictionType.SD3_FLOW

    def defaults(self, config: SD3Config) -> SampleDefaults:
        """Stability's: 40 steps and guidance 4.5 for 3.5, whose attention is normalised, 28 and 5 for 3."""
        steps, cfg_scale = (40, 4.5) if config.net.qk_norm else (28, 5.0)
        return SampleDefaults(
            method=SampleMethod.EULER,
            scheduler=Scheduler.DISCRETE,
            steps=steps,
            cfg_scale=cfg_scale,
            width=1024,
            height=1024,
            size_multiple=config.vae.downscale * config.net.patch_size,
            clip_skip=CLIP_SKIP,
            flow_shift=3.0,
            longest_side=config.longest_side,
            patch=config.net.patch_size,
        )


FAMILY = StableDiffusion3()
