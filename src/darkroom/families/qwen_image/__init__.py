"""Qwen-Image and Qwen-Image-Edit: Qwen2.5-VL, a diffusion transformer, Wan 2.1's autoencoder."""

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
    Frame,
    ModuleSpec,
    Predict,
    SampleDefaults,
    TextPrompt,
    on_meta,
)
from darkroom.families.qwen_image.conditioner import REFERENCE_AREA, area_size, encode, require_eyes
from darkroom.families.qwen_image.config import (
    LANDMARKS,
    LATENT,
    LLM,
    LLM_VISION,
    TITLE,
    VAE,
    QwenImageConfig,
    detect,
)
from darkroom.families.qwen_image.keys import RULES
from darkroom.families.qwen_image.model import QwenImageTransformer
from darkroom.nets.patches import PATCH
from darkroom.nets.te.qwen import QwenTextModel
from darkroom.nets.te.qwen_vision import QwenVisionModel
from darkroom.nets.te.stack import TextEncoders
from darkroom.nets.vae.wan import WanVAE
from darkroom.sampling.extra_args import ExtraArgs
from darkroom.sampling.schedules import ResolutionShift
from darkroom.weights.dit_names import NET
from darkroom.weights.index import TensorIndex
from darkroom.weights.keys import KeyRules

SHIFT = ResolutionShift(0.5, 0.9, (256, 8192), terminal=0.02)
"""Of the authors' scheduler_config.json."""


class QwenImage(Family[QwenImageConfig]):
    """Qwen-Image, Qwen-Image-2512, Qwen-Image-Edit, Edit-2509, Edit-2511 and their fine-tunes."""

    name = "qwen_image"
    title = TITLE
    latent = LATENT
    landmarks = LANDMARKS
    companions = (LLM, LLM_VISION, VAE)
    model_args: ClassVar[Mapping[str, str]] = {
        "qwen_image_zero_cond_t": "true for Edit-2511 (default: what the file says): reference images are "
        "seen as at timestep 0",
        "qwen_image_numbered_pictures": "false for the first Edit, of August 2025 (default: true): the text "
        "encoder sees the reference image large and without a number",
    }
    takes_references = True
    shows_references = True

    def key_rules(self) -> KeyRules:  # noqa: D102
        return RULES

    def detect(self, index: TensorIndex) -> QwenImageConfig | None:  # noqa: D102
        return detect(index)

    def configure(self, config: QwenImageConfig, model_args: ExtraArgs) -> QwenImageConfig:  # noqa: D102
        zero_cond_t = model_args.switch("qwen_image_zero_cond_t", config.net.zero_cond_t)
        return replace(
            config,
            net=replace(config.net, zero_cond_t=zero_cond_t),
            numbers_pictures=model_args.switch("qwen_image_numbered_pictures", config.numbers_pictures),
        )

    def modules(self, config: QwenImageConfig) -> Mapping[Module, ModuleSpec]:  # noqa: D102
        def text_encoders() -> TextEncoders:
            encoders: dict[str, nn.Module] = {"llm": QwenTextModel(config.llm)}
            if config.vision is not None:
                encoders["llm_vision"] = QwenVisionModel(config.vision)
            return TextEncoders(**encoders)

        return {
            Module.TE: ModuleSpec(TEXT_ENCODERS, on_meta(text_encoders), keep_packed=True),
            Module.DIFFUSION: ModuleSpec(NET, on_meta(lambda: QwenImageTransformer(config.net))),
            Module.VAE: ModuleSpec(VAE.role.prefix, on_meta(lambda: WanVAE(config.vae))),
        }

    def reference_size(self, width: int, height: int, frame: Frame) -> tuple[int, int]:
        """About 1024x1024 pixels in the image's own proportions, whatever the picture's size."""
        return area_size(width, height, REFERENCE_AREA)

    def check_references(self, config: QwenImageConfig, *, is_seen: bool) -> None:  # noqa: D102
        if is_seen:
            require_eyes(config)

    def encode(  # noqa: D102
        self, te: nn.Module, prompts: Sequence[TextPrompt], config: QwenImageConfig
    ) -> Sequence[Conditioning]:
        return encode(te, prompts, config)

    def predict(self, net: nn.Module, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:  # noqa: D102
        inputs = (x, t, cond.context, cond.mask, cond.references)
        # The authors number reference images; only what they do is called with tensors alone, to be recorded.
        out: Tensor = net(*inputs, False) if cond.increase_reference_index is False else net(*inputs)
        return out

    def prediction(  # noqa: D102
        self, config: QwenImageConfig, probe: Callable[[], Predict]
    ) -> PredictionType:
        return PredictionType.SD3_FLOW

    def defaults(self, config: QwenImageConfig) -> SampleDefaults:
        """The authors': 50 steps with guidance 4 at 1024x1024."""
        return SampleDefaults(
            method=SampleMethod.EULER,
            scheduler=Scheduler.FLUX,
            steps=50,
            cfg_scale=4.0,
            width=1024,
            height=1024,
            size_multiple=config.vae.downscale * PATCH,
            patch=PATCH,
            resolution_shift=SHIFT,
            norm_patch=PATCH,
        )


FAMILY = QwenImage()
