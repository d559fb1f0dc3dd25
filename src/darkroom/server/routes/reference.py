"""`GET /openapi.json`, and `/docs`: the same for people, from this server alone."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter
from starlette.responses import HTMLResponse, Response

from darkroom.server.service import Service

_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def router(service: Service) -> APIRouter:
    """The page; the document is the application's own."""
    routes = APIRouter()
    page = files("darkroom.server").joinpath("reference.html").read_text(encoding="utf-8")

    @routes.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache"})

    return routes
