"""`GET /health`: answered from the first moment on, without a key."""

from __future__ import annotations

from fastapi import APIRouter

from darkroom.api.health import Health
from darkroom.server.service import Service


def router(service: Service) -> APIRouter:
    """The route."""
    routes = APIRouter(tags=["server"])

    @routes.get("/health", summary="How the server is")
    async def health() -> Health:
        """`loading` with the bytes read so far, `ok`, or `error` with what is wrong with the model."""
        return service.health()

    return routes
