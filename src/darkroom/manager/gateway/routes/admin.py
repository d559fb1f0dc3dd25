"""What an administrator sees and does: the pool, settings, logs, keys."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from darkroom.api.errors import DarkroomError
from darkroom.api.events import PING, sse
from darkroom.manager.gateway.errors import as_gateway_error
from darkroom.manager.gateway.forward import WhileConnected
from darkroom.manager.gateway.keys import Scope
from darkroom.manager.gateway.views import pool_view
from darkroom.manager.model_settings import ModelSettings, Setting
from darkroom.manager.pool.state import as_json
from darkroom.manager.service import Manager

_TAIL = 200
_LOOK = 0.5
_QUIET = 15.0


class NewKey(BaseModel):
    """A key to be made."""

    name: str = Field(min_length=1, max_length=100)
    scopes: frozenset[Scope] = frozenset({Scope.IMAGES, Scope.JOBS_READ})
    rate: int | None = Field(None, ge=1, description="requests a minute")
    concurrency: int | None = Field(None, ge=1, description="requests at the same time")


def router(manager: Manager) -> APIRouter:
    """The routes; all of them need the scope `admin` where there are keys."""
    routes = APIRouter(prefix="/admin", tags=["admin"])
    _add_pool(routes, manager)
    _add_settings(routes, manager)
    _add_aliases(routes, manager)
    _add_keys(routes, manager)

    @routes.get("/logs/{model:path}", summary="What a model's process prints")
    async def logs(model: str, follow: bool = False, lines: Annotated[int, Query(ge=0)] = _TAIL) -> Response:
        """The last lines; with `follow`, those that come as well, until the client goes."""
        id = await manager.resolve(model)
        tail = manager.pool.logs(id)[-lines:] if lines else ()
        if not follow:
            return PlainTextResponse("".join(f"{line}\n" for line in tail))
        return StreamingResponse(_follow(manager.pool.log_file(id), tail), media_type="text/plain")

    return routes


def _add_pool(routes: APIRouter, manager: Manager) -> None:
    @routes.get("/pool", summary="The pool")
    async def pool() -> dict[str, Any]:
        """Every model that it knows of: state, port, memory, settings, the last failure with its tail."""
        return pool_view(manager)

    @routes.get("/pool/events", summary="What happens in the pool, as server-sent events")
    async def events() -> StreamingResponse:
        """First how everything is, then state, progress, memory, evicted, out_of_memory, failed, reaped."""

        async def pieces() -> AsyncIterator[bytes]:
            manager.metrics.sse_clients.inc()
            try:
                async for event in manager.pool.events():
                    data = {"model": as_json(event.status), "reason": event.reason}
                    yield sse(event.type, data, event.id)
            finally:
                manager.metrics.sse_clients.dec()

        return StreamingResponse(pieces(), media_type="text/event-stream")

    @routes.post("/models/{model:path}/load", summary="Load a model")
    async def load(
        request: Request, model: str, wait: bool = False, keep_alive: str | None = None
    ) -> Response:
        """At once 202; with `wait`, when it is done; who accepts event streams gets `progress` meanwhile."""
        id = await manager.resolve(model)
        seconds = manager.keep_alive(keep_alive)
        if wait and "text/event-stream" in request.headers.get("Accept", ""):
            return StreamingResponse(_load(manager, id, seconds), media_type="text/event-stream")
        if wait:
            async with WhileConnected(request.receive):
                return JSONResponse(as_json(await manager.pool.load(id, seconds)))
        manager.begin_load(id, seconds)
        return JSONResponse(as_json(manager.pool.status(id)), 202)

    @routes.post("/models/{model:path}/unload", summary="Unload a model")
    async def unload(model: str, force: bool = False) -> dict[str, Any]:
        """When its requests are done; with `force` at once."""
        id = await manager.resolve(model)
        await manager.pool.unload(id, force=force)
        return as_json(manager.pool.status(id))

    @routes.post("/models/{model:path}/pin", summary="Keep a model loaded")
    async def pin(model: str, pinned: bool = True) -> dict[str, Any]:
        """Never unloaded to make room, nor when it is idle; `pinned=false` undoes it."""
        id = await manager.resolve(model)
        await manager.pool.pin(id, pinned)
        return as_json(manager.pool.status(id))

    @routes.post("/models/{model:path}/pardon", summary="Forget a model's crashes and its memory rung")
    async def pardon(model: str) -> dict[str, Any]:
        """Ends its quarantine as well."""
        id = await manager.resolve(model)
        await manager.pool.pardon(id)
        return as_json(manager.pool.status(id))


def _add_settings(routes: APIRouter, manager: Manager) -> None:
    @routes.get("/settings/{model:path}", summary="A model's settings")
    async def settings(model: str) -> dict[str, Any]:
        """Each with what was asked for, what is in force, and why the two differ."""
        return settings_view(manager, await manager.resolve(model))

    @routes.patch("/settings/{model:path}", summary="Change a model's settings")
    async def change(model: str, changes: Annotated[dict[str, Any], Body()]) -> dict[str, Any]:
        """null or an empty text means the default again. They count from the next load, `pin` at once."""
        id = await manager.resolve(model)
        settings = manager.change_settings(id, changes)
        if "pin" in changes:
            await manager.pool.pin(id, settings.pin)
        return settings_view(manager, id)


def settings_view(manager: Manager, model: str) -> dict[str, Any]:
    """Requested and engaged values, and what the settings are called."""
    own = manager.settings.get(model)
    requested = own.model_dump(mode="json")
    status = manager.pool.status(model)
    described = {name: field.description for name, field in ModelSettings.model_fields.items()}
    loaded = status.state.is_serving
    given = {"engine": str(manager.config.engine) if manager.config.engine else None}

    def view(name: str) -> dict[str, Any]:
        wanted = _plain(requested[name])
        wanted = None if wanted == "" else wanted
        match loaded, status.settings.get(name):
            case True, Setting() as found:
                pending = (given.get(name) if wanted is None else wanted) != found.requested
                engaged, reason = found.engaged, found.reason
            case True, _:  # pin
                pending, engaged, reason = False, status.pinned, ""
            case _:
                pending, engaged, reason = False, None, "the model is not loaded"
        return {
            "requested": wanted,
            "engaged": engaged,
            "reason": "counts from the next load" if pending else reason,
            "description": described[name],
            "pending": pending,
        }

    return {
        "model": model,
        "loaded": loaded,
        "saved": own.model_dump(mode="json", exclude_defaults=True),
        "settings": {name: view(name) for name in requested},
    }


def _plain(value: Any) -> str | int | float | bool | None:  # noqa: ANN401 - JSON
    return " ".join(map(str, value)) if isinstance(value, list) else value


def _add_aliases(routes: APIRouter, manager: Manager) -> None:
    @routes.get("/aliases", summary="Other names of models")
    async def aliases() -> dict[str, str]:
        """Those of config.yaml, and those that were given here."""
        return {**manager.library.aliases, **manager.config.aliases}

    @routes.put("/aliases/{alias}", summary="Give a model another name")
    async def put(alias: str, model: str) -> dict[str, str]:
        """It is kept. One in config.yaml goes before it."""
        found = await manager.named(model)
        manager.library.set_alias(alias, found.id)
        return {alias: found.id}

    @routes.delete("/aliases/{alias}", summary="Take a name back")
    async def drop(alias: str) -> dict[str, str]:
        """What is left."""
        manager.library.set_alias(alias, None)
        return manager.library.aliases


def _add_keys(routes: APIRouter, manager: Manager) -> None:
    @routes.get("/keys", summary="API keys")
    async def keys() -> dict[str, Any]:
        """Without their secrets, which are kept nowhere."""
        return {"object": "list", "data": [key.public() for key in manager.keys.all()]}

    @routes.post("/keys", status_code=201, summary="Make a key")
    async def create(body: NewKey) -> dict[str, Any]:
        """`key` is shown now and never again."""
        key, text = manager.keys.create(body.name, body.scopes, rate=body.rate, concurrency=body.concurrency)
        return {**key.public(), "key": text}

    @routes.delete("/keys/{id}", summary="Revoke a key")
    async def revoke(id: str) -> dict[str, Any]:
        """It is refused from now on."""
        return {**manager.keys.revoke(id).public(), "deleted": True}


async def _load(manager: Manager, model: str, keep_alive: float | None) -> AsyncIterator[bytes]:
    """Progress of a load until it is done; a client that goes away does not stop it."""
    task = manager.begin_load(model, keep_alive)
    events = aiter(manager.pool.events())
    coming: asyncio.Future[Any] | None = None
    while not task.done():
        coming = coming or asyncio.ensure_future(anext(events))
        await asyncio.wait({task, coming}, timeout=_QUIET, return_when=asyncio.FIRST_COMPLETED)
        if coming.done():
            event, coming = coming.result(), None
            if event.status.model == model:
                yield sse("progress", as_json(event.status))
        elif not task.done():
            yield PING
    if coming:
        coming.cancel()
    try:
        task.result()
        yield sse("ready", as_json(manager.pool.status(model)))
    except DarkroomError as error:
        yield sse("error", as_gateway_error(error).error.body())


async def _follow(file: Path, tail: tuple[str, ...]) -> AsyncIterator[str]:
    for line in tail:
        yield f"{line}\n"
    at = _length(file)
    while True:
        await asyncio.sleep(_LOOK)
        length = _length(file)
        if length < at:
            at = 0  # a new file
        if length > at:
            with file.open("rb") as stream:
                stream.seek(at)
                data = stream.read(length - at)
            at = length
            yield data.decode("utf-8", "replace")


def _length(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
