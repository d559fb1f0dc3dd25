"""Flux.1: CLIP-L's vector, T5, a diffusion transformer, a 16-channel autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
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
from darkroom.families.flux.conditioner import encode
from darkroom.families.flux.config import CLIP_L, LANDMARKS, TITLE, FluxConfig, detect
from darkroom.families.flux.keys import RULES
from darkroom.families.flux.model import Flux
from darkroom.families.flux_parts import NO_SHIFT, SIZE_MULTIPLE, VAE
from darkroom.families.latents import FLUX_LATENT
from darkroom.families.t5_text import T5XXL
from darkroom.nets.patches import PATCH
from darkroom.nets.te.clip import CLIPTextModel
from darkroom.nets.te.stack import TextEncoders
from darkroom.nets.te.t5 import T5EncoderModel
from darkroom.nets.vae.kl import AutoencoderKL
from darkroom.sampling.extra_args import ExtraArgs
from darkroom.sampling.schedules import FLUX_SHIFT
from darkroom.weights.dit_names import NET
from darkroom.weights.index import TensorIndex
from darkroom.weights.keys import KeyRules

# The sizes that Kontext was trained on (black-forest-labs/flux, util.py), width and height.
KONTEXT_SIZES = (
    (672, 1568), (688, 1504), (720, 1456), (752, 1392), (800, 1328), (832, 1248), (880, 1184), (944, 1104),
    (1024, 1024),
    (1104, 944), (1184, 880), (1248, 832), (1328, 800), (1392, 752), (1456, 720), (1504, 688), (1568, 672),
)  # fmt: skip


class Flux1(Family[FluxConfig]):
    """Flux.1 dev, schnell, Kontext, Fill and their fine-tunes, such as Krea."""

    name = "flux"
    title = TITLE
    latent = FLUX_LATENT
    landmarks = LANDMARKS
    companions = (CLIP_L, T5XXL, VAE)
    model_args: ClassVar[Mapping[str, str]] = {
        "flux_t5_tokens": "length of the text that the network is given (default: the authors', 512 for dev "
        "and 256 for schnell; stable-diffusion.cpp's is 256)",
    }
    takes_references = True

    def key_rules(self) -> KeyRules:  # noqa: D102
        return RULES

    def detect(self, index: TensorIndex) -> FluxConfig | None:  # noqa: D102
        return detect(index)

    def configure(self, config: FluxConfig, model_args: ExtraArgs) -> FluxConfig:  # noqa: D102
        tokens = model_args.integer("flux_t5_tokens", config.t5_tokens, lambda count: 2 <= count <= 512)
        return replace(config, t5_tokens=tokens)

    def modules(self, config: FluxConfig) -> Mapping[Module, ModuleSpec]:  # noqa: D102
        def text_encoders() -> TextEncoders:
            return TextEncoders(clip_l=CLIPTextModel(config.clip_l), t5xxl=T5EncoderModel(config.t5xxl))

        return {
            Module.TE: ModuleSpec(TEXT_ENCODERS, on_meta(text_encoders), keep_packed=True),
            Module.DIFFUSION: ModuleSpec(NET, on_meta(lambda: Flux(config.net))),
            Module.VAE: ModuleSpec(VAE.role.prefix, on_meta(lambda: AutoencoderKL(config.vae))),
        }

    def inpaints(self, config: FluxConfig) -> bool:  # noqa: D102
        return config.is_fill

    def inpainting_channels(self, mask: Tensor, hidden: Tensor) -> Tensor:
        """The latent, then every pixel of the mask as a channel, row by row: (1, 16 + 64, h, w)."""
        return torch.cat((hidden, F.pixel_unshuffle(mask, self.latent.downscale).to(hidden)), dim=1)

    def reference_size(self, width: int, height: int, frame: Frame) -> tuple[int, int]:
        """The one of Kontext's sizes whose proportions are nearest."""
        return min(KONTEXT_SIZES, key=lambda size: abs(width / height - size[0] / size[1]))

    def check_references(self, config: FluxConfig, *, is_seen: bool) -> None:
        """Raises RequestError for reference images beside Fill's mask."""
        if config.is_fill:
            raise RequestError(f"--ref-image: {TITLE} Fill looks at no reference images; Kontext does")

    def encode(  # noqa: D102
        self, te: nn.Module, prompts: Sequence[TextPrompt], config: FluxConfig
    ) -> Sequence[Conditioning]:
        return encode(te, prompts, config.t5_tokenizer, config.t5_tokens)

    def predict(self, net: nn.Module, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:  # noqa: D102
        inputs = (x, t, cond.context, cond.vector, cond.guidance, cond.concat, cond.references)
        out: Tensor = net(*inputs, True) if cond.increase_reference_index else net(*inputs)
        return out

    def prediction(self, config: FluxConfig, probe: Callable[[], Predict]) -> PredictionType:  # noqa: D102
        return PredictionType.FLUX_FLOW

    def defaults(self, config: FluxConfig) -> SampleDefaults:
        """The authors': schnell needs 4 steps, Fill a guidance of 30."""
        is_distilled = config.net.has_guidance
        dev_steps, guidance = (50, 30.0) if config.is_fill else (28, 3.5)
        return SampleDefaults(
            method=SampleMethod.EULER,
            scheduler=Scheduler.FLUX,
            steps=dev_steps if is_distilled else 4,
            cfg_scale=1.0,
            width=1024,
            height=1024,
            size_multiple=SIZE_MULTIPLE,
            guidance=guidance if is_distilled else None,
            flow_shift=None if is_distilled else 0.0,
            patch=PATCH,
            resolution_shift=FLUX_SHIFT if is_distilled else NO_SHIFT,
        )


FAMILY = Flux1()
