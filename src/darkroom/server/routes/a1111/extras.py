"""Upscaling of finished pictures, and what pictures say about themselves."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter
from PIL import Image, ImageOps

from darkroom.api.a1111.answers import ExtraBatchAnswer, ExtraSingleAnswer, PngInfoAnswer
from darkroom.api.a1111.requests import ExtraBatchImages, Extras, ExtraSingleImage, PngInfo
from darkroom.api.errors import RequestError
from darkroom.core.containers import parameters_of, read_container
from darkroom.core.image_files import ImageFormat
from darkroom.core.infotext import read_infotext
from darkroom.server.pictures import MAX_MEGAPIXELS, checked_bytes, read_picture, write_picture
from darkroom.server.routes.a1111.refusals import require_possible_extras

NO_UPSCALER = "None"

FILTERS = {"Lanczos": Image.Resampling.LANCZOS, "Nearest": Image.Resampling.NEAREST}
"""The upscalers that there are besides none."""


def router() -> APIRouter:
    """POST /extra-single-image, /extra-batch-images and /png-info."""
    routes = APIRouter()

    @routes.post("/extra-single-image", summary="Enlarge a picture")
    async def extra_single_image(body: ExtraSingleImage) -> ExtraSingleAnswer:
        """With Lanczos or Nearest; there is no ESRGAN model."""
        require_possible_extras(body)
        image = await asyncio.to_thread(upscaled_file, body.image, "image", body)
        return ExtraSingleAnswer(html_info=html_info(body), image=image)

    @routes.post("/extra-batch-images", summary="Enlarge several pictures")
    async def extra_batch_images(body: ExtraBatchImages) -> ExtraBatchAnswer:
        """Each as by /extra-single-image."""
        require_possible_extras(body)
        images = [
            await asyncio.to_thread(upscaled_file, file.data, f"imageList[{i}]", body)
            for i, file in enumerate(body.imageList)
        ]
        return ExtraBatchAnswer(html_info=html_info(body), images=images)

    @routes.post("/png-info", summary="How a picture was made")
    async def png_info(body: PngInfo) -> PngInfoAnswer:
        """Read from PNG text, from EXIF and XMP of JPEG and WebP."""
        return await asyncio.to_thread(picture_info, body.image)

    return routes


def upscaled_file(data: str, subject: str, request: Extras) -> str:
    """The picture, enlarged, as base64 of a PNG that keeps its `parameters` text."""
    content = checked_bytes(data, subject)
    image = upscaled(read_picture(content, subject), request)
    _, entries = read_container(content, subject)
    text = parameters_of(entries) or ""
    return base64.b64encode(write_picture(image, ImageFormat.PNG, infotext=text)).decode("ascii")


def upscaled(image: Image.Image, request: Extras) -> Image.Image:
    """The picture enlarged by the first upscaler, mixed with the second's as far as that is visible.

    Raises RequestError for upscalers that are not there and for results above 64 megapixels.
    """
    first, second = _filter(request.upscaler_1, "upscaler_1"), _filter(request.upscaler_2, "upscaler_2")
    if first is None:
        return image
    resize = _resize(image.size, request)
    enlarged = resize(image, first)
    if second is not None and (share := request.extras_upscaler_2_visibility):
        return Image.blend(enlarged, resize(image, second), share)
    return enlarged


def _filter(name: str | None, field: str) -> Image.Resampling | None:
    if not name or name == NO_UPSCALER:
        return None
    found = next((value for known, value in FILTERS.items() if known.lower() == name.lower()), None)
    if found is None:
        known = ", ".join((NO_UPSCALER, *FILTERS))
        raise RequestError(
            f"{field}: no upscaler is called '{name}'; there are {known} (no ESRGAN models yet)"
        )
    return found


def _resize(size: tuple[int, int], request: Extras) -> Callable[[Image.Image, Image.Resampling], Image.Image]:
    """How a picture of this size comes to the one asked for. Raises RequestError above 64 megapixels."""
    if request.resize_mode == 1:
        target = (request.upscaling_resize_w or 512, request.upscaling_resize_h or 512)
        _require_room(*target)
        if request.upscaling_crop is False:
            return lambda image, method: ImageOps.contain(image, target, method)
        return lambda image, method: ImageOps.fit(image, target, method)
    factor = request.upscaling_resize or 2
    width, height = (max(1, round(side * factor)) for side in size)
    _require_room(width, height)
    return lambda image, method: image.resize((width, height), method)


def _require_room(width: int, height: int) -> None:
    if width * height > MAX_MEGAPIXELS * 1_000_000:
        raise RequestError(
            f"size: {width}x{height} is too large; at most {MAX_MEGAPIXELS} megapixels are made"
        )


def html_info(request: Extras) -> str:
    """What was done, for people."""
    first = request.upscaler_1 or NO_UPSCALER
    if first == NO_UPSCALER:
        return "<p>Postprocess: none</p>"
    target = f"{request.upscaling_resize_w}x{request.upscaling_resize_h}"
    by = f"to: {target}" if request.resize_mode == 1 else f"by: {request.upscaling_resize}"
    return f"<p>Postprocess upscale {by}, Postprocess upscaler: {first.title()}</p>"


def picture_info(data: str) -> PngInfoAnswer:
    """The `parameters` text of a picture, taken apart, and its other texts."""
    _, entries = read_container(checked_bytes(data, "image"), "image: the picture")
    text = parameters_of(entries) or ""
    items: dict[str, Any] = {}
    for entry in entries:
        found = entry.get("data", {})
        if "text" in found:
            items[str(found.get("keyword", found.get("label", "comment")))] = found["text"]
        elif entry["metadata_like"] and found:
            items[str(entry.get("name", entry.get("marker")))] = found
    items.pop("parameters", None)
    return PngInfoAnswer(info=text, items=items, parameters=parameters(text))


def parameters(text: str) -> dict[str, str]:
    """A `parameters` text as A1111 takes it apart: `Size` also as `Size-1` and `Size-2`."""
    if not text:
        return {}
    read = read_infotext(text)
    width, _, height = read.settings.get("Size", "").partition("x")
    sizes = {"Size-1": width, "Size-2": height} if height else {}
    return {"Prompt": read.prompt, "Negative prompt": read.negative_prompt, **read.settings, **sizes}
