"""From a request of OpenAI's to its answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from darkroom.api.extra_args import NAME
from darkroom.api.native import NAMES, NativeRequest
from darkroom.api.openai import (
    ErrorCode,
    FieldError,
    ImageEditRequest,
    ImageRequest,
    ModelFacts,
    Parsed,
    Quality,
    to_generation,
)
from darkroom.api.openai.requests import MOST_IMAGES, DrawRequest
from darkroom.api.openai.responses import Format
from darkroom.api.request import GenerationRequest
from darkroom.server.errors import ApiError, InvalidField
from darkroom.server.extra_args import fields_of, take_extra_args
from darkroom.server.files import SignedFiles
from darkroom.server.model import ModelInfo
from darkroom.server.requests import refusal
from darkroom.server.routes.openai.answers import Wishes, images_response
from darkroom.server.routes.openai.bodies import Inputs, invalid
from darkroom.server.routes.openai.stream import PictureStream, preview_interval
from darkroom.server.service import Service

_FORMATS: dict[str, Format] = {"png": "png", "jpeg": "jpeg", "webp": "webp"}


class Images:
    """Draws OpenAI's requests."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.files = SignedFiles()

    async def draw(self, http: Request, parsed: Parsed[Any], inputs: Inputs) -> Response:
        """The answer to a request. Raises ApiError, RequestError and what drawing raises."""
        begun = time.perf_counter()
        request: ImageRequest = parsed.request
        info = self.service.info()
        prompt, extra = take_extra_args(request.prompt if isinstance(request, DrawRequest) else "")
        if isinstance(request, DrawRequest):
            request = request.model_copy(update={"prompt": prompt})
        generation = self._generation(request, inputs, info)
        generation = _overridden(generation, await asyncio.to_thread(fields_of, extra))
        ignored = (*parsed.ignored, *_unseen(inputs, generation, request))
        wishes = self._wishes(request, generation, extra)
        is_stream = isinstance(request, DrawRequest) and bool(request.stream)
        if wishes.partials:
            generation = _with_previews(generation, wishes.partials, info)
        job = await self.service.submit(generation, api="openai", previews=wishes.partials > 0)
        headers = {"openai-version": "2020-10-01"}
        if ignored:
            headers["x-ignored-params"] = _header(ignored)
        if is_stream:
            is_edit = isinstance(request, ImageEditRequest)
            return PictureStream(self.service, job, wishes, is_edit=is_edit, headers=headers)
        result = await self.service.result_or_cancel(http, job)
        url_of = self._url_of(http, request, wishes)
        answer = await asyncio.to_thread(images_response, result, job.outline, wishes, url_of)
        body = await asyncio.to_thread(answer.model_dump_json, exclude_none=True)
        headers["openai-processing-ms"] = str(round((time.perf_counter() - begun) * 1000))
        return Response(body, media_type="application/json", headers=headers)

    def _generation(self, request: ImageRequest, inputs: Inputs, info: ModelInfo) -> GenerationRequest:
        facts = ModelFacts(
            width=info.width,
            height=info.height,
            steps=info.steps,
            size_multiple=info.size_multiple,
            smallest=info.min_side,
            largest=info.max_side,
            takes_references=_takes_references(request, info),
        )
        first = inputs.images[0].size if inputs.images else None
        try:
            generation = to_generation(request, facts, self.service.defaults, first_image=first)
        except FieldError as error:
            raise invalid(error) from None
        return _with_inputs(generation, request, inputs, info)

    def _wishes(self, request: ImageRequest, generation: GenerationRequest, extra: NativeRequest) -> Wishes:
        texts = [text for text in (generation.prompt, generation.negative_prompt) if text]
        text_tokens = sum(self.service.tokens(text) for text in texts)
        is_told = extra.embed_image_metadata
        wishes = Wishes(
            who=request.who,
            text_tokens=text_tokens,
            with_infotext=self.service.embeds_metadata if is_told is None else is_told,
        )
        if not isinstance(request, DrawRequest):
            return wishes
        compression = 100 if request.output_compression is None else request.output_compression
        return replace(
            wishes,
            format=_format(extra) or request.written,
            compression=compression if extra.output_compression is None else _compression(extra),
            level=(request.quality or Quality.AUTO).level,
            partials=(request.partial_images or 0) if request.stream else 0,
        )

    def _url_of(self, http: Request, request: ImageRequest, wishes: Wishes) -> Callable[[bytes], str] | None:
        if request.response_format != "url":
            return None
        server = str(http.base_url).rstrip("/")
        return lambda file: server + self.files.put(file, wishes.format)


