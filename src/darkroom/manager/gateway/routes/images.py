"""OpenAI's Images API over every model of the library."""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from darkroom.api.openai import (
    ErrorCode,
    FieldError,
    ImageEditRequest,
    ImageGenerateRequest,
    ImageReference,
    ImageRequest,
    ImageVariationRequest,
    parse,
)
from darkroom.manager.gateway import foreign
from darkroom.manager.gateway.bodies import Body, check_picture, fetch_links, read_body
from darkroom.manager.gateway.forward import FromSidecar, WhileConnected, passed_headers
from darkroom.manager.gateway.sidecars import Call
from darkroom.manager.gateway.translate import Pictures
from darkroom.manager.service import Manager

_OWN = ("model", "keep_alive")
_PICTURE_FIELDS = ("image", "mask", "markup")


def router(manager: Manager) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/v1/images", tags=["images"])

    async def serve(request: Request, model: type[ImageRequest], path: str) -> Response:
        body = await read_body(request, manager.config)
        if model is ImageEditRequest and body.files is None:
            body.fields = await fetch_links(body.fields, manager.config)
        asked = parse(model, _without_files(body)).request
        name = await manager.resolve(asked.model)
        request.state.model = name
        keep_alive = manager.keep_alive(body.fields.get("keep_alive"))
        for own in _OWN:
            body.fields.pop(own, None)
        if not await manager.is_darkroom(name):
            order = foreign.Order(
                asked, await read_pictures(asked, body, manager), takes_references(manager, name)
            )
            async with WhileConnected(request.receive, manager.config.cancel_on_disconnect):
                return await foreign.draw(manager.sidecars, name, order, keep_alive)
        call = Call("POST", path, body, headers=passed_headers(request))
        if asked.response_format == "url" and not getattr(asked, "stream", False):
            async with WhileConnected(request.receive, manager.config.cancel_on_disconnect):
                return await _with_links(manager, name, call, keep_alive, str(request.base_url))
        return FromSidecar(
            manager.sidecars,
            name,
            call,
            keep_alive=keep_alive,
            cancel_on_disconnect=manager.config.cancel_on_disconnect,
        )

    @routes.post("/generations", summary="Draw pictures", openapi_extra=_schema(ImageGenerateRequest))
    async def generations(request: Request) -> Response:
        """OpenAI's request, streams included, with our settings beside its fields and `keep_alive`."""
        return await serve(request, ImageGenerateRequest, "/v1/images/generations")

    @routes.post("/edits", summary="Change pictures", openapi_extra=_schema(ImageEditRequest, form=True))
    async def edits(request: Request) -> Response:
        """A form with files, or JSON with data URLs (and links, where the manager may fetch)."""
        return await serve(request, ImageEditRequest, "/v1/images/edits")

    @routes.post(
        "/variations", summary="Vary a picture", openapi_extra=_schema(ImageVariationRequest, form=True)
    )
    async def variations(request: Request) -> Response:
        """Retired by OpenAI; here it is image-to-image with a new seed."""
        return await serve(request, ImageVariationRequest, "/v1/images/variations")

    @routes.get("/files/{name}", summary="A picture that an answer named by URL")
    async def file(name: str, exp: str = "", sig: str = "") -> FileResponse:
        """Works without a key, for an hour."""
        path, kind = manager.files.find(name, exp, sig)
        return FileResponse(path, media_type=kind, headers={"Content-Security-Policy": "sandbox"})

    return routes


def _schema(model: type[ImageRequest], *, form: bool = False) -> dict[str, Any]:
    """The body for the OpenAPI document: it is read by hand, as forms and JSON mean the same here."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    definitions = schema.pop("$defs", {})
    for name, part in definitions.items():
        schema = _inlined(schema, f"#/components/schemas/{name}", part)
    kinds = ["application/json", "multipart/form-data"] if form else ["application/json"]
    return {"requestBody": {"required": True, "content": {kind: {"schema": schema} for kind in kinds}}}


def _inlined(schema: Any, reference: str, part: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(schema, dict):
        if schema.get("$ref") == reference:
            return part
        return {name: _inlined(value, reference, part) for name, value in schema.items()}
    return [_inlined(item, reference, part) for item in schema] if isinstance(schema, list) else schema


def _without_files(body: Body) -> dict[str, Any]:
    """The fields, for validation: a form's pictures are no fields, and neither is `keep_alive`."""
    return {
        name: value
        for name, value in body.fields.items()
        if name != "keep_alive" and (body.files is None or name.partition("[")[0] not in _PICTURE_FIELDS)
    }


def takes_references(manager: Manager, name: str) -> bool:
    """Whether the model edits by looking at pictures, as far as its kind tells."""
    model = manager.library.get(name)
    kind = f"{model.family} {model.identity.variant}".lower()
    return "edit" in kind or "kontext" in kind


async def read_pictures(request: ImageRequest, body: Body | None, manager: Manager) -> Pictures:
    """A request's pictures as bytes, from files or data URLs."""
    found: dict[str, list[bytes]] = {name: [] for name in _PICTURE_FIELDS}
    for name, (_, file, _) in (body and body.files) or ():
        file.seek(0)
        found.setdefault(name.partition("[")[0], []).append(await asyncio.to_thread(file.read))
    if isinstance(request, ImageEditRequest):
        found["image"] += [_decoded(picture, "image") for picture in request.input_images]
        found["mask"] += [_decoded(request.mask, "mask")] if request.mask else []
        found["markup"] += [_decoded(request.markup, "markup")] if request.markup else []
    for name, data in found.items():
        for each in data:
            await asyncio.to_thread(check_bytes, name, each, manager.config.max_pixels)
    return Pictures(tuple(found["image"]), next(iter(found["mask"]), None), next(iter(found["markup"]), None))


def check_bytes(name: str, data: bytes, max_pixels: int) -> None:
    """`check_picture` of bytes."""
    check_picture(name, io.BytesIO(data), max_pixels)


def _decoded(picture: ImageReference, name: str) -> bytes:
    text = picture.image_url or ""
    if not text.startswith("data:") or ";base64," not in text[:200]:
        raise FieldError(name, "no data URL; send data:image/png;base64,...", ErrorCode.INVALID_IMAGE)
    try:
        return base64.b64decode(text.partition(";base64,")[2], validate=True)
    except (binascii.Error, ValueError):
        raise FieldError(name, "no base64 in its data URL", ErrorCode.INVALID_IMAGE) from None


async def _with_links(
    manager: Manager, name: str, call: Call, keep_alive: float | None, base: str
) -> Response:
    """The sidecar's pictures as links to this manager, which outlive the sidecar."""
    assert call.body is not None
    call.body.fields["response_format"] = "b64_json"
    answer = await manager.sidecars.ask(name, call, keep_alive)
    document = answer.json()
    base = (manager.config.public_url or base).rstrip("/")
    kind = str(document.get("output_format") or "png")
    await asyncio.to_thread(manager.files.prune)
    for picture in document["data"]:
        data = base64.b64decode(picture.pop("b64_json"))
        picture["url"] = base + await asyncio.to_thread(manager.files.add, data, kind)
    return JSONResponse(document)
