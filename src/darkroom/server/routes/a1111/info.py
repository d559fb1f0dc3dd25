"""`info`: how the pictures of a request were made, in A1111's words."""

from __future__ import annotations

import time

from darkroom.api.a1111.answers import GenerationInfo
from darkroom.api.a1111.requests import Generation
from darkroom.api.a1111.samplers import label_of
from darkroom.api.result import GenerationResult
from darkroom.api.version import __version__
from darkroom.server.jobs import Job
from darkroom.server.model import ModelInfo
from darkroom.server.routes.a1111.progress import timestamp
from darkroom.server.routes.a1111.settings import Settings


def make_info(
    model: ModelInfo, settings: Settings, body: Generation, job: Job, result: GenerationResult
) -> GenerationInfo:
    """What A1111's `Processed.js()` says of these pictures."""
    request, count = job.request, len(result.images)
    schedule = "Automatic" if request.scheduler is None else label_of(request.scheduler)
    width, height = result.images[0].size
    return GenerationInfo(
        prompt=request.prompt,
        all_prompts=[request.prompt] * count,
        negative_prompt=request.negative_prompt,
        all_negative_prompts=[request.negative_prompt] * count,
        seed=result.seeds[0],
        all_seeds=list(result.seeds),
        subseed=result.seeds[0],
        all_subseeds=list(result.seeds),
        width=width,
        height=height,
        sampler_name=label_of(request.sampling_method or model.method),
        cfg_scale=model.cfg_scale if request.cfg_scale is None else request.cfg_scale,
        steps=request.steps or model.steps,
        batch_size=body.batch_size or 1,
        sd_model_name=model.stem,
        sd_model_hash=settings.short_hash,
        sd_vae_name=model.vae.name if model.vae else None,
        denoising_strength=request.strength if job.starts_from_picture else None,
        extra_generation_params={"Schedule type": schedule},
        infotexts=list(result.infotexts),
        job_timestamp=timestamp(job.started or time.time()),
        clip_skip=request.clip_skip or model.clip_skip or 1,
        is_using_inpainting_conditioning=model.inpaints,
        version=f"darkroom {__version__}",
    )
