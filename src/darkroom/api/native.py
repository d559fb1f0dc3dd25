"""stable-diffusion.cpp's own request for pictures (`POST /sdcpp/v1/img_gen`), in JSON.

Names and nesting are those of `SDGenerationParams::from_json_str`. Every field of it is known here: what
this engine cannot do passes as long as it asks for nothing, and is refused by name where it does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from darkroom.api.errors import RequestError

_DEFAULT = "default"
"""How capabilities name a sampler or a schedule that was not chosen."""

NAMES = {
    "steps": "sample_params.sample_steps",
    "eta": "sample_params.eta",
    "timestep_shift": "sample_params.shifted_timestep",
    "flow_shift": "sample_params.flow_shift",
    "extra_sample_args": "sample_params.extra_sample_args",
    "sigmas": "sample_params.custom_sigmas",
    "sampling_method": "sample_params.sample_method",
    "scheduler": "sample_params.scheduler",
    "cfg_scale": "sample_params.guidance.txt_cfg",
    "guidance": "sample_params.guidance.distilled_guidance",
    "vae_tile_size": "vae_tiling_params.tile_size_x",
    "vae_relative_tile_size": "vae_tiling_params.rel_size_x",
    "vae_tile_overlap": "vae_tiling_params.target_overlap",
}
"""What this request calls a field of GenerationRequest, where it is another name."""


def _whole(value: Any) -> Any:  # noqa: ANN401
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]
"""A whole number; some languages write 20 as 20.0."""


class Strict(BaseModel):
    """JSON as it is meant: no number in quotes, no unknown name. null stands for what was left out."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class SkipLayerGuidance(Strict):
    """Guidance by a pass without some layers."""

    layers: list[Whole] | None = None
    layer_start: float | None = None
    layer_end: float | None = None
    scale: float | None = None


class Guidance(Strict):
    """How strongly the prompt is followed."""

    txt_cfg: float | None = None
    img_cfg: float | None = None
    distilled_guidance: float | None = None
    slg: SkipLayerGuidance | None = None


class SampleParams(Strict):
    """How the picture is sampled."""

    sample_steps: Whole | None = None
    eta: float | None = None
    shifted_timestep: Whole | None = None
    flow_shift: float | None = None
    extra_sample_args: str | None = None
    custom_sigmas: list[float] | None = None
    sample_method: str | None = None
    scheduler: str | None = None
    guidance: Guidance | None = None


class VaeTiling(Strict):
    """Whether and how the VAE works by tiles. Sizes in latent pixels, or as shares of the picture."""

    enabled: bool | None = None
    temporal_tiling: bool | None = None
    tile_size_x: Whole | None = None
    tile_size_y: Whole | None = None
    target_overlap: float | None = None
    rel_size_x: float | None = None
    rel_size_y: float | None = None
    extra_tiling_args: str | None = None


class Hires(Strict):
    """A second pass at a larger size."""

    enabled: bool | None = None
    upscaler: str | None = None
    scale: float | None = None
    target_width: Whole | None = None
    target_height: Whole | None = None
    steps: Whole | None = None
    denoising_strength: float | None = None
    custom_sigmas: list[float] | None = None
    upscale_tile_size: Whole | None = None


class Lora(Strict):
    """A change to the weights, from a file in the server's folder."""

    path: str
    multiplier: float = 1.0
    is_high_noise: bool = False


