"""A1111's API, `/sdapi/v1`, over every model: what draws goes to the model's sidecar, lists load nothing."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import psutil
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from darkroom.api.a1111.answers import ProgressAnswer, ProgressState, SamplerItem, SchedulerItem
from darkroom.api.a1111.samplers import sampler_items, scheduler_items
from darkroom.manager.gateway.bodies import Body, parse_object, read_body
from darkroom.manager.gateway.forward import FromSidecar, WhileConnected, passed_headers
from darkroom.manager.gateway.job_runner import last_step
from darkroom.manager.gateway.sidecars import Call
from darkroom.manager.library.model import Model
from darkroom.manager.pool.pool import Lease
from darkroom.manager.service import Manager

_LISTS: dict[str, Any] = {
    "loras": [],
    "upscalers": [{"name": "None", "model_name": None, "model_path": None, "model_url": None, "scale": 4}],
    "latent-upscale-modes": [],
    "sd-vae": [],
    "hypernetworks": [],
    "face-restorers": [],
    "realesrgan-models": [],
    "prompt-styles": [],
    "script-info": [],
    "extensions": [],
    "embeddings": {"loaded": {}, "skipped": {}},
    "scripts": {"txt2img": [], "img2img": []},
    "cmd-flags": {},
}
"""What is answered while the model is not loaded."""


class Drawing:
    """A1111's requests that are under way, the newest last: progress and interrupt mean the newest."""

    def __init__(self) -> None:
        self.running: dict[int, tuple[str, Lease | None]] = {}
        self._number = 0

    def begin(self, model: str) -> int:
        """A request came."""
        self._number += 1
        self.running[self._number] = (model, None)
        return self._number

    @property
    def newest(self) -> tuple[str, Lease | None] | None:
        """Its model, and its sidecar as soon as it has one."""
        return next(reversed(self.running.values()), None)


async def checkpoint(manager: Manager, request: Request, named: object = None) -> str:
    """The model that a request means: by X-Model, by name or title, as chosen before, or the default."""
    name = request.headers.get("X-Model") or (named if isinstance(named, str) else "")
    name = (name or manager.checkpoint).partition(" [")[0]
    id = await manager.resolve(name or None)
    request.state.model = id
    return id


def router(manager: Manager) -> APIRouter:
    """All of its routes."""
    routes = APIRouter(prefix="/sdapi/v1", tags=["A1111"])
    drawing = Drawing()
    _add_drawing(routes, manager, drawing)
    _add_progress(routes, manager, drawing)
    _add_models(routes, manager)
    _add_lists(routes, manager)
    return routes


def _add_drawing(routes: APIRouter, manager: Manager, drawing: Drawing) -> None:
    async def draw(request: Request) -> Response:
        body = await read_body(request, manager.config)
        override = body.fields.get("override_settings")
        named = override.pop("sd_model_checkpoint", None) if isinstance(override, dict) else None
        model = await checkpoint(manager, request, named)
        keep_alive = manager.keep_alive(body.fields.pop("keep_alive", None))
        number = drawing.begin(model)

        def on_lease(lease: Lease) -> None:
            drawing.running[number] = (model, lease)

        def on_end() -> None:
            drawing.running.pop(number, None)

        return FromSidecar(
            manager.sidecars,
            model,
            Call("POST", request.url.path, body, headers=passed_headers(request)),
            keep_alive=keep_alive,
            cancel_on_disconnect=manager.config.cancel_on_disconnect,
            on_lease=on_lease,
            on_end=on_end,
        )

    for path, summary in (
        ("/txt2img", "Draw from text"),
        ("/img2img", "Draw from a picture"),
        ("/extra-single-image", "Enlarge a picture"),
        ("/extra-batch-images", "Enlarge pictures"),
        ("/png-info", "How a picture was made"),
    ):
        routes.add_api_route(path, draw, methods=["POST"], summary=summary, name=path.strip("/"))


def _add_progress(routes: APIRouter, manager: Manager, drawing: Drawing) -> None:
    @routes.get("/progress", summary="How far the newest request is")
    async def progress(request: Request) -> Any:  # noqa: ANN401 - a sidecar's JSON
        """As its sidecar tells; while its model is loaded, how far that is."""
        newest = drawing.newest
        model = newest[0] if newest else await checkpoint(manager, request)
        status = manager.pool.status(model)
        if newest and newest[1] is None and not status.state.is_serving:
            total = status.bytes_total
            share = f" {100 * status.bytes_read // total} %" if total else ""
            return _progress(0.01, f"loading {model}{share}", job=True)
        if newest and newest[1] and not newest[1].capabilities.progress:
            return _by_output(newest[1])
        call = Call("GET", "/sdapi/v1/progress", query=request.url.query)
        answer = await manager.sidecars.ask_loaded(model, call)
        return answer.json() if answer and answer.status == 200 else _progress(0.0, "")

    async def end(request: Request) -> dict[str, Any]:
        """The newest request's sidecar is told; one that is not with a sidecar yet is left alone."""
        newest = drawing.newest
        model, lease = newest or ("", None)
        if lease:
            answer = await manager.sidecars.ask_loaded(model, Call("POST", request.url.path))
            if (answer is None or answer.status >= 400) and request.url.path.endswith("/interrupt"):
                lease.cancel_hard()
            manager.metrics.cancels.labels("interrupt").inc()
        return {}

    routes.add_api_route("/interrupt", end, methods=["POST"], summary="End the newest request")
    routes.add_api_route("/skip", end, methods=["POST"], summary="Leave out its present picture")


