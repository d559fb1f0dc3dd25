"""stable-diffusion.cpp's own API, `/sdcpp/v1`: jobs that are asked for, watched and cancelled."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from starlette.responses import Response, StreamingResponse

from darkroom.api.events import PING, sse
from darkroom.api.jobs import JobEvent, JobImage, JobList, JobReceipt, JobResult, JobState, Refusal
from darkroom.api.names import PreviewMode
from darkroom.api.native import NAMES, NativeRequest
from darkroom.api.request import GenerationRequest
from darkroom.api.result import GenerationResult
from darkroom.core.image_files import ImageFormat
from darkroom.server.capabilities import MAX_BATCH_COUNT, capabilities
from darkroom.server.errors import ApiError, InvalidField
from darkroom.server.extra_args import fields_of
from darkroom.server.jobs import Job
from darkroom.server.painter import Encode
from darkroom.server.pictures import write_picture
from darkroom.server.pings import with_pings
from darkroom.server.service import Service

CANCEL_SECONDS = 2.0
"""How long the answer to a cancellation waits for the running step to end."""

_REFUSALS = {
    400: "The request cannot be as it is",
    401: "The key is missing or wrong",
    404: "No such job",
    410: "The job is over and forgotten",
    413: "The body is too large",
    429: "The queue is full",
    503: "The model is not there, or the server is about to end",
}


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/sdcpp/v1", tags=["native"])

    @routes.get(
        "/capabilities",
        summary="What the model can do, and the defaults of a request",
        responses=_refusals(401, 503),
    )
    async def get_capabilities() -> dict[str, Any]:
        return capabilities(service)

    @routes.post(
        "/img_gen",
        status_code=202,
        summary="Ask for pictures",
        response_model=JobReceipt,
        responses=_refusals(400, 401, 413, 429, 503),
    )
    async def img_gen(body: NativeRequest) -> JobReceipt:
        """Answers at once with the job's id; the job tells how far it is and, in the end, the pictures."""
        encode = _encoder(body, service)
        request = await asyncio.to_thread(generation_of, body, service)
        job = await service.submit(
            request,
            api="sdcpp",
            previews=request.preview is not PreviewMode.NONE,
            encode=encode,
            names=NAMES,
        )
        return _receipt(job)

    @routes.post(
        "/vid_gen",
        status_code=400,
        summary="Ask for a video: this server draws pictures",
        response_model=Refusal,
        responses=_refusals(401),
    )
    async def vid_gen() -> Response:
        raise ApiError("loaded model does not support vid_gen", code="unsupported_mode")

    @routes.get("/jobs", summary="All jobs that are remembered", responses=_refusals(401))
    async def jobs() -> JobList:
        return JobList(jobs=[job.state(pictures=False) for job in service.jobs()])

    @routes.get("/jobs/{id}", summary="One job", response_model=JobState, responses=_refusals(401, 404, 410))
    async def job(id: str) -> Response:
        return _state(service.job(id))

    @routes.post(
        "/jobs/{id}/cancel",
        summary="End a job",
        response_model=JobState,
        responses=_refusals(401, 404, 410),
    )
    async def cancel(id: str) -> Response:
        """A waiting job ends at once, a running one within a step; one that is over stays as it is."""
        job = service.job(id)
        service.cancel(job, "client")
        with suppress(TimeoutError):
            await asyncio.wait_for(job.finished(), CANCEL_SECONDS)
        return _state(job)

    @routes.get(
        "/jobs/{id}/events",
        summary="What happens to a job, as server-sent events",
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {}}}, **_refusals(400, 401, 404, 410)},
    )
    async def events(
        id: str,
        after: Annotated[int, Query(ge=0, description="the last event that was seen")] = 0,
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> StreamingResponse:
        """Everything from the first event on, or from the one after `Last-Event-ID`, to the end of the job.

        `queued`, `phase`, `step`, `preview`, `image`, and as the last one `completed`, `failed` or
        `cancelled`. The pictures are in the job.
        """
        if last_event_id is not None:
            after = _number(last_event_id)
        stream = _stream(service.events(service.job(id), after))
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)

    return routes


def generation_of(body: NativeRequest, service: Service) -> GenerationRequest:
    """The request for the engine, pictures decoded; not for the event loop's thread.

    Raises RequestError for what cannot be.
    """
    fields = fields_of(body)
    count = fields.get("batch_count", service.defaults.batch_count)
    if count > MAX_BATCH_COUNT:
        raise InvalidField(
            f"batch_count: {count} is too many; at most {MAX_BATCH_COUNT}", param="batch_count"
        )
    fields.setdefault("preview", service.defaults.preview.visible)  # a job is there to be looked at
    return service.request(NAMES, **fields)


def _encoder(body: NativeRequest, service: Service) -> Encode:
    """Writes pictures as the request wants them. Raises InvalidField."""
    formats = [format.value for format in ImageFormat]
    name = body.output_format or ImageFormat.PNG
    if name not in formats:
        raise InvalidField(
            f"invalid output_format, must be one of [{', '.join(formats)}]", param="output_format"
        )
    compression = 100 if body.output_compression is None else body.output_compression
    if not 0 <= compression <= 100:
        raise InvalidField(
            f"output_compression: {compression} is out of range; expected 0 to 100",
            param="output_compression",
        )
    is_told = body.embed_image_metadata
    with_text = service.embeds_metadata if is_told is None else is_told

    def encode(result: GenerationResult) -> JobResult:
        images = []
        for index, (image, seed, text) in enumerate(
            zip(result.images, result.seeds, result.infotexts, strict=True)
        ):
            file = write_picture(image, ImageFormat(name), compression, text if with_text else "")
            data = base64.b64encode(file).decode("ascii")
            images.append(JobImage(index=index, b64_json=data, seed=seed, infotext=text))
        return JobResult(output_format=name, images=images)

    return encode


def _receipt(job: Job) -> JobReceipt:
    url = f"/sdcpp/v1/jobs/{job.id}"
    return JobReceipt(
        id=job.id,
        status=job.status,
        created=int(job.created),
        poll_url=url,
        events_url=f"{url}/events",
        cancel_url=f"{url}/cancel",
        queue_position=job.position,
        seeds=list(job.outline.seeds),
    )


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of a route, for its documentation."""
    return {status: {"model": Refusal, "description": _REFUSALS[status]} for status in statuses}


def _state(job: Job) -> Response:
    """The job in JSON, written by pydantic: Python's own writer is slow with pictures."""
    return Response(job.state().model_dump_json(), media_type="application/json")


def _number(last_event_id: str) -> int:
    if not last_event_id.isascii() or not last_event_id.isdigit() or len(last_event_id) > 12:
        raise InvalidField(f"Last-Event-ID: {last_event_id!r:.40} is no event's id", param="Last-Event-ID")
    return int(last_event_id)


async def _stream(events: AsyncIterator[JobEvent]) -> AsyncIterator[bytes]:
    async for event in with_pings(events):
        yield PING if event is None else sse(event.type, event.data, event.id)
