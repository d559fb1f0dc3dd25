"""A request and its answer for each route, for the OpenAPI document and docs/api.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PICTURE = "iVBORw0KGgo..."
"""Stands for a picture in base64."""

JOB = "job_6b0368fe_677ed953"


@dataclass(frozen=True)
class Example:
    """body: JSON of the request. answer: JSON of the answer, or its text. form: curl's words for a form.

    path: where the route's has places to fill.
    """

    body: Any = None
    answer: Any = None
    form: str = ""
    path: str = ""


_STATE = {
    "id": JOB,
    "request_id": "req_5d6f6d6a7d35a8c1",
    "kind": "img_gen",
    "status": "generating",
    "created": 1795385598,
    "started": 1795385598,
    "completed": None,
    "queue_position": 0,
    "phase": "sample",
    "step": 5,
    "steps": 12,
    "image": 1,
    "images": 1,
    "seeds": [7],
    "eta": 0.9,
    "preview": {
        "mime_type": "image/jpeg",
        "b64_json": "/9j/4AAQ...",
        "width": 32,
        "height": 32,
        "step": 5,
        "image": 1,
    },
    "result": None,
    "error": None,
}

_PICTURES = {
    "created": 1795385600,
    "data": [{"b64_json": PICTURE, "seed": 7, "metadata": {"Steps": "12", "Sampler": "Euler a"}}],
    "output_format": "png",
    "quality": "medium",
    "size": "256x256",
    "usage": {
        "input_tokens": 5,
        "input_tokens_details": {"image_tokens": 0, "text_tokens": 5},
        "output_tokens": 1024,
        "output_tokens_details": {"image_tokens": 1024, "text_tokens": 0},
        "total_tokens": 1029,
    },
}

_A1111 = {
    "images": [PICTURE],
    "parameters": {"prompt": "a red circle", "steps": 12},
    "info": '{"seed": 7, ...}',
}

_MODEL = {"id": "builtin", "object": "model", "created": 1795385590, "owned_by": "local"}

EXAMPLES = {
    "GET /health": Example(
        answer={
            "status": "ok",
            "bytes_read": 36700160,
            "bytes_total": 36700160,
            "error": None,
            "model": "builtin",
            "version": "0.1.0",
            "nonce": None,
            "pid": 4711,
            "loaded": True,
            "stopping": False,
            "queued": 0,
            "generating": 1,
            "uptime": 12.5,
        }
    ),
    "GET /metrics": Example(answer='darkroom_queue_depth 0.0\ndarkroom_images_total{api="openai"} 1.0\n...'),
    "GET /v1/models": Example(answer={"object": "list", "data": [_MODEL]}),
    "GET /v1/models/{name}": Example(answer=_MODEL, path="/v1/models/builtin"),
    "POST /v1/images/generations": Example(
        {"prompt": "a red circle", "size": "256x256", "seed": 7, "steps": 12}, _PICTURES
    ),
    "POST /v1/images/edits": Example(
        answer=_PICTURES,
        form='-F prompt="a red circle" -F image=@picture.png -F mask=@mask.png -F strength=0.7',
    ),
    "POST /v1/images/variations": Example(answer=_PICTURES, form="-F image=@picture.png -F n=2"),
    "GET /v1/images/files/{name}": Example(path="/v1/images/files/1c0b...f2.png?exp=1795389200&sig=90ab..."),
    "GET /sdcpp/v1/capabilities": Example(
        answer={
            "model": {"name": "builtin", "stem": "builtin", "family": "sd1", "size_multiple": 8},
            "current_mode": "img_gen",
            "supported_modes": ["img_gen"],
            "defaults": {"prompt": "", "width": 256, "height": 256, "seed": 42},
            "limits": {"min_width": 64, "max_width": 4096, "max_batch_count": 8, "max_queue_size": 64},
            "samplers": ["euler", "euler_a"],
            "schedulers": ["discrete", "karras"],
        }
    ),
    "POST /sdcpp/v1/img_gen": Example(
        {
            "prompt": "a red circle",
            "width": 256,
            "height": 256,
            "seed": 7,
            "sample_params": {"sample_steps": 12},
        },
        {
            "id": JOB,
            "kind": "img_gen",
            "status": "queued",
            "created": 1795385598,
            "poll_url": f"/sdcpp/v1/jobs/{JOB}",
            "events_url": f"/sdcpp/v1/jobs/{JOB}/events",
            "cancel_url": f"/sdcpp/v1/jobs/{JOB}/cancel",
            "queue_position": 1,
            "seeds": [7],
        },
    ),
    "GET /sdcpp/v1/jobs": Example(answer={"jobs": [_STATE | {"preview": None}]}),
    "GET /sdcpp/v1/jobs/{id}": Example(answer=_STATE, path=f"/sdcpp/v1/jobs/{JOB}"),
    "POST /sdcpp/v1/jobs/{id}/cancel": Example(
        answer=_STATE
        | {
            "status": "cancelled",
            "completed": 1795385599,
            "eta": None,
            "preview": None,
            "error": {"code": "cancelled", "message": "cancelled"},
        },
        path=f"/sdcpp/v1/jobs/{JOB}/cancel",
    ),
    "GET /sdcpp/v1/jobs/{id}/events": Example(
        answer='id: 4\nevent: step\ndata: {"id":"'
        + JOB
        + '","status":"generating","step":1,"steps":12,...}\n',
        path=f"/sdcpp/v1/jobs/{JOB}/events",
    ),
    "POST /sdapi/v1/txt2img": Example(
        {"prompt": "a red circle", "width": 256, "height": 256, "steps": 12, "seed": 7}, _A1111
    ),
    "POST /sdapi/v1/img2img": Example(
        {"prompt": "a red circle", "init_images": [PICTURE], "denoising_strength": 0.6, "steps": 12}, _A1111
    ),
    "POST /sdapi/v1/extra-single-image": Example(
        {"image": PICTURE, "upscaler_1": "Lanczos", "upscaling_resize": 2},
        {"html_info": "<p>Postprocess upscale by: 2.0, Postprocess upscaler: Lanczos</p>", "image": PICTURE},
    ),
    "POST /sdapi/v1/extra-batch-images": Example(
        {"imageList": [{"data": PICTURE, "name": "a.png"}], "upscaler_1": "Lanczos", "upscaling_resize": 2},
        {
            "html_info": "<p>Postprocess upscale by: 2.0, Postprocess upscaler: Lanczos</p>",
            "images": [PICTURE],
        },
    ),
    "POST /sdapi/v1/png-info": Example(
        {"image": PICTURE},
        {"info": "a red circle\nSteps: 12, ...", "items": {}, "parameters": {"Prompt": "a red circle"}},
    ),
    "GET /sdapi/v1/progress": Example(
        answer={
            "progress": 0.42,
            "eta_relative": 0.9,
            "state": {
                "skipped": False,
                "interrupted": False,
                "job": JOB,
                "job_count": 1,
                "job_timestamp": "20261122221318",
                "job_no": 0,
                "sampling_step": 5,
                "sampling_steps": 12,
            },
            "current_image": "/9j/4AAQ...",
            "textinfo": "sample",
        }
    ),
    "GET /sdapi/v1/options": Example(answer={"sd_model_checkpoint": "builtin", "samples_format": "png"}),
    "POST /sdapi/v1/options": Example({"samples_format": "jpg", "jpeg_quality": 90}, None),
    "GET /sdapi/v1/samplers": Example(answer=[{"name": "Euler a", "aliases": ["k_euler_a"], "options": {}}]),
    "GET /sdapi/v1/memory": Example(
        answer={"ram": {"free": 24e9, "used": 4e8, "total": 25e9}, "cuda": {"error": "unavailable"}}
    ),
}
"""By method and path."""
