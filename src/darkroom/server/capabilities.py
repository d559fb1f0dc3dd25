"""What `GET /sdcpp/v1/capabilities` tells, in stable-diffusion.cpp's form."""

from __future__ import annotations

from typing import Any

from darkroom.api.names import PreviewMode, SampleMethod, Scheduler
from darkroom.api.request import GenerationRequest
from darkroom.core.image_files import ImageFormat
from darkroom.server.model import ModelInfo
from darkroom.server.service import Service

MAX_BATCH_COUNT = 8
"""Pictures of one native request."""

MODE = "img_gen"

_NO_HIRES = {
    "enabled": False,
    "upscaler": "Latent",
    "scale": 2.0,
    "target_width": 0,
    "target_height": 0,
    "steps": 0,
    "denoising_strength": 0.7,
    "upscale_tile_size": 128,
}
"""stable-diffusion.cpp's defaults, for clients that fill in a form with them."""

SCHEDULERS = [
    name
    for scheduler in Scheduler
    for name in ((scheduler.value, "normal") if scheduler is Scheduler.DISCRETE else (scheduler.value,))
]
"""Every name that a schedule goes by."""


def capabilities(service: Service) -> dict[str, Any]:
    """The model, what a request gets that says nothing, what can be asked for and how much of it."""
    info = service.info()
    defaults = native_defaults(service.defaults, info, embeds_metadata=service.embeds_metadata)
    features = _features(info)
    formats = [format.value for format in ImageFormat]
    return {
        "model": {
            "name": info.name,
            "stem": info.stem,
            "path": info.path,
            "family": info.family,
            "title": info.title,
            "size_multiple": info.size_multiple,
        },
        "current_mode": MODE,
        "supported_modes": [MODE],
        "defaults": defaults,
        "defaults_by_mode": {MODE: defaults},
        "limits": {
            "min_width": info.min_side,
            "max_width": info.max_side,
            "min_height": info.min_side,
            "max_height": info.max_side,
            "max_batch_count": MAX_BATCH_COUNT,
            "max_queue_size": service.options.max_queue,
        },
        "samplers": [method.value for method in SampleMethod],
        "schedulers": SCHEDULERS,
        "previews": [mode.value for mode in PreviewMode],
        "output_formats": formats,
        "output_formats_by_mode": {MODE: formats},
        "features": features,
        "features_by_mode": {MODE: features},
        "loras": [],
        "upscalers": [],
    }


def native_defaults(given: GenerationRequest, info: ModelInfo, *, embeds_metadata: bool) -> dict[str, Any]:
    """What a native request gets that says nothing; sending it back asks for the same."""
    tile, share = given.vae_tile_size, given.vae_relative_tile_size
    return {
        "prompt": given.prompt,
        "negative_prompt": given.negative_prompt,
        "clip_skip": given.clip_skip or -1,
        "width": given.width or info.width,
        "height": given.height or info.height,
        "strength": given.strength,
        "seed": given.seed,
        "batch_count": given.batch_count,
        "auto_resize_ref_image": True,
        "increase_ref_index": False,
        "embed_image_metadata": embeds_metadata,
        "sample_params": {
            "scheduler": given.scheduler or info.scheduler,
            "sample_method": given.sampling_method or info.method,
            "sample_steps": given.steps or info.steps,
            "eta": given.eta,
            "shifted_timestep": given.timestep_shift,
            "flow_shift": given.flow_shift,
            "extra_sample_args": given.extra_sample_args,
            "custom_sigmas": list(given.sigmas or ()),
            "guidance": {
                "txt_cfg": info.cfg_scale if given.cfg_scale is None else given.cfg_scale,
                "img_cfg": None,
                "distilled_guidance": info.guidance if given.guidance is None else given.guidance,
                "slg": {"layers": [], "layer_start": 0.01, "layer_end": 0.2, "scale": 0.0},
            },
        },
        "hires": _NO_HIRES,
        "vae_tiling_params": {
            "enabled": given.vae_tiling,
            "temporal_tiling": False,
            "tile_size_x": tile.x,
            "tile_size_y": tile.y,
            "target_overlap": given.vae_tile_overlap,
            "rel_size_x": share.x,
            "rel_size_y": share.y,
            "extra_tiling_args": "",
        },
        "control_strength": 0.9,
        "cache_mode": "disabled",
        "cache_option": "",
        "scm_mask": "",
        "scm_policy_dynamic": True,
        "preview": given.preview.visible.value,
        "preview_interval": given.preview_interval,
        "output_format": ImageFormat.PNG.value,
        "output_compression": 100,
    }


def _features(info: ModelInfo) -> dict[str, bool]:
    return {
        "init_image": True,
        "mask_image": True,
        "control_image": False,
        "ip_adapter_image": False,
        "ref_images": info.takes_references,
        "lora": False,
        "vae_tiling": True,
        "hires": False,
        "cache": False,
        "preview": True,
        "events": True,
        "cancel_queued": True,
        "cancel_generating": True,
    }
