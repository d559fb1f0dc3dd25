"""`GET /metrics`: figures for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import PlainTextResponse, Response

from darkroom.server.service import Service


def router(service: Service) -> APIRouter:
    """The route."""
    routes = APIRouter(tags=["server"])

    @routes.get("/metrics", summary="Figures for Prometheus", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Requests, the queue, loading, drawing, memory, in Prometheus' text format."""
        text = service.metrics.text(await service.memory())
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    return routes
