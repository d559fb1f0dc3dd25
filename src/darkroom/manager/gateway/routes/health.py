"""Whether the manager lives, takes work, and what it has counted."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse, Response

from darkroom.api.version import __version__
from darkroom.manager.service import Manager


def router(manager: Manager) -> APIRouter:
    """The routes; only /metrics needs a key."""
    routes = APIRouter(tags=["health"])

    @routes.get("/healthz", summary="Whether the manager lives")
    async def healthz() -> dict[str, str]:
        """200 as long as it answers at all."""
        return {"status": "ok", "version": __version__}

    @routes.get("/readyz", summary="Whether it takes work")
    async def readyz() -> JSONResponse:
        """503 until the library has been read once, and from the moment that it stops."""
        status = "ready" if manager.is_ready else "stopping" if manager.stopping else "starting"
        return JSONResponse({"status": status}, 200 if manager.is_ready else 503)

    @routes.get("/metrics", summary="Figures for Prometheus")
    async def metrics() -> Response:
        """The text format."""
        return Response(manager.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return routes