def _takes_references(request: ImageRequest, info: ModelInfo) -> bool:
    """Whether an edit's pictures are shown to the model. Who names a strength wants image-to-image."""
    return (
        isinstance(request, ImageEditRequest)
        and info.takes_references
        and not info.inpaints
        and request.strength is None
    )


def _with_inputs(
    generation: GenerationRequest, request: ImageRequest, inputs: Inputs, info: ModelInfo
) -> GenerationRequest:
    """The request with its pictures, as references where the model looks at such, else to start from."""
    if not inputs.images:
        return generation
    changes: dict[str, Any] = {}
    is_redrawn = info.inpaints and request.strength is None and isinstance(request, ImageEditRequest)
    if _takes_references(request, info):
        changes["ref_images"] = inputs.images
        is_redrawn = inputs.mask is not None
    if inputs.mask is not None or not changes:
        changes |= {"init_image": inputs.images[0], "mask_image": inputs.mask}
    if is_redrawn:  # nothing of what lies under the mask is to show through
        changes["strength"] = 1.0
    return generation.model_copy(update=changes)


def _overridden(generation: GenerationRequest, fields: dict[str, Any]) -> GenerationRequest:
    """The request with what the prompt's extra arguments say. Raises InvalidField."""
    if not fields:
        return generation
    given = {name: getattr(generation, name) for name in generation.model_fields_set}
    try:
        generation = GenerationRequest(**(given | fields))
    except ValidationError as error:
        raise refusal(error, NAMES) from None
    if generation.batch_count > MOST_IMAGES:
        raise InvalidField(
            f"batch_count: {generation.batch_count} is too many; at most {MOST_IMAGES}",
            param="prompt",
            code=ErrorCode.INTEGER_TOO_LARGE,
        )
    return generation


def _format(extra: NativeRequest) -> Format | None:
    if not extra.output_format:
        return None
    if extra.output_format not in _FORMATS:
        problem = f"output_format: '{extra.output_format}' cannot be written; expected png, jpeg or webp"
        raise InvalidField(f"invalid {NAME}: {problem}", param="prompt")
    return _FORMATS[extra.output_format]


def _compression(extra: NativeRequest) -> int:
    compression = extra.output_compression or 0
    if not 0 <= compression <= 100:
        problem = f"output_compression: {compression} is out of range; expected 0 to 100"
        raise InvalidField(f"invalid {NAME}: {problem}", param="prompt")
    return compression


def _unseen(inputs: Inputs, generation: GenerationRequest, request: ImageRequest) -> list[str]:
    """The pictures that this model does not look at. Raises with `strict`."""
    unseen = [] if generation.ref_images else [f"image[{i}]" for i in range(1, len(inputs.images))]
    if unseen and request.strict:
        raise ApiError(
            f"{unseen[0]}: this model starts from one picture",
            code=ErrorCode.UNSUPPORTED_PARAMETER,
            param="image",
        )
    return unseen


def _with_previews(generation: GenerationRequest, partials: int, info: ModelInfo) -> GenerationRequest:
    """The request with previews as often as needed, and of the server's own kind if it has one."""
    steps = len(generation.sigmas) - 1 if generation.sigmas else generation.steps or info.steps
    if generation.init_image is not None:
        steps = int(steps * generation.strength)
    interval = preview_interval(steps, partials)
    return generation.model_copy(update={"preview": generation.preview.visible, "preview_interval": interval})


def _header(names: Iterable[str]) -> str:
    """Names as a header's value, whatever a client may have called them."""
    visible = ("".join(c if "!" <= c <= "~" else "?" for c in name) or "?" for name in names)
    return ", ".join(visible)[:1000].rstrip(", ")
