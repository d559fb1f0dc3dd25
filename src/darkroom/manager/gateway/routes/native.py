"""stable-diffusion.cpp's own API, `/sdcpp/v1`, over every model: its jobs are this manager's durable jobs."""

from __future__ import annotations

import base64
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from darkroom.manager.gateway.bodies import read_body
from darkroom.manager.gateway.errors import GatewayError
from darkroom.manager.gateway.forward import WhileConnected, passed_headers
from darkroom.manager.gateway.jobs import Job, Status
from darkroom.manager.gateway.routes.job_streams import event_stream, job_of, owner_of
from darkroom.manager.gateway.routes.jobs import add_job, check_native
from darkroom.manager.gateway.sidecars import Call
from darkroom.manager.service import Manager


def router(manager: Manager) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/sdcpp/v1", tags=["native"])

    @routes.get("/capabilities", summary="What a model can do, and the defaults of a request")
    async def capabilities(request: Request, model: str | None = None) -> dict[str, Any]:
        """Of the model in the query or in X-Model, which is loaded for it; `models` names all."""
        name = await manager.resolve(model or request.headers.get("X-Model"))
        request.state.model = name
        async with WhileConnected(request.receive):
            call = Call("GET", "/sdcpp/v1/capabilities", headers=passed_headers(request))
            document = (await manager.sidecars.ask(name, call)).json()
        features = document.get("features")
        if isinstance(features, dict) and not features.get("cancel_generating"):
            features["cancel_generating"] = True  # by its process, which is started again
        return {**document, "models": [each.id for each in manager.library.models()]}

    @routes.post("/img_gen", status_code=202, summary="Ask for pictures")
    async def img_gen(request: Request, model: str | None = None) -> JSONResponse:
        """The native body, and `model` and `keep_alive` in it, or the model in the query or in X-Model."""
        fields = (await read_body(request, manager.config)).fields
        named = fields.pop("model", None) or model or request.headers.get("X-Model")
        name = await manager.resolve(named)
        keep_alive = fields.pop("keep_alive", None)
        manager.keep_alive(keep_alive)
        check_native(fields)
        if keep_alive is not None:
            fields["keep_alive"] = keep_alive
        job, _ = add_job(manager, request, name, fields)
        url = f"/sdcpp/v1/jobs/{job.id}"
        receipt = {
            "id": job.id,
            "kind": "img_gen",
            "status": "queued",
            "created": int(job.created),
            "poll_url": url,
            "events_url": f"{url}/events",
            "cancel_url": f"{url}/cancel",
            "queue_position": manager.jobs_store.position(job.id),
            "model": name,
        }
        return JSONResponse(receipt, 202)

    @routes.post("/vid_gen", status_code=400, summary="Ask for a video: these engines draw pictures")
    async def vid_gen() -> Response:
        raise GatewayError("loaded model does not support vid_gen", code="unsupported_mode")

    @routes.get("/jobs", summary="The newest jobs, without their pictures")
    async def jobs(request: Request) -> dict[str, Any]:
        found, _ = manager.jobs_store.page(owner=owner_of(request), status=None, before=None, limit=100)
        return {"jobs": [state_of(manager, manager.jobs.get(job.id) or job, False) for job in found]}

    @routes.get("/jobs/{id}", summary="One job")
    async def job(request: Request, id: str) -> dict[str, Any]:
        return state_of(manager, job_of(manager, request, id), True)

    @routes.post("/jobs/{id}/cancel", summary="End a job")
    async def cancel(request: Request, id: str) -> dict[str, Any]:
        """A waiting job ends at once, a running one within a step; one that is over stays as it is."""
        return state_of(manager, await manager.jobs.cancel(job_of(manager, request, id)), True)

    @routes.get("/jobs/{id}/events", summary="What happens to a job, as server-sent events")
    async def events(request: Request, id: str, after: Annotated[int, Query(ge=0)] = 0) -> Response:
        """As /v1/jobs/{id}/events."""
        return event_stream(manager, request, job_of(manager, request, id), after)

    return routes


def state_of(manager: Manager, job: Job, pictures: bool) -> dict[str, Any]:
    """The job in sd-server's words; `interrupted`, which it does not know, is a failure there."""
    status = Status.FAILED if job.status is Status.INTERRUPTED else job.status
    result = None
    if pictures and job.status is Status.COMPLETED:
        images = [
            {
                "index": index,
                "b64_json": base64.b64encode(manager.jobs.results.file(job, picture).read_bytes()).decode(),
                "seed": picture.seed,
                "infotext": picture.infotext,
            }
            for index, picture in enumerate(job.pictures)
        ]
        result = {"output_format": job.output_format, "images": images}
    return {
        "id": job.id,
        "kind": "img_gen",
        "model": job.model,
        "status": status.value,
        "created": int(job.created),
        "started": None if job.started is None else int(job.started),
        "completed": None if job.completed is None else int(job.completed),
        "queue_position": manager.jobs_store.position(job.id),
        **job.at.model_dump(),
        "seeds": [picture.seed for picture in job.pictures],
        "preview": job.preview.model_dump() if pictures and job.preview else None,
        "result": result,
        "error": job.error.model_dump(exclude_none=True) if job.error else None,
    }
