"""What a picture says about how it was drawn."""

from __future__ import annotations

from darkroom.api.config import EngineConfig
from darkroom.api.names import Role
from darkroom.core.infotext import PictureParameters, write_infotext
from darkroom.engine.model import Model
from darkroom.engine.plan import Plan

TEXT_ROLES = (Role.CLIP_L, Role.CLIP_G, Role.T5XXL, Role.LLM, Role.LLM_VISION)
"""The files that metadata calls text encoders."""


def infotext(config: EngineConfig, model: Model, plan: Plan, seed: int) -> str:
    """The A1111 `parameters` text of one picture of a plan with its schedule."""
    assert plan.schedule is not None, "an engine planned it"
    decoder = config.vae if config.taesd_preview_only else config.taesd or config.vae
    return write_infotext(
        PictureParameters(
            prompt=plan.prompt,
            negative_prompt=plan.negative_prompt,
            steps=plan.steps,
            cfg_scale=plan.cfg_scale,
            guidance=plan.distilled_guidance,
            eta=plan.eta,
            extra_sample_args=plan.extra_sample_args,
            seed=seed,
            width=plan.width,
            height=plan.height,
            model=(config.model or model.path).name,
            rng=config.rng,
            sampler_rng=config.sampler_rng,
            sampler=plan.method,
            scheduler=plan.schedule.scheduler,
            sigmas=plan.sigmas,
            text_encoders=[path.name for role, path in config.files.items() if role in TEXT_ROLES],
            diffusion_model=config.diffusion_model.name if config.diffusion_model else None,
            vae=decoder.name if decoder else None,
            clip_skip=plan.clip_skip,
            denoising_strength=None if plan.init_image is None else plan.strength,
        )
    )
