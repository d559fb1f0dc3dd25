"""The bodies of OpenAI's image requests: JSON, or a form with pictures as files."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from PIL import Image, ImageOps
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from darkroom.api.errors import RequestError
from darkroom.api.openai import (
    ErrorCode,
    FieldError,
    ImageEditRequest,
    ImageReference,
    ImageRequest,
    Parsed,
    parse,
)
from darkroom.api.openai.requests import MOST_INPUTS
from darkroom.server.errors import ApiError, InvalidField
from darkroom.server.pictures import open_picture, read_picture

R = TypeVar("R", bound=ImageRequest)

_INDEX = re.compile(r"\[\d*\]$")
_PICTURES = ("image", "mask", "markup")
_MOST_FIELDS = 200
_LONGEST_FIELD = 1 << 20

PictureData = bytes | str
"""A picture's file, or its base64 with or without `data:` before it."""


@dataclass
class Body:
    """A body taken apart. files: pictures by field."""

    fields: dict[str, Any]
    files: dict[str, list[PictureData]] = field(default_factory=dict)


@dataclass(frozen=True)
class Inputs:
    """The pictures of an edit, decoded: RGB, the mask in greys and white where the picture is drawn anew."""

    images: tuple[Image.Image, ...] = ()
    mask: Image.Image | None = None


async def read_body(request: Request) -> Body:
    """JSON or a form, as its content type says. Raises ApiError for what is neither."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
        return await _read_form(request)
    if kind and kind != "application/json" and not kind.endswith("+json"):
        raise ApiError(
            f"content-type: {kind} cannot be read; expected application/json or multipart/form-data",
            status=415,
            code=ErrorCode.UNSUPPORTED_MEDIA_TYPE,
        )
    return Body(await read_json(request))


async def read_json(request: Request) -> dict[str, Any]:
    """The JSON object of a body. Raises ApiError."""
    body = await request.body()
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        problem = "is empty" if not body.strip() else f"is no JSON ({error})"
        raise ApiError(f"body: {problem}; expected a JSON object", code=ErrorCode.INVALID_JSON) from None
    if not isinstance(value, dict):
        raise ApiError(f"body: a {type(value).__name__}; expected a JSON object", code=ErrorCode.INVALID_JSON)
    return value


async def _read_form(request: Request) -> Body:
    try:
        async with request.form(
            max_files=MOST_INPUTS + 2, max_fields=_MOST_FIELDS, max_part_size=_LONGEST_FIELD
        ) as form:
            return await _sort(form)
    except HTTPException as error:
        raise ApiError(f"body: {error.detail}", code=ErrorCode.INVALID_VALUE) from None


async def _sort(form: FormData) -> Body:
    """Fields and files; `image[]`, which SDKs write for lists, is `image`."""
    body = Body({})
    for key, value in form.multi_items():
        name = _INDEX.sub("", key)
        if isinstance(value, UploadFile):
            if name not in _PICTURES:
                raise InvalidField(f"{key}: is no field for a file", param=key)
            body.files.setdefault(name, []).append(await value.read())
        elif name in _PICTURES:
            if value:
                body.files.setdefault(name, []).append(value)
        elif name != key:
            body.fields.setdefault(name, []).append(value)
        else:
            body.fields[name] = value
    return body


def parse_body(model: type[R], body: Body) -> Parsed[R]:
    """The request of a body; see `parse`. Raises InvalidField."""
    try:
        return parse(model, body.fields)
    except FieldError as error:
        raise invalid(error) from None


def invalid(error: FieldError) -> InvalidField:
    """The same as an answer."""
    return InvalidField(str(error), param=error.param, code=error.code)


async def read_inputs(request: ImageRequest, body: Body) -> Inputs:
    """Decodes an edit's or a variation's pictures, in a thread. Raises InvalidField, RequestError."""
    files = dict(body.files)
    if isinstance(request, ImageEditRequest):
        references: Sequence[tuple[str, tuple[ImageReference, ...]]] = (
            ("image", request.input_images),
            ("mask", (request.mask,) if request.mask else ()),
            ("markup", (request.markup,) if request.markup else ()),
        )
        for name, pictures in references:
            if pictures:
                files[name] = [*files.get(name, ()), *(_content(picture, name) for picture in pictures)]
    images, masks, markups = (files.get(name, []) for name in _PICTURES)
    if not images:
        raise InvalidField("image: is needed and missing", param="image", code=ErrorCode.MISSING_PARAMETER)
    if len(images) > MOST_INPUTS:
        raise InvalidField(
            f"image: {len(images)} pictures; at most {MOST_INPUTS} are taken",
            param="image",
            code=ErrorCode.ARRAY_TOO_LONG,
        )
    if masks and markups:
        raise InvalidField("markup: cannot go together with a mask", param="markup")
    return await asyncio.to_thread(_decode, images, masks, markups)


def _content(picture: ImageReference, name: str) -> str:
    if picture.file_id:
        raise InvalidField(f"{name}.file_id: this server keeps no files; send a data URL", param=name)
    assert picture.image_url is not None, "a reference has one of the two"
    return picture.image_url


def _decode(
    images: Sequence[PictureData], masks: Sequence[PictureData], markups: Sequence[PictureData]
) -> Inputs:
    opened = [_read(data, f"image[{i}]" if len(images) > 1 else "image") for i, data in enumerate(images)]
    mask = None
    if masks:
        mask = _mask(_open(masks[-1], "mask"))
        _require_size("mask", mask, opened[0], ErrorCode.INVALID_MASK)
    if markups:
        markup = _open(markups[-1], "markup").convert("RGBA")
        _require_size("markup", markup, opened[0], ErrorCode.INVALID_IMAGE)
        opened[0] = Image.alpha_composite(opened[0].convert("RGBA"), markup).convert("RGB")
    return Inputs(tuple(opened), mask)


def _mask(picture: Image.Image) -> Image.Image:
    """White where the picture is drawn anew: where OpenAI's mask is transparent.

    A mask without an alpha channel is one in black and white as stable-diffusion.cpp takes it.
    """
    if not picture.has_transparency_data:
        return picture.convert("L")
    mask = ImageOps.invert(picture.convert("RGBA").getchannel("A"))
    if mask.getbbox() is None:
        raise InvalidField(
            "mask: nothing is transparent, so nothing would be edited; alpha 0 marks what is drawn anew",
            param="mask",
            code=ErrorCode.INVALID_MASK,
        )
    return mask


def _require_size(name: str, picture: Image.Image, first: Image.Image, code: ErrorCode) -> None:
    if picture.size != first.size:
        raise InvalidField(
            f"{name}: {picture.width}x{picture.height}; expected the first image's size, "
            f"{first.width}x{first.height}",
            param=name,
            code=code,
        )


def _read(data: PictureData, name: str) -> Image.Image:
    try:
        return read_picture(data, name)
    except RequestError as error:
        raise InvalidField(str(error), param=name, code=ErrorCode.INVALID_IMAGE) from None


def _open(data: PictureData, name: str) -> Image.Image:
    try:
        return open_picture(data, name)
    except RequestError as error:
        raise InvalidField(str(error), param=name, code=ErrorCode.INVALID_IMAGE) from None