class NativeRequest(Strict):
    """One request for pictures. Pictures in it are base64, or data URLs.

    preview, preview_interval: Darkroom's own, as --preview and --preview-interval.
    """

    prompt: str | None = None
    negative_prompt: str | None = None
    width: Whole | None = None
    height: Whole | None = None
    batch_count: Whole | None = None
    seed: Whole | None = None
    clip_skip: Whole | None = None
    strength: float | None = None
    sample_params: SampleParams | None = None
    vae_tiling_params: VaeTiling | None = None
    init_image: str | None = None
    mask_image: str | None = None
    ref_images: list[str] | None = None
    auto_resize_ref_image: bool | None = None
    increase_ref_index: bool | None = None
    embed_image_metadata: bool | None = None
    output_format: str | None = None
    output_compression: Whole | None = None
    preview: str | None = None
    preview_interval: Whole | None = None
    hires: Hires | None = None
    lora: list[Lora] | None = None
    control_image: str | None = None
    control_strength: float | None = None
    control_frames: list[str] | None = None
    ip_adapter_image: str | None = None
    ip_adapter_strength: float | None = None
    end_image: str | None = None
    cache_mode: str | None = None
    cache_option: str | None = None
    scm_mask: str | None = None
    scm_policy_dynamic: bool | None = None
    ad_model: str | None = None
    ad_prompt: str | None = None
    ad_negative_prompt: str | None = None
    extra_ad_args: str | None = None
    upscale_repeats: Whole | None = None
    qwen_image_layers: Whole | None = None
    video_frames: Whole | None = None
    fps: Whole | None = None
    moe_boundary: float | None = None
    vace_strength: float | None = None
    high_noise_sample_params: SampleParams | None = Field(default=None, description="of video models; unused")

    def require_possible(self) -> None:
        """Raises RequestError that names the first thing asked for which this engine cannot do."""
        for name, why in self._impossible():
            raise RequestError(f"{name}: {why}; leave it out")

    def fields(self) -> dict[str, Any]:
        """The fields of GenerationRequest that were given, but for the pictures.

        Raises RequestError as `require_possible` does.
        """
        self.require_possible()
        sample, tiling = self.sample_params or SampleParams(), self.vae_tiling_params or VaeTiling()
        guidance = sample.guidance or Guidance()
        given = {
            "prompt": self.prompt,
            "negative_prompt": self.negative_prompt,
            "width": _positive(self.width),
            "height": _positive(self.height),
            "batch_count": self.batch_count,
            "seed": self.seed,
            "clip_skip": self.clip_skip,
            "strength": self.strength,
            "steps": sample.sample_steps,
            "eta": sample.eta,
            "timestep_shift": sample.shifted_timestep,
            "flow_shift": sample.flow_shift,
            "extra_sample_args": sample.extra_sample_args,
            "sigmas": tuple(sample.custom_sigmas) if sample.custom_sigmas else None,
            "sampling_method": _chosen(sample.sample_method),
            "scheduler": _chosen(sample.scheduler),
            "cfg_scale": guidance.txt_cfg,
            "guidance": guidance.distilled_guidance,
            "vae_tiling": tiling.enabled,
            "vae_tile_size": _pair(tiling.tile_size_x, tiling.tile_size_y),
            "vae_relative_tile_size": _pair(tiling.rel_size_x, tiling.rel_size_y),
            "vae_tile_overlap": tiling.target_overlap,
            "ref_image_args": self._reference_args() or None,
            "preview": self.preview,
            "preview_interval": self.preview_interval,
        }
        return {name: value for name, value in given.items() if value is not None}

    def _reference_args(self) -> str:
        resize = ["resize_before_vae=off"] if self.auto_resize_ref_image is False else []
        return ",".join([*resize, *(["ref_index_mode=increase"] if self.increase_ref_index else [])])

    def _impossible(self) -> Iterator[tuple[str, str]]:
        """What is asked for in vain: the field and the reason."""
        guidance = (self.sample_params and self.sample_params.guidance) or Guidance()
        tiling = self.vae_tiling_params or VaeTiling()
        if self.hires and self.hires.enabled:
            yield "hires.enabled", "a second pass at a larger size is not possible yet"
        if self.lora:
            yield "lora", "LoRA files are not possible yet"
        if self.control_image or self.control_frames:
            name = "control_image" if self.control_image else "control_frames"
            yield name, "ControlNets are not possible yet"
        if self.ip_adapter_image:
            yield "ip_adapter_image", "IP adapters are not possible yet"
        if self.end_image:
            yield "end_image", "the loaded model draws pictures, not videos"
        if (self.video_frames or 1) > 1:
            yield "video_frames", "the loaded model draws pictures, not videos"
        if self.cache_mode not in (None, "", "disabled"):
            yield "cache_mode", "steps are never skipped; 'disabled' is the only mode"
        if self.ad_model:
            yield "ad_model", "detectors are not possible yet"
        if (self.upscale_repeats or 1) > 1:
            yield "upscale_repeats", "upscalers are not possible yet"
        if guidance.img_cfg is not None and guidance.img_cfg != guidance.txt_cfg:
            yield "sample_params.guidance.img_cfg", "one scale guides text and pictures, txt_cfg"
        if guidance.slg and guidance.slg.scale:
            yield "sample_params.guidance.slg.scale", "skip-layer guidance is not possible yet"
        if tiling.temporal_tiling:
            yield "vae_tiling_params.temporal_tiling", "the loaded model draws pictures, not videos"


def _positive(side: int | None) -> int | None:
    """A side in pixels; stable-diffusion.cpp writes -1 for one that was not chosen."""
    return None if side == -1 else side


def _chosen(name: str | None) -> str | None:
    return None if name in (_DEFAULT, "") else name


def _pair(x: float | None, y: float | None) -> tuple[float, float] | None:
    return None if x is None and y is None else (x or y or 0, y or x or 0)
