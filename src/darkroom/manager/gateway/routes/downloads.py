"""Downloads into the store: begun, watched, paused, cancelled."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import StreamingResponse

from darkroom.api.events import sse
from darkroom.manager.gateway.views import download_view, garbage_view
from darkroom.manager.pulling import start_pull
from darkroom.manager.service import Manager


class Pull(BaseModel):
    """What to fetch."""

    source: str = Field(description="a starter model's name, hf:owner/repo/file, or a URL")
    role: str = Field("model", description="what the file is, where its source does not tell")
    sha256: str = Field("", pattern=r"^([0-9a-f]{64})?$", description="refuse anything else")
    companions: bool = Field(False, description="of a starter model, fetch what it needs as well")


def router(manager: Manager) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/v1", tags=["downloads"])

    @routes.get("/downloads", summary="Downloads")
    async def downloads() -> dict[str, Any]:
        """Those of this run, and those that an earlier one did not finish."""
        return {"object": "list", "data": [download_view(each) for each in manager.store.downloads()]}

    @routes.post("/downloads", status_code=202, summary="Fetch a model or another file")
    async def pull(body: Pull) -> dict[str, Any]:
        """Joins a download of the same file that is under way."""
        started = start_pull(manager, body.source, body.role, body.sha256, companions=body.companions)
        return {"object": "list", "data": [download_view(each) for each in started]}

    @routes.get("/downloads/{id}", summary="One download")
    async def one(id: str) -> dict[str, Any]:
        return download_view(manager.store.download(id))

    @routes.get("/downloads/{id}/events", summary="A download's progress as server-sent events")
    async def events(id: str) -> StreamingResponse:
        """`progress` until it is over."""
        download = manager.store.download(id)

        async def pieces() -> AsyncIterator[bytes]:
            async for _ in download.events():
                yield sse("progress", download_view(download))

        return StreamingResponse(pieces(), media_type="text/event-stream")

    @routes.post("/downloads/{id}/pause", summary="Stop for now")
    async def pause(id: str) -> dict[str, Any]:
        """What is there is kept."""
        download = manager.store.download(id)
        await download.pause()
        return download_view(download)

    @routes.post("/downloads/{id}/resume", summary="Go on")
    async def resume(id: str) -> dict[str, Any]:
        """From where it stopped."""
        download = manager.store.download(id)
        await download.resume()
        return download_view(download)

    @routes.delete("/downloads/{id}", summary="Stop for good")
    async def cancel(id: str) -> dict[str, Any]:
        """What is there of it is dropped."""
        download = manager.store.download(id)
        await manager.store.cancel(download)
        return download_view(download)

    @routes.get("/catalogue", summary="Models to begin with")
    async def catalogue() -> dict[str, Any]:
        """What `source` of POST /v1/downloads knows by name."""
        data = [
            {
                "id": model.id,
                "title": model.title,
                "family": model.family,
                "size": model.file.bytes,
                "licence": model.file.licence,
                "gated": model.file.gated,
                "note": model.note or None,
                "source": model.file.source,
            }
            for model in manager.library.catalogue.models
        ]
        return {"object": "list", "data": data}

    @routes.post("/store/gc", summary="Drop files of the store that nothing uses")
    async def gc(dry_run: bool = True, purge: bool = False) -> dict[str, Any]:
        """By default only what would be dropped. purge: at once, instead of after a week."""
        return garbage_view(await manager.collect_garbage(dry_run, purge=purge))

    return routes