def _progress(share: float, text: str, *, job: bool = False, step: int = 0, steps: int = 0) -> ProgressAnswer:
    moment = time.strftime("%Y%m%d%H%M%S")
    state = ProgressState(
        job="generating" if job else "",
        job_count=int(job),
        job_timestamp=moment,
        sampling_step=step,
        sampling_steps=steps,
    )
    return ProgressAnswer(progress=share, eta_relative=0.0, state=state, current_image=None, textinfo=text)


def _by_output(lease: Lease) -> ProgressAnswer:
    """For engines that tell their progress nowhere but on their output."""
    step, steps = last_step(lease) or (0, 0)
    share = max(0.01, step / steps) if steps else 0.01
    return _progress(share, "as the engine prints it", job=True, step=step, steps=steps)


def _add_models(routes: APIRouter, manager: Manager) -> None:
    @routes.get("/sd-models", summary="Models of the library")
    async def sd_models() -> list[dict[str, Any]]:
        """All of them, loaded or not; title and name are what /v1/models calls the id."""
        await manager.up_to_date()
        return await asyncio.to_thread(lambda: [_checkpoint(manager, m) for m in manager.library.models()])

    @routes.get("/options", summary="The settings")
    async def options(request: Request) -> dict[str, Any]:
        """The loaded model's, and which model is chosen."""
        model = await checkpoint(manager, request)
        answer = await manager.sidecars.ask_loaded(model, Call("GET", "/sdapi/v1/options"))
        known = answer.json() if answer and answer.status == 200 else {"samples_format": "png"}
        return {**known, "sd_model_checkpoint": model}

    @routes.post("/options", summary="Choose the model, change settings")
    async def set_options(request: Request) -> Any:  # noqa: ANN401 - a sidecar's JSON
        """`sd_model_checkpoint` counts for all requests that name no model; the rest is the sidecar's."""
        fields = parse_object(await request.body())
        model = await checkpoint(manager, request, fields.pop("sd_model_checkpoint", None))
        if fields:
            call = Call("POST", "/sdapi/v1/options", Body(fields))
            answer = await manager.sidecars.ask(model, call)
            answer.json()
        manager.checkpoint = model
        return None

    @routes.post("/unload-checkpoint", summary="Free the model's memory")
    async def unload(request: Request) -> dict[str, str]:
        """When its requests are done."""
        await manager.pool.unload(await checkpoint(manager, request))
        return {}

    @routes.post("/reload-checkpoint", summary="Load the model")
    async def reload(request: Request) -> dict[str, str]:
        """Waits until it is there."""
        async with WhileConnected(request.receive):
            await manager.pool.load(await checkpoint(manager, request))
        return {}

    async def refresh() -> None:
        """The library's folders are read anew."""
        await manager.rescan()

    for what in ("checkpoints", "vae", "loras", "embeddings"):
        routes.add_api_route(f"/refresh-{what}", refresh, methods=["POST"], summary=f"Look for {what} again")


def _checkpoint(manager: Manager, model: Model) -> dict[str, Any]:
    """A model as A1111 lists it; the sum is known of the store's files."""
    sha256 = manager.store.sum_of(model.path) or None
    return {
        "title": model.id,
        "model_name": model.id,
        "hash": sha256[:10] if sha256 else None,
        "sha256": sha256,
        "filename": str(model.path),
        "config": None,
    }


def _add_lists(routes: APIRouter, manager: Manager) -> None:
    @routes.get("/samplers", summary="Samplers")
    async def samplers() -> list[SamplerItem]:
        """`default` leaves the choice to the model."""
        return sampler_items()

    @routes.get("/schedulers", summary="Schedules of noise levels")
    async def schedulers() -> list[SchedulerItem]:
        """`automatic` leaves the choice to the model."""
        return scheduler_items()

    @routes.get("/memory", summary="Memory of the machine")
    async def memory() -> dict[str, Any]:
        """Bytes; cards by what sidecars hold there."""
        machine = psutil.virtual_memory()
        cards: dict[str, int] = {}
        for status in manager.pool.state():
            for device, count in status.memory.items():
                if device != "ram":
                    cards[device] = cards.get(device, 0) + count
        ram = {"free": machine.available, "used": machine.used, "total": machine.total}
        held = {name: {"used": used} for name, used in cards.items()}
        return {"ram": ram, "cuda": held or {"error": "unavailable"}}

    async def listed(request: Request) -> Response:
        """The loaded sidecar's list, else what is true of a model that is not loaded."""
        model = await checkpoint(manager, request)
        answer = await manager.sidecars.ask_loaded(model, Call("GET", request.url.path))
        if answer and answer.status == 200:
            return Response(answer.content, media_type="application/json")
        return JSONResponse(_LISTS[request.url.path.rpartition("/")[2]])

    for name in _LISTS:
        routes.add_api_route(f"/{name}", listed, summary=f"{name} of the loaded model", name=name)
