"""What can be asked for beyond OpenAI's schema: fields at the top level of the same requests."""

from __future__ import annotations

from typing import Any

from pydantic import AliasChoices, BaseModel, Field

from darkroom.api.names import SampleMethod, Scheduler
from darkroom.api.options import Flag
from darkroom.api.request import GenerationRequest


def _like(field: str, *names: str) -> Any:  # noqa: ANN401
    """A field with the limits and the words of GenerationRequest's.

    names: spellings of it; the field's own when there are none.
    """
    original = GenerationRequest.model_fields[field]
    made: Any = Field(
        default=None,
        description=original.description,
        validation_alias=AliasChoices(*names) if names else None,
    )
    made.metadata.extend(limit for limit in original.metadata if not isinstance(limit, Flag))
    return made


class Extensions(BaseModel):
    """Settings that stable-diffusion.cpp's other APIs have, under the names that clients use for them.

    None, and an empty string, is the server's default.
    """

    seed: int | None = _like("seed")
    steps: int | None = _like("steps", "steps", "num_inference_steps", "sample_steps")
    cfg_scale: float | None = _like("cfg_scale", "cfg_scale", "guidance_scale", "true_cfg_scale")
    guidance: float | None = _like("guidance", "guidance", "distilled_guidance")
    negative_prompt: str | None = _like("negative_prompt")
    sampling_method: SampleMethod | None = _like(
        "sampling_method", "sampler", "sample_method", "sampling_method", "sampler_name"
    )
    scheduler: Scheduler | None = _like("scheduler")
    eta: float | None = _like("eta")
    sigmas: tuple[float, ...] | None = _like("sigmas", "sigmas", "custom_sigmas")
    strength: float | None = _like("strength", "strength", "denoising_strength")
    clip_skip: int | None = _like("clip_skip")
    flow_shift: float | None = _like("flow_shift")
    timestep_shift: int | None = _like("timestep_shift")
    extra_sample_args: str | None = _like("extra_sample_args")
    ref_image_args: str | None = _like("ref_image_args")
    vae_tiling: bool | None = _like("vae_tiling", "vae_tiling", "tiling")

    def settings(self) -> dict[str, Any]:
        """What is set, by GenerationRequest's names."""
        values = {name: getattr(self, name) for name in Extensions.model_fields}
        return {name: value for name, value in values.items() if value is not None}
