"""Bodies of requests on their way through: read, made harmless, written again for a sidecar."""

from __future__ import annotations

import base64
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from PIL import Image
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from darkroom.api.extra_args import neutralize
from darkroom.api.openai.errors import ErrorCode
from darkroom.manager.config import ManagerConfig
from darkroom.manager.gateway.errors import GatewayError
from darkroom.manager.gateway.fetch import fetch_picture

_MOST_FILES = 18  # sixteen pictures, a mask, a markup
_MOST_FIELDS = 200
_LONGEST_FIELD = 64 * 1024**2  # a data URL is a field
_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF")
_LINK = re.compile(r"\s*https?://", re.IGNORECASE)


@dataclass
class Body:
    """A JSON object, or a form with files: `files` are httpx2's parts, None for JSON."""

    fields: dict[str, Any]
    files: list[tuple[str, tuple[str, BinaryIO, str]]] | None = None
    open_files: list[UploadFile] = field(default_factory=list)

    def as_request(self) -> dict[str, Any]:
        """The arguments for httpx2 that send it; files from their start, however often."""
        if self.files is None:
            return {
                "content": json.dumps(self.fields, separators=(",", ":")).encode(),
                "headers": {"Content-Type": "application/json"},
            }
        for _, (_, file, _) in self.files:
            file.seek(0)
        return {"data": self.fields, "files": self.files or None}

    async def close(self) -> None:
        """Lets go of files on disk."""
        for file in self.open_files:
            await file.close()


async def read_body(request: Request, config: ManagerConfig) -> Body:
    """The request's body, with prompts that carry no settings. Errors: GatewayError 400, 413, 415."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
        body = await _read_form(request, config)
    elif kind in ("", "application/json") or kind.endswith("+json"):
        body = Body(parse_object(await request.body()))
    else:
        raise GatewayError(
            f"Content-Type '{kind}': not read here; send application/json or multipart/form-data",
            status=415,
            code=ErrorCode.UNSUPPORTED_MEDIA_TYPE,
        )
    body.fields = harmless(body.fields)
    return body


def parse_object(data: bytes) -> dict[str, Any]:
    """The JSON object. Errors: GatewayError 400."""
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise GatewayError(
            f"body: not JSON: {error}; send a JSON object", code=ErrorCode.INVALID_JSON
        ) from None
    if not isinstance(fields, dict):
        raise GatewayError("body: not a JSON object; send one", code=ErrorCode.INVALID_JSON)
    return fields


def harmless(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields, with every prompt in them neutralized: no sidecar takes settings from their text."""
    return {name: _harmless(value, "prompt" in name.lower()) for name, value in fields.items()}


def _harmless(value: Any, is_prompt: bool) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, str):
        return neutralize(value) if is_prompt else value
    if isinstance(value, list):
        return [_harmless(item, is_prompt) for item in value]
    if isinstance(value, dict):
        return {name: _harmless(item, is_prompt or "prompt" in name.lower()) for name, item in value.items()}
    return value


async def _read_form(request: Request, config: ManagerConfig) -> Body:
    try:
        form = await request.form(
            max_files=_MOST_FILES, max_fields=_MOST_FIELDS, max_part_size=_LONGEST_FIELD
        )
    except HTTPException as error:
        raise GatewayError(f"body: {error.detail}") from None
    body = Body({}, [])
    assert body.files is not None
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            body.open_files.append(value)
            _check_upload(name, value, config)
            kind = value.content_type or "application/octet-stream"
            body.files.append((name, (value.filename or "file", value.file, kind)))
        elif name in body.fields:
            before = body.fields[name]
            body.fields[name] = [*(before if isinstance(before, list) else [before]), value]
        else:
            body.fields[name] = value
    return body


def _check_upload(name: str, upload: UploadFile, config: ManagerConfig) -> None:
    """Size, kind and pixels, from the first bytes: nothing is decoded."""
    if (upload.size or 0) > config.max_upload:
        raise GatewayError(
            f"{name}: {upload.size} bytes; at most {config.max_upload} are taken",
            status=413,
            code=ErrorCode.TOO_LARGE,
            param=name,
        )
    check_picture(name, upload.file, config.max_pixels)


def check_picture(name: str, file: BinaryIO, max_pixels: int) -> None:
    """Errors: GatewayError for what is no PNG, JPEG or WebP by its first bytes, or has too many pixels."""
    start = file.read(12)
    file.seek(0)
    try:
        if not start.startswith(_MAGIC):
            raise ValueError
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            width, height = Image.open(file, formats=("PNG", "JPEG", "WEBP")).size
    except Image.DecompressionBombError:
        width = height = max_pixels
    except (OSError, ValueError, SyntaxError, EOFError):
        raise GatewayError(
            f"{name}: not a PNG, JPEG or WebP picture; send one",
            code=ErrorCode.INVALID_IMAGE,
            param=name,
        ) from None
    finally:
        file.seek(0)
    if width * height > max_pixels:
        raise GatewayError(
            f"{name}: more than {max_pixels} pixels; send a smaller picture",
            code=ErrorCode.INVALID_IMAGE,
            param=name,
        )


async def fetch_links(fields: dict[str, Any], config: ManagerConfig) -> dict[str, Any]:
    """An edit's JSON body with the pictures that it names by URL inside it. Errors: RequestError."""
    given = dict(fields)
    for name in ("images", "image", "mask", "markup"):
        value = given.get(name)
        if isinstance(value, list):
            given[name] = [await _inline(item, f"{name}[{i}]", config) for i, item in enumerate(value[:16])]
            given[name] += value[16:]
        elif value:
            given[name] = await _inline(value, name, config)
    return given


async def _inline(value: Any, subject: str, config: ManagerConfig) -> Any:  # noqa: ANN401 - JSON
    """`value`, or the same reference with a data URL where it was a link."""
    if isinstance(value, str) and _LINK.match(value):
        data = await fetch_picture(value.strip(), subject, config)
        return f"data:application/octet-stream;base64,{base64.b64encode(data).decode()}"
    if isinstance(value, dict):
        for key in ("image_url", "url"):
            if key in value:
                return {**value, key: await _inline(value[key], subject, config)}
    return value
