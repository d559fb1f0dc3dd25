"""`GET /`: the page that people see."""

from __future__ import annotations

import os
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse, PlainTextResponse, Response

from darkroom.api.errors import RequestError
from darkroom.server.errors import ApiError
from darkroom.server.service import Service


def check_page(path: Path | None) -> None:
    """Raises RequestError for a --serve-html-path that cannot be served."""
    if path is None:
        return
    if not path.is_file():
        what = "is no file" if path.exists() else "does not exist"
        raise RequestError(f"--serve-html-path: '{path}' {what}; expected the path of an HTML file")
    if not os.access(path, os.R_OK):
        raise RequestError(f"--serve-html-path: '{path}' cannot be read (permission denied)")


def router(service: Service) -> APIRouter:
    """The route."""
    routes = APIRouter()

    @routes.get("/", include_in_schema=False)
    async def page() -> Response:
        path = service.options.serve_html_path
        if path is None:
            return PlainTextResponse("Stable Diffusion Server is running")
        if not path.is_file():
            raise ApiError(f"--serve-html-path: '{path}' is gone", status=500)
        return FileResponse(path, media_type="text/html", headers={"Cache-Control": "no-cache"})

    return routes
