"""POST /txt2img and /img2img."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from darkroom.api.a1111.answers import GenerationAnswer
from darkroom.api.a1111.options import Options
from darkroom.api.a1111.requests import Generation, ImageToImage, TextToImage
from darkroom.api.a1111.samplers import parse_sampler
from darkroom.api.extra_args import NAME
from darkroom.api.names import SampleMethod
from darkroom.api.native import NativeRequest
from darkroom.api.result import GenerationResult
from darkroom.core.image_files import ImageFormat
from darkroom.server.extra_args import fields_of, take_extra_args
from darkroom.server.pictures import read_picture, write_picture
from darkroom.server.routes.a1111.canvas import Canvas, make_canvas
from darkroom.server.routes.a1111.info import make_info
from darkroom.server.routes.a1111.progress import API
from darkroom.server.routes.a1111.refusals import require_possible
from darkroom.server.routes.a1111.settings import Settings
from darkroom.server.service import Service

_FORMATS = {"jpg": ImageFormat.JPEG}

_NAMES = {
    "guidance": "distilled_cfg_scale",
    "batch_count": "batch_size",
    "sampling_method": "sampler_name",
    "strength": "denoising_strength",
}
"""What A1111 calls a field of GenerationRequest, where it is another name."""


def router(service: Service, settings: Settings) -> APIRouter:
    """The two routes."""
    routes = APIRouter()

    @routes.post("/txt2img", summary="Pictures of a prompt", response_model=GenerationAnswer)
    async def txt2img(body: TextToImage, http: Request) -> Response:
        """Waits for the pictures. A client that leaves cancels them."""
        return await _draw(body, None, http)

    @routes.post("/img2img", summary="Pictures of a prompt and a picture", response_model=GenerationAnswer)
    async def img2img(body: ImageToImage, http: Request) -> Response:
        """With a mask only its white part changes."""
        service.info()
        width, height = (body.width or service.defaults.width, body.height or service.defaults.height)
        canvas = await asyncio.to_thread(make_canvas, body, width, height)
        return await _draw(body, canvas, http)

    async def _draw(body: Generation, canvas: Canvas | None, http: Request) -> Response:
        service.info()  # a model that is not there yet is the first thing to say
        require_possible(body)
        prompt, extra = take_extra_args(body.prompt or "")
        options = settings.overridden(body.override_settings, "override_settings")
        options = with_output(options, extra)
        usual = service.info().method
        fields = await asyncio.to_thread(to_fields, body, prompt, extra, options, canvas, usual)
        request = service.request(_NAMES, **preview_fields(options, service) | fields)
        job = await service.submit(request, api=API, previews=options.live_previews_enable)
        result = await service.result_or_cancel(http, job)
        info = make_info(service.info(), settings, body, job, result).model_dump_json()

        def written() -> str:
            pictures = encode(result, canvas, options) if body.send_images is not False else []
            return GenerationAnswer(images=pictures, parameters=echo(body), info=info).model_dump_json()

        # in a thread, and by pydantic: Python's own writer is slow with pictures
        return Response(await asyncio.to_thread(written), media_type="application/json")

    return routes


def with_output(options: Options, extra: NativeRequest) -> Options:
    """The options with the form of the pictures that a native request asks for. Raises RequestError."""
    wishes = {
        "samples_format": extra.output_format,
        "jpeg_quality": extra.output_compression,
        "enable_pnginfo": extra.embed_image_metadata,
    }
    return options.changed(wishes, {}, NAME)


def preview_fields(options: Options, service: Service) -> dict[str, Any]:
    """The cheapest previews where the server's start says nothing else."""
    if not options.live_previews_enable:
        return {}
    return {
        "preview": service.defaults.preview.visible,
        "preview_interval": options.show_progress_every_n_steps,
    }


def to_fields(
    body: Generation,
    prompt: str,
    extra: NativeRequest,
    options: Options,
    canvas: Canvas | None,
    usual: SampleMethod,
) -> dict[str, Any]:
    """The fields of GenerationRequest that a request gives; not for the event loop's thread.

    extra: the native request in its prompt, which counts more. usual: the model's sampler.
    Raises RequestError for samplers that are not there and for unreadable pictures.
    """
    method, scheduler = parse_sampler(_sampler_name(body), body.scheduler)
    fields: dict[str, Any] = {
        "prompt": prompt,
        "negative_prompt": body.negative_prompt,
        "seed": -1 if body.seed is None else body.seed,
        "batch_count": (body.batch_size or 1) * (body.n_iter or 1),
        "steps": body.steps,
        "cfg_scale": body.cfg_scale,
        "guidance": body.distilled_cfg_scale,
        "width": body.width,
        "height": body.height,
        "clip_skip": body.clip_skip or options.CLIP_stop_at_last_layers or None,
        "sampling_method": method,
        "scheduler": scheduler,
        "eta": _eta(body, options, method or usual),
        "ref_images": tuple(
            read_picture(image, f"extra_images[{i}]") for i, image in enumerate(body.extra_images or ())
        ),
    }
    if canvas is not None:
        fields |= {
            "init_image": canvas.image,
            "mask_image": canvas.mask,
            "width": canvas.image.width,
            "height": canvas.image.height,
            "strength": None if body.denoising_strength is None else min(max(body.denoising_strength, 0), 1),
        }
    return {name: value for name, value in fields.items() if value is not None} | fields_of(extra)


def _sampler_name(body: Generation) -> str | None:
    return body.sampler_name or (body.sampler_index if isinstance(body.sampler_index, str) else None)


def _eta(body: Generation, options: Options, method: SampleMethod) -> float | None:
    if body.eta is not None:
        return body.eta
    return options.eta_ddim if method is SampleMethod.DDIM_TRAILING else options.eta_ancestral


def encode(result: GenerationResult, canvas: Canvas | None, options: Options) -> list[str]:
    """The pictures as base64 of files, put back into the picture that they belong to."""
    format = _FORMATS.get(options.samples_format) or ImageFormat(options.samples_format)
    encoded = []
    for image, text in zip(result.images, result.infotexts, strict=True):
        picture = canvas.finish(image) if canvas else image
        data = write_picture(picture, format, options.jpeg_quality, text if options.enable_pnginfo else "")
        encoded.append(base64.b64encode(data).decode("ascii"))
    return encoded


def echo(body: Generation) -> dict[str, Any]:
    """The request as A1111 repeats it: without its pictures, unless they are asked for.

    What JSON can bring in and not tell is changed: lone surrogates to question marks, NaN to null.
    """
    parameters = body.model_dump(exclude_unset=True)
    if isinstance(body, ImageToImage) and not body.include_init_images:
        parameters |= {"init_images": None, "mask": None}
    if "extra_images" in parameters:
        parameters["extra_images"] = None
    text = json.dumps(parameters, ensure_ascii=False).encode("utf-8", "replace").decode("utf-8")
    sound: dict[str, Any] = json.loads(text, parse_constant=lambda constant: None)
    return sound
