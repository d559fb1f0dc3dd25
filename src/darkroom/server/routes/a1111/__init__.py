"""A1111's API: everything under /sdapi/v1."""

from __future__ import annotations

from fastapi import APIRouter

from darkroom.server.routes.a1111 import catalogue, extras, generation, progress, settings
from darkroom.server.service import Service


def router(service: Service) -> APIRouter:
    """All of its routes."""
    routes = APIRouter(prefix="/sdapi/v1", tags=["a1111"])
    known = settings.Settings(service)
    for part in (
        generation.router(service, known),
        extras.router(),
        progress.router(service),
        settings.router(known),
        catalogue.router(service, known),
    ):
        routes.include_router(part)
    return routes
