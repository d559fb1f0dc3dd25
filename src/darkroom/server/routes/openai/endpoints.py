"""OpenAI's Images API: generations, edits, variations and the one model's name."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from darkroom.api.openai import (
    ErrorCode,
    ErrorType,
    ImageEditRequest,
    ImageGenerateRequest,
    ImageVariationRequest,
    ModelList,
    ModelObject,
)
from darkroom.server.errors import ApiError
from darkroom.server.files import FOLDER
from darkroom.server.routes.openai.bodies import Inputs, parse_body, read_body, read_inputs
from darkroom.server.routes.openai.images import Images
from darkroom.server.routes.openai.schema import FILE, body, errors, responses
from darkroom.server.service import Service

UPSTREAM_NAME = "sd-cpp-local"
"""What stable-diffusion.cpp's server calls any model."""

_PICTURE_LIST = {"type": "array", "items": FILE, "minItems": 1, "maxItems": 16}
_DRAWING = (400, 401, 409, 413, 415, 429, 500, 503, 507)


def router(service: Service) -> APIRouter:
    """The routes under /v1."""
    routes = APIRouter(prefix="/v1", tags=["openai"])
    images = Images(service)
    started = int(time.time())

    @routes.get("/models", summary="The model, once it is loaded", responses=errors(401, 503))
    async def models() -> ModelList:
        """A list of one. 503 until the model is loaded."""
        return ModelList(data=[ModelObject(id=service.info().stem, created=started)])

    @routes.get("/models/{name:path}", summary="One model", responses=errors(401, 404, 503))
    async def model(name: str) -> ModelObject:
        """The model under its name, its file's name or stable-diffusion.cpp's `sd-cpp-local`."""
        info = service.info()
        if name not in (info.stem, info.name, UPSTREAM_NAME):
            raise ApiError(
                f"model: '{name}' is not here; this server has '{info.stem}'",
                status=404,
                code=ErrorCode.MODEL_NOT_FOUND,
                type=ErrorType.INVALID_REQUEST,
                param="model",
            )
        return ModelObject(id=info.stem, created=started)

    @routes.post(
        "/images/generations",
        summary="Draw pictures from a prompt",
        openapi_extra=body(ImageGenerateRequest),
        responses=responses(*_DRAWING, streams=True),
        response_model=None,
    )
    async def generations(request: Request) -> Response:
        """OpenAI's fields, and at the top level those of stable-diffusion.cpp. Any model name is served."""
        content = await read_body(request)
        return await images.draw(request, parse_body(ImageGenerateRequest, content), Inputs())

    @routes.post(
        "/images/edits",
        summary="Draw pictures from pictures and a prompt",
        openapi_extra=body(ImageEditRequest, files={"image": _PICTURE_LIST, "mask": FILE, "markup": FILE}),
        responses=responses(*_DRAWING, streams=True),
        response_model=None,
    )
    async def edits(request: Request) -> Response:
        """A form with `image`, `image[]` and `mask`, or JSON with `images` and `mask` as data URLs."""
        content = await read_body(request)
        parsed = parse_body(ImageEditRequest, content)
        return await images.draw(request, parsed, await read_inputs(parsed.request, content))

    @routes.post(
        "/images/variations",
        summary="Draw pictures that resemble a picture",
        openapi_extra=body(ImageVariationRequest, json=False, files={"image": FILE}),
        responses=responses(*_DRAWING),
        response_model=None,
        deprecated=True,
    )
    async def variations(request: Request) -> Response:
        """Image-to-image at a low strength, with a new seed each time. OpenAI has retired it."""
        content = await read_body(request)
        parsed = parse_body(ImageVariationRequest, content)
        return await images.draw(request, parsed, await read_inputs(parsed.request, content))

    @routes.get(
        FOLDER.removeprefix("/v1") + "/{name}",
        summary="A picture under the URL that an answer gave",
        responses={200: {"content": {"image/*": {"schema": FILE}}}, **errors(404, 410)},
        response_class=Response,
    )
    async def file(
        name: str, exp: Annotated[str, Query()] = "", sig: Annotated[str, Query()] = ""
    ) -> Response:
        """Asks for no key: the signature in the URL is one."""
        stored = images.files.get(name, exp, sig)
        headers = {"Cache-Control": "private, max-age=3600, immutable", "X-Content-Type-Options": "nosniff"}
        return Response(stored.data, media_type=stored.media_type, headers=headers)

    return routes
