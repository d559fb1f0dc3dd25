"""Durable jobs: asked for once, watched from anywhere, there again after a restart."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from darkroom.api.native import NativeRequest
from darkroom.api.openai import FieldError, ImageEditRequest, ImageGenerateRequest, parse
from darkroom.api.openai.parse import field_error
from darkroom.manager.gateway.bodies import fetch_links, harmless, read_body
from darkroom.manager.gateway.errors import not_found
from darkroom.manager.gateway.jobs import Job, Status
from darkroom.manager.gateway.routes.images import read_pictures, takes_references
from darkroom.manager.gateway.routes.job_streams import event_stream, job_of, owner_of
from darkroom.manager.gateway.translate import to_native
from darkroom.manager.service import Manager

_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
_PICTURES = ("image", "images", "mask", "markup")


def router(manager: Manager) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/v1/jobs", tags=["jobs"])

    @routes.post("", status_code=202, summary="Ask for pictures that may take their time")
    async def create(
        request: Request, idempotency_key: Annotated[str | None, Header(max_length=255)] = None
    ) -> JSONResponse:
        """`model`, `keep_alive`, and either `request`, sd-server's native body, or OpenAI's fields with ours.

        With `image`, `images` or `mask` (data URLs) it is an edit. The same Idempotency-Key with the same
        body gives the same job.
        """
        body = await read_body(request, manager.config)
        fields = body.fields
        model = await manager.resolve(fields.pop("model", None))
        keep_alive = fields.pop("keep_alive", None)
        manager.keep_alive(keep_alive)
        native = fields.get("request")
        if isinstance(native, dict):
            check_native(native := harmless(native))
        else:
            native = await _translated(fields, model)
        if keep_alive is not None:
            native["keep_alive"] = keep_alive
        job, new = add_job(manager, request, model, native, idempotency_key)
        answer = job.public(manager.jobs_store.position(job.id))
        return JSONResponse(answer, 202 if new else 200, headers={"Location": f"/v1/jobs/{job.id}"})

    async def _translated(fields: dict[str, Any], model: str) -> dict[str, Any]:
        kind = ImageEditRequest if any(fields.get(name) for name in _PICTURES) else ImageGenerateRequest
        fields = await fetch_links(fields, manager.config)
        asked = parse(kind, fields).request
        pictures = await read_pictures(asked, None, manager)
        return await asyncio.to_thread(
            to_native,
            asked,
            pictures,
            default_steps=usual_steps(manager, model),
            takes_references=takes_references(manager, model),
        )

    @routes.get("", summary="Jobs, the newest first")
    async def listed(
        request: Request,
        status: Status | None = None,
        before: str | None = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> dict[str, Any]:
        """Those of the request's key; `before`, the last id of a page, gives the next page."""
        jobs, more = manager.jobs_store.page(
            owner=owner_of(request), status=status, before=before, limit=limit
        )
        live = [manager.jobs.get(job.id) or job for job in jobs]
        data = [job.public(manager.jobs_store.position(job.id)) for job in live]
        return {"object": "list", "data": data, "has_more": more}

    @routes.get("/{id}", summary="One job")
    async def one(request: Request, id: str) -> dict[str, Any]:
        """How far it is; its preview while it is drawn; its pictures as links when it is done."""
        job = job_of(manager, request, id)
        preview = job.preview.model_dump() if job.preview else None
        return {**job.public(manager.jobs_store.position(job.id)), "preview": preview}

    @routes.get("/{id}/events", summary="What happens to a job, as server-sent events")
    async def events(request: Request, id: str, after: Annotated[int, Query(ge=0)] = 0) -> Response:
        """`queued`, `phase`, `step`, `preview`, `image`; the last one is completed, failed or cancelled.

        Last-Event-ID goes on where a broken connection ended.
        """
        return event_stream(manager, request, job_of(manager, request, id), after)

    @routes.get("/{id}/images/{index}", summary="A picture of a finished job")
    async def image(request: Request, id: str, index: int) -> FileResponse:
        """The file."""
        job = job_of(manager, request, id)
        if not 0 <= index < len(job.pictures):
            raise not_found(f"job '{id}': has {len(job.pictures)} pictures", "image_not_found")
        file = manager.jobs.results.file(job, job.pictures[index])
        if not file.is_file():
            raise not_found(f"job '{id}': its picture is gone", "image_not_found")
        return FileResponse(file, media_type=_TYPES.get(job.output_format, "application/octet-stream"))

    @routes.post("/{id}/retry", status_code=202, summary="Try a job again")
    async def retry(request: Request, id: str) -> dict[str, Any]:
        """One that failed, was cancelled, or was interrupted by the manager's end."""
        job = manager.jobs.retry(job_of(manager, request, id))
        return job.public(manager.jobs_store.position(job.id))

    @routes.delete("/{id}", summary="Cancel a job")
    async def cancel(request: Request, id: str) -> dict[str, Any]:
        """At once while it waits, within a step while it is drawn; one that has ended stays as it is."""
        job = job_of(manager, request, id)
        was_final = job.status.is_final
        job = await manager.jobs.cancel(job)
        if not was_final:
            manager.metrics.cancels.labels("client").inc()
        return job.public()

    return routes


def check_native(body: dict[str, Any]) -> None:
    """Errors: FieldError for a native body that no engine would take."""
    try:
        NativeRequest.model_validate(body)
    except ValidationError as error:
        raise field_error(error.errors(include_url=False)[0]) from None
    if not body.get("prompt"):
        raise FieldError("prompt", "is needed and missing", "missing_required_parameter")


def add_job(
    manager: Manager, request: Request, model: str, native: dict[str, Any], idempotency_key: str | None = None
) -> tuple[Job, bool]:
    """Queues a job for the request's key, and says whether it is new."""
    request.state.model = model
    key = getattr(request.state, "key", None)
    job = Job(
        id=f"job_{secrets.token_hex(12)}",
        model=model,
        request=native,
        owner=key.id if key else None,
        created=time.time(),
    )
    job.at.images = int(native.get("batch_count") or 1)
    return manager.jobs.add(job, idempotency_key, manager.config.max_queue)


def usual_steps(manager: Manager, model: str) -> int | None:
    """The steps that the model takes when nothing is said, if that is known without loading it."""
    if steps := manager.settings.get(model).steps:
        return steps
    setting = manager.pool.status(model).settings.get("steps")
    return int(setting.engaged) if setting and isinstance(setting.engaged, int) else None
